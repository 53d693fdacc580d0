"""Fewer tokens in plain vision transformers: what they cost is what is published, and what they answer stays sound."""

import numpy as np
import pytest
import torch

from dualtoken.backbone import count_macs, create_model
from dualtoken.backbone.reduction import REDUCTIONS
from dualtoken.errors import ConfigError

NAME = "vit_small_patch8_224"
SIZES = {"img_size": 64, "depth": 4, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
# DeiT-S: reduction, share, 10^9 MACs as published; ToMe's share is what 13 merged tokens a block leave
PUBLISHED = [("evit", 0.7, 3.0), ("evit", 0.5, 2.3), ("tome", 1 - 13 * 12 / 196, 2.7)]


def small(**kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(NAME, **SIZES | kwargs)


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("reduction", "keep", "gmacs"), PUBLISHED)
def test_the_cost_is_what_is_published(reduction, keep, gmacs):
    with torch.device("meta"):
        model = create_model("deit_small_patch16_224", reduction=reduction, keep=keep)
    assert count_macs(model) / 1e9 == pytest.approx(gmacs, abs=0.05)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_tokens_kept_is_the_whole_network_with_its_weights(reduction):
    whole, model = small().eval(), small(reduction=reduction, keep=1).eval()
    model.load_state_dict(whole.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(model(images()), whole(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_are_finite_and_images_do_not_mix(reduction):
    model = small(reduction=reduction, keep=0.5)
    assert count_macs(model, (64, 64)) < 0.9 * count_macs(small(), (64, 64))
    model(images()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    batch = images(3)
    with torch.inference_mode():
        together = model.eval()(batch)
        alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_evit_keeps_what_the_class_token_looks_at_and_weighs_the_rest():
    block = small(reduction="evit", keep=0.5).blocks[1]
    tokens = torch.arange(5.0).reshape(1, 5, 1).repeat(1, 1, 2)
    look = torch.zeros(1, 1, 5, 5)
    look[..., 0, :] = torch.tensor([0.0, 0.1, 0.4, 0.2, 0.3])
    kept, _ = block.reduce(tokens, None, look, tokens[:, None])
    torch.testing.assert_close(kept[0, :, 0], torch.tensor([0.0, 2.0, 4.0, 3 * 0.2 + 1 * 0.1]))


def test_tome_merges_the_most_alike_by_how_many_they_stand_for():
    block = small(reduction="tome", keep=0.5).blocks[0]
    block.merged = 1
    tokens = torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0]).reshape(1, 5, 1)
    keys = torch.tensor([[1.0, 1.0], [1, 0], [0, 1], [0.1, 1], [-1, 1]])[None, None]  # places 2 and 3 are most alike
    merged, size = block.reduce(tokens, torch.tensor([1.0, 1, 1, 3, 1]).reshape(1, 5, 1), torch.empty(0), keys)
    assert merged[0, :, 0].tolist() == [9, 4, 1, (2 + 3 * 3) / 4]
    assert size[0, :, 0].tolist() == [1, 1, 1, 4]


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_reduced_network_exports(reduction, tmp_path):
    import onnxruntime
    import openvino

    from dualtoken.export.formats.onnx import export_network

    model, path = small(reduction=reduction, keep=0.5).eval(), tmp_path / "model.onnx"
    export_network(model, path, (64, 64))
    with torch.inference_mode():
        expected = model(images()).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for got in (session.run(None, {"images": images().numpy()})[0], compiled(images().numpy())[0]):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        (NAME, {"reduction": "evitt"}, "Did you mean 'evit'"),
        (NAME, {"reduction": "evit", "keep": 1.5}, "expected a share above 0"),
        ("dualtoken_vit_t_mix", {"reduction": "evit"}, "expected a plain vision transformer"),
        ("vit_tiny_patch16_224", {"reduction": "evit", "global_pool": "avg"}, "answers by one class token"),
    ],
)
def test_mistakes(name, kwargs, said):
    with pytest.raises(ConfigError) as error, torch.device("meta"):
        create_model(name, **kwargs)
    assert said in f"{error.value} {error.value.hint}"
