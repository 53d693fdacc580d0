"""Plain vision transformers behind a stem of ours: what a pyramid inherits from test_neighbours.py, as far as it goes.

Their parameters and MACs are held there with all others.
"""

import pytest
import torch
from exporting import exports
from timm.models.vision_transformer import VisionTransformer

from dualtoken.backbone import VARIANTS, PlainConfig, count_macs, create_model
from dualtoken.backbone.plain import positions
from dualtoken.backbone.table import models_table
from dualtoken.errors import ConfigError

NAMES = [name for name, variant in VARIANTS.items() if isinstance(variant.config, PlainConfig)]
SMALL = {"depth": 2, "channels": 32, "heads": 2, "num_classes": 5}


@pytest.fixture(params=NAMES[:1])
def name(request) -> str:
    return request.param


def small(name: str, *size: int, **kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name, img_size=size, **SMALL | kwargs)


def images(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def test_every_parameter_but_the_sines_learns_checkpointed_or_not(name):
    gradients = []
    for checkpointed in (False, True):
        model = small(name, 64, 64).train()
        model.set_grad_checkpointing(checkpointed)
        torch.manual_seed(0)  # of the dropout in the stem
        model(images(64, 64)).square().mean().backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    assert [key for key, gradient in gradients[0].items() if gradient is None] == ["pos_embed"]
    for key, gradient in gradients[0].items():
        if gradient is not None:
            assert gradient.isfinite().all(), key
            assert gradient.abs().sum() > 0, key
            torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_any_batch_and_bf16(name, size):
    model = small(name, *size).eval()
    batch = images(*size, batch=3)
    with torch.inference_mode():
        together = model(batch)
        alone = torch.cat([model(image[None]) for image in batch])
        half = model.bfloat16()(batch.bfloat16())
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert (half - together).abs().max() < 0.1 * together.abs().max()


def test_timms_contract(name):
    model = small(name, 96, 64).eval()
    assert type(model) is VisionTransformer
    batch = images(96, 64)
    with torch.inference_mode():
        maps = small(name, 96, 64, features_only=True).eval()(batch)
        assert [tuple(one.shape) for one in maps] == [(2, 32, 6, 4)] * 2
        model.reset_classifier(7)
        assert model(batch).shape == (2, 7)
        assert small(name, 96, 64, in_chans=1).eval()(batch[:, :1]).shape == (2, 5)


def test_positions_are_sines_of_their_number():
    found = positions(3, 4)
    number = torch.arange(3, dtype=torch.float64)
    expected = [number.sin(), number.cos(), (number / 100).sin(), (number / 100).cos()]
    torch.testing.assert_close(found, torch.stack(expected, 1))


def test_the_table_says_that_they_take_one_size():
    assert [row["model"] for row in models_table() if row["one_size"]] == NAMES


def test_tokens_are_reduced_in_them_as_in_timms(name):
    model = small(name, 64, 64, depth=4, reduction="evit", keep=0.5)
    assert model(images(64, 64)).shape == (2, 5)
    assert count_macs(model, (64, 64)) < count_macs(small(name, 64, 64, depth=4), (64, 64))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"img_size": 100}, "expected multiples of 16"),
        ({"stem": "t2t_6"}, "Did you mean 't2t_16'"),
        ({"heads": 3}, "a multiple of its 3 heads"),
    ],
)
def test_impossible_settings_say_what_was_expected(name, kwargs, said):
    with pytest.raises(ConfigError, match=said):
        create_model(name, **SMALL | kwargs)


def test_images_of_another_size_are_refused(name):
    with pytest.raises(ConfigError, match="Images of 64 x 96 came, expected 64 x 64") as error:
        small(name, 64, 64)(images(64, 96))
    assert "img_size=(64, 96)" in error.value.hint


@pytest.mark.slow
def test_onnx_and_openvino_answer_the_same(name, tmp_path):
    exports(small(name, 64, 96), tmp_path / "model.onnx", (64, 96))


@pytest.mark.slow
def test_the_stem_exports_before_a_pyramid(tmp_path):
    torch.manual_seed(0)
    sizes = {"channels": (16, 32, 64, 128), "depths": (1, 1, 2, 1), "heads": (1, 2, 4, 8), "num_classes": 5}
    exports(create_model("lsnet_t", stem="t2t", **sizes), tmp_path / "model.onnx", (64, 96))


@pytest.mark.slow
def test_the_published_size_exports(name, tmp_path):
    exports(create_model(name), tmp_path / "model.onnx", (224, 224))


@pytest.mark.slow
def test_compiles_without_graph_breaks(name):
    model = small(name, 64, 64).eval()
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(images(64, 64)), model(images(64, 64)), rtol=1e-3, atol=1e-4)
