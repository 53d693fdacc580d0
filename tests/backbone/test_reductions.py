"""Fewer tokens in plain vision transformers: what they cost is what is published, and what they answer stays sound."""

import numpy as np
import pytest
import torch

from dualtoken.backbone import count_macs, create_model
from dualtoken.backbone.reductions import REDUCTIONS, Beside, added_weights
from dualtoken.backbone.reductions.gtp import _graph
from dualtoken.backbone.reductions.mctf import Fusion
from dualtoken.errors import ConfigError

NAME = "vit_small_patch8_224"
SIZES = {"img_size": 64, "depth": 4, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
# DeiT-T and DeiT-S: share, 10^9 MACs as published; ToMe's and MCTF's shares are what 13 and 16 tokens a block
# leave
PUBLISHED = [
    ("evit", "small", 0.7, 3.0),
    ("evit", "small", 0.5, 2.3),
    ("tome", "small", 1 - 13 * 12 / 196, 2.7),
    ("mctf", "tiny", 1 - 16 * 11 / 196, 0.71),
    ("mctf", "small", 1 - 16 * 11 / 196, 2.6),
    ("diffrate", "tiny", 0.8 / 1.258, 0.8),
    ("diffrate", "small", 2.9 / 4.608, 2.9),
]
TRAINED = ("sit", "sparsifiner")  # have weights of their own
SAME = ("sparsifiner",)  # cost as much


def small(**kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    depth = {"depth": 12} if kwargs.get("reduction") == "diffrate" else {}
    return create_model(NAME, **SIZES | depth | kwargs)


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("reduction", "size", "keep", "gmacs"), PUBLISHED)
def test_the_cost_is_what_is_published(reduction, size, keep, gmacs):
    with torch.device("meta"):
        model = create_model(f"deit_{size}_patch16_224", reduction=reduction, keep=keep)
    assert count_macs(model) / 1e9 == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_tokens_kept_is_the_whole_network_with_its_weights(reduction):
    model = small(reduction=reduction, keep=1).eval()
    whole = small(depth=len(model.blocks)).eval()
    model.load_state_dict(whole.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(model(images()), whole(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_are_finite_and_images_do_not_mix(reduction):
    model = small(reduction=reduction, keep=0.5)
    if reduction not in SAME:
        assert count_macs(model, (64, 64)) < 0.9 * count_macs(small(depth=len(model.blocks)), (64, 64))
    model(images()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    batch = images(3)
    with torch.inference_mode():
        together = model.eval()(batch)
        alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights_beyond_the_whole_networks_are_known(reduction):
    model = small(reduction=reduction, keep=0.5)
    whole = small(depth=len(model.blocks))
    assert set(model.state_dict()) - set(whole.state_dict()) == added_weights(model)
    assert bool(added_weights(model)) == (reduction in TRAINED)


def test_evit_keeps_what_the_class_token_looks_at_and_weighs_the_rest():
    block = small(reduction="evit", keep=0.5).blocks[1]
    tokens = torch.arange(5.0).reshape(1, 5, 1).repeat(1, 1, 2)
    look = torch.zeros(1, 1, 5, 5)
    look[..., 0, :] = torch.tensor([0.0, 0.1, 0.4, 0.2, 0.3])
    kept, _ = block.reduce(tokens, Beside(), look, tokens[:, None])
    torch.testing.assert_close(kept[0, :, 0], torch.tensor([0.0, 2.0, 4.0, 3 * 0.2 + 1 * 0.1]))


def test_tome_merges_the_most_alike_by_how_many_they_stand_for():
    block = small(reduction="tome", keep=0.5).blocks[0]
    block.merged = 1
    tokens = torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0]).reshape(1, 5, 1)
    keys = torch.tensor([[1.0, 1.0], [1, 0], [0, 1], [0.1, 1], [-1, 1]])[None, None]  # places 2 and 3 are most alike
    size = torch.tensor([1.0, 1, 1, 3, 1]).reshape(1, 5, 1)
    merged, beside = block.reduce(tokens, Beside(size), torch.empty(0), keys)
    assert merged[0, :, 0].tolist() == [9, 4, 1, (2 + 3 * 3) / 4]
    assert beside.size[0, :, 0].tolist() == [1, 1, 1, 4]


def test_mctf_fuses_from_both_sides():
    affinity = torch.tensor([[-torch.inf, -torch.inf], [0.1, 0.9], [0.8, 0.2]])[None]  # places 0, 2, 4 by 1, 3
    tokens = torch.tensor([100.0, 1.0, 2.0, 4.0, 8.0]).reshape(1, 5, 1)
    fused = Fusion(affinity, 2)(tokens)  # 2 goes to 3, then 1 to 4: to the most alike that is left
    assert fused[0, :, 0].tolist() == [100, 9, 6]


def test_diffrate_prunes_the_tail_and_merges_what_comes_before():
    block = small(reduction="diffrate", keep=0.7).blocks[3]
    block.after_pruning, block.after_merging = 4, 3
    tokens = torch.tensor([[1.0, 1.0], [1, 0], [0, 2], [0, 1], [5, 5]])[None]
    look = torch.zeros(1, 1, 5, 5)
    look[..., 0, :] = torch.tensor([0.0, 0.4, 0.3, 0.2, 0.1])  # the last is dropped, the one before goes to its like
    merged, beside = block.reduce(
        tokens, Beside(torch.tensor([1.0, 1, 2, 3, 1]).reshape(1, 5, 1)), look, torch.empty(0)
    )
    assert merged[0].tolist() == [[1, 1], [1, 0], [0, 1.5]]
    assert beside.size[0, :, 0].tolist() == [1, 1, 5]


def test_gtp_hands_a_tenth_to_the_neighbours():
    block = small(reduction="gtp", keep=0.5).blocks[0]
    block.dropped = 1
    graph = torch.tensor([[0.0, 0.5, 1.0], [0.5, 0, 2], [1, 2, 0]])[None]
    weights = torch.diag(torch.tensor([1.0, 0.9, 0.2, 0.8])).reshape(1, 1, 4, 4)  # the second of the image leaves
    tokens = torch.tensor([7.0, 1.0, 10.0, 3.0]).reshape(1, 4, 1)
    kept, beside = block.reduce(tokens, Beside(torch.ones(1, 4, 1), graph), weights, torch.empty(0))
    torch.testing.assert_close(kept[0, :, 0], torch.tensor([7.0, 1 + 0.1 * 0.5 * 10, 3 + 0.1 * 2 * 10]))
    torch.testing.assert_close(beside.size[0, :, 0], torch.tensor([1.0, 1.05, 1.2]))
    assert beside.graph[0].tolist() == [[0, 1], [1, 0]]


def test_gtps_graph_has_the_neighbours_on_the_image_and_in_likeness():
    tokens = torch.randn(1, 30, 4, generator=torch.Generator().manual_seed(0))
    tokens[0, 29] = tokens[0, 0]  # alike, at opposite corners of 5 x 6
    edges = _graph(tokens, (5, 6))[0] > 0
    assert edges[0, [1, 6, 7, 29]].all()
    assert not edges.diagonal().any()
    assert edges.sum(1).min() >= 8


def test_sparsifiners_guess_learns_the_attention():
    block = small(reduction="sparsifiner", keep=0.25).blocks[0].train()
    tokens = torch.randn(2, 65, 32, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(block.guess.parameters(), lr=0.02)
    q, k = (torch.randn(2, 2, 65, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    attention = (3 * q @ k.transpose(2, 3) / 4).softmax(-1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = block.guess.loss(q, k, attention)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]
    block.guess.zero_grad()
    (0 * block(tokens, Beside())[0].sum()).backward()  # whatever the network's own loss asks for
    assert all(parameter.grad.abs().sum() > 0 for parameter in block.guess.parameters())


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
        (NAME, {"reduction": "diffrate", "keep": 0.3}, "expected at least 0.50"),
        (NAME, {"reduction": "diffrate", "depth": 8}, "this network has 8"),
        ("dualtoken_vit_t_mix", {"reduction": "evit"}, "expected a plain vision transformer"),
        ("vit_tiny_patch16_224", {"reduction": "evit", "global_pool": "avg"}, "answers by one class token"),
    ],
)
def test_mistakes(name, kwargs, said):
    with pytest.raises(ConfigError) as error, torch.device("meta"):
        create_model(name, **kwargs)
    assert said in f"{error.value} {error.value.hint}"
