"""The training transform: sizes, normalisation, each switch has an effect, impossible values are refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import invent_image
from dualtoken.data.loading import seeded
from dualtoken.data.transforms import training_transform
from dualtoken.errors import ConfigError
from dualtoken.preprocess import Preprocessing

PREPROCESSING = Preprocessing(image_size=(16, 24), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))
PLAIN: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.5, 1.5), "hflip": 0.0}


def test_size_and_type() -> None:
    for size in ((5, 90), (1, 1), (300, 200)):
        tensor = training_transform(PREPROCESSING)(invent_image(0, 0, size))
        assert isinstance(tensor, torch.Tensor)
        assert (tensor.shape, tensor.dtype) == ((3, 16, 24), torch.float32)


def test_without_augmentation_it_is_the_evaluation_preprocessing() -> None:
    preprocessing = Preprocessing(image_size=(16, 24), crop_pct=1.0, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))
    image = invent_image(0, 0, (48, 32))
    tensor = training_transform(preprocessing, **PLAIN)(image)
    np.testing.assert_allclose(np.asarray(tensor), preprocessing(image), atol=1e-5)


@pytest.mark.parametrize(
    "option",
    [
        {"scale": (0.1, 0.3)},
        {"ratio": (0.5, 0.5)},
        {"hflip": 1.0},
        {"rand_augment": "rand-m9-p1-mstd0.5-inc1"},
        {"color_jitter": 0.8},
        {"random_erasing": 1.0},
        {"rand_augment": "rand-m0-p0", "color_jitter": 0.8},
    ],
)
def test_each_switch_has_an_effect(option: dict[str, Any]) -> None:
    image = invent_image(0, 0, (48, 32))
    with seeded(0):
        plain = training_transform(PREPROCESSING, **PLAIN)(image)
        changed = training_transform(PREPROCESSING, **(PLAIN | option))(image)
    assert not torch.allclose(torch.as_tensor(plain), torch.as_tensor(changed))


def test_rand_augment_at_full_strength_never_fails() -> None:
    transform = training_transform(PREPROCESSING, rand_augment="rand-m10-n6-p1-inc1")
    image = invent_image(0, 0)
    for seed in range(60):
        with seeded(seed):
            tensor = torch.as_tensor(transform(image))
        assert tensor.shape == (3, *PREPROCESSING.image_size)
        assert tensor.isfinite().all()


def test_grey_models_get_one_channel() -> None:
    grey = Preprocessing(image_size=(16, 16), crop_pct=1.0, mean=(0.5,), std=(0.25,))
    image = invent_image(0, 0, (16, 16))
    options: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0}
    tensor = training_transform(grey, **options)(image)
    assert tensor.shape == (1, 16, 16)
    np.testing.assert_allclose(np.asarray(tensor), grey(image), atol=0.02)
    assert training_transform(grey, rand_augment="rand-m9-inc1")(image).shape == (1, 16, 16)


def test_it_travels_to_spawned_workers() -> None:
    transform = training_transform(PREPROCESSING, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5)
    again = pickle.loads(pickle.dumps(transform))
    image = Image.new("RGB", (20, 20), (9, 99, 199))
    results = []
    for one in (transform, again):
        with seeded(4):
            results.append(one(image))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"rand_augment": "augmix-m3"}, "rand_augment is 'augmix-m3'"),
        ({"rand_augment": "rand-z9"}, "rand_augment is 'rand-z9'"),
        ({"rand_augment": "rand-mfoo"}, "rand_augment"),
        ({"hflip": 1.5}, "hflip is 1.5"),
        ({"random_erasing": -1}, "random_erasing is -1"),
        ({"scale": (0.5, 0.1)}, "scale is"),
        ({"scale": (0, 1)}, "scale is"),
        ({"ratio": (2, 1)}, "ratio is"),
    ],
)
def test_impossible_values(option: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        training_transform(PREPROCESSING, **option)
