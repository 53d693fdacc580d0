"""Batches: the same bits for any number of workers and any point of resuming, and bad files as themselves."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import MakeImageFolder
from dualtoken.data import (
    EpochSampler,
    ImageDataset,
    Samples,
    evaluation_loader,
    find_data,
    training_loader,
    training_transform,
)
from dualtoken.data.loading import _prepare_worker, seeded, usable_workers
from dualtoken.errors import ConfigError, ImageError
from dualtoken.preprocess import Preprocessing

PREPROCESSING = Preprocessing(image_size=(16, 24))


@pytest.fixture
def samples(make_image_folder: MakeImageFolder) -> Samples:
    root = make_image_folder(classes=("a", "b", "c"), per_class=7, size=24)
    return find_data(root, val_fraction=0).splits["all"]


def drawn(image: Image.Image) -> Tensor:
    """A transform that is nothing but randomness, from each of the three generators."""
    return torch.tensor([random.random(), float(np.random.rand()), float(torch.rand(()))]).view(3, 1, 1)


def batches(samples: Samples, **options: object) -> list[tuple[Tensor, ...]]:
    options = {"batch_size": 4, "workers": 0, "transform": drawn} | options
    return list(training_loader(samples, **options))  # type: ignore[arg-type]


def same(first: list[tuple[Tensor, ...]], second: list[tuple[Tensor, ...]]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_evaluation_gives_every_image_once_in_order(samples: Samples) -> None:
    loader = evaluation_loader(samples, PREPROCESSING, batch_size=8, workers=0)
    parts = list(loader)
    images, labels, indices = (torch.cat(part) for part in zip(*parts, strict=True))
    assert (images.shape, images.dtype) == ((21, 3, 16, 24), torch.float32)
    assert (labels.dtype, indices.dtype) == (torch.int64, torch.int64)
    assert indices.tolist() == list(range(21))
    assert labels.tolist() == samples.labels.tolist()
    np.testing.assert_array_equal(images[9].numpy(), PREPROCESSING(samples.open(9)))
    assert len(loader) == len(parts) == 3


def test_evaluation_is_the_same_with_workers(samples: Samples) -> None:
    alone, together = (
        list(evaluation_loader(samples, PREPROCESSING, batch_size=8, workers=workers)) for workers in (0, 2)
    )
    assert same(alone, together)


def test_augmentation_is_the_same_with_any_number_of_workers(samples: Samples) -> None:
    transform = training_transform(PREPROCESSING, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5)
    alone = batches(samples, transform=transform)
    assert same(alone, batches(samples, transform=transform, workers=1))
    assert same(alone, batches(samples, transform=transform, workers=2))


def test_resuming_in_the_middle_gives_the_rest(samples: Samples) -> None:
    whole = batches(samples, seed=3, epoch=2)
    assert same(whole[3:], batches(samples, seed=3, epoch=2, start_batch=3))


def test_augmentation_belongs_to_the_image_and_not_to_its_batch(samples: Samples) -> None:
    def by_index(size: int) -> dict[int, list[float]]:
        parts = batches(samples, batch_size=size, drop_last=False)
        return {int(i): image.flatten().tolist() for images, _, indices in parts for i, image in zip(indices, images)}  # noqa: B905

    assert by_index(4) == by_index(5)
    assert len(by_index(4)) == 21


def test_seed_and_epoch_have_an_effect(samples: Samples) -> None:
    first = torch.cat([images for images, *_ in batches(samples)])
    for other in ({"seed": 1}, {"epoch": 1}):
        assert not torch.equal(first, torch.cat([images for images, *_ in batches(samples, **other)]))


def test_a_worker_outlives_the_sigterm_that_all_of_a_job_get(samples: Samples) -> None:
    loader = evaluation_loader(samples, PREPROCESSING, batch_size=2, workers=1)
    loaded = iter(loader)
    next(loaded)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGTERM)
    assert sum(len(rows) for _, _, rows in loaded) == len(samples) - 2


def test_a_worker_whose_run_was_killed_as_it_began_ends(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")

    def worker(run: int, note: Path) -> None:
        while os.getppid() == run:
            time.sleep(0.01)
        note.write_text("begun")
        _prepare_worker(0)
        note.write_text("orphan")

    def run() -> None:
        context.Process(target=worker, args=(os.getpid(), tmp_path / "note")).start()
        os.kill(os.getpid(), signal.SIGKILL)

    killed = context.Process(target=run)
    killed.start()
    killed.join()
    time.sleep(0.5)
    assert (tmp_path / "note").read_text() == "begun"


def test_set_epoch_reaches_living_workers(samples: Samples) -> None:
    loader = training_loader(samples, drawn, batch_size=4, workers=1)
    first = list(loader)
    next(iter(loader))  # an epoch that is broken off must not spill into the next
    loader.set_epoch(1, start_batch=2)
    assert len(loader) == 3
    assert same(list(loader), batches(samples, epoch=1)[2:])
    loader.set_epoch(0)
    assert same(list(loader), first)


def test_loading_leaves_the_generators_alone(samples: Samples) -> None:
    def state() -> tuple[object, ...]:
        return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()

    before = state()
    batches(samples)
    list(evaluation_loader(samples, PREPROCESSING, batch_size=4, workers=0))
    assert state() == before
    with pytest.raises(ValueError), seeded(1):
        raise ValueError
    assert state() == before


def test_sampler_gives_every_image_once() -> None:
    sampler = EpochSampler(10, 4, drop_last=False)
    assert [len(batch) for batch in sampler] == [4, 4, 2]
    assert sorted(index for batch in sampler for index, _ in batch) == list(range(10))
    assert len({seed for batch in sampler for _, seed in batch}) == 10
    assert [len(batch) for batch in EpochSampler(10, 4)] == [4, 4]


def test_data_smaller_than_a_batch_gives_one_batch() -> None:
    assert [len(batch) for batch in EpochSampler(3, 64)] == [3]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("length", [12, 13, 14])
def test_ranks_share_the_images_evenly(length: int, drop_last: bool) -> None:
    ranks = [list(EpochSampler(length, 3, seed=5, drop_last=drop_last, rank=r, world_size=3)) for r in range(3)]
    assert len({tuple(map(len, batches)) for batches in ranks}) == 1
    seen = [index for batches in ranks for batch in batches for index, _ in batch]
    assert len(seen) == len(set(seen)) == (9 if drop_last else 12)
    single = dict(draw for batch in EpochSampler(length, 2, seed=5, drop_last=False) for draw in batch)
    assert all(single[index] == seed for batches in ranks for batch in batches for index, seed in batch)


def test_too_many_ranks() -> None:
    with pytest.raises(ConfigError, match="2 images cannot be shared by 3"):
        EpochSampler(2, 1, world_size=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_broken_since_the_scan_raises_its_own_error(workers: int, samples: Samples) -> None:
    Path(samples.path(5)).write_bytes(b"a text now")
    with pytest.raises(ImageError) as caught:
        list(evaluation_loader(samples, PREPROCESSING, batch_size=4, workers=workers))
    text = str(caught.value)
    assert samples.path(5) in text
    assert "--on-bad-image skip" in text
    assert "Traceback" not in text
    assert "worker" not in text


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_and_listed(workers: int, samples: Samples) -> None:
    for index in (0, 1, 5):
        Path(samples.path(index)).unlink()
    loader = evaluation_loader(samples, PREPROCESSING, batch_size=2, workers=workers, on_bad_image="skip")
    for _ in range(2):
        parts = list(loader)
        assert all(len(labels) for _, labels, _ in parts)
        assert [i for *_, indices in parts for i in indices.tolist()] == [i for i in range(21) if i not in (0, 1, 5)]
    assert [path for path, _ in loader.bad_images] == [samples.path(i) for i in (0, 1, 5)]
    assert all("no file" in reason for _, reason in loader.bad_images)


def test_dataset_by_itself(samples: Samples) -> None:
    dataset = pickle.loads(pickle.dumps(ImageDataset(samples, training_transform(PREPROCESSING))))
    assert len(dataset) == 21
    first, again, other = dataset[3, 1], dataset[3, 1], dataset[3, 2]
    assert first.target == samples.labels[3]
    assert first.row == 3
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    Path(samples.path(3)).unlink()
    with pytest.raises(ImageError):
        dataset[3]


def worker_state(image: Image.Image) -> Tensor:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return torch.tensor([float(ignored), float(torch.get_num_threads())])


def test_workers_leave_ctrl_c_to_the_main_process_and_use_one_thread(samples: Samples) -> None:
    images, _, _ = next(iter(evaluation_loader(samples, worker_state, batch_size=4, workers=1)))
    assert images[0].tolist() == [1, 1]


def test_number_of_workers() -> None:
    assert 1 <= usable_workers(None) <= 8
    assert usable_workers(0) == 0
    with pytest.raises(ConfigError, match="workers is -1"):
        usable_workers(-1)
