"""Attention that is worked out anew is the attention that the network computed."""

import pytest
import torch

from dualtoken.backbone import create_model
from dualtoken.backbone.ablations import CrossAttention
from dualtoken.backbone.layers import join_heads
from dualtoken.backbone.mixers.dual_token import Broadcast, SelfAttention
from dualtoken.explanation.attention import (
    aggregation_weights,
    broadcast_weights,
    find_network,
    fusion_weights,
    lightvit_weights,
    record,
)

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 2], "heads": [1, 2, 4], "neck": 16, "num_classes": 3}
SWITCHES = {
    "position": {},
    "normal": {"global_tokens": "normal"},
    "none": {"global_tokens": "none"},
    "position_attention": {"global_tokens": "position_attention", "local_mixer": "window"},
    "grid_3": {"token_grid": 3, "downsample": "onestep"},
}


def strong(module):
    """Weights that make attention far from even, in double precision."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return module.double().eval()


def maps(*sizes, channels=16):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, height, width, channels, generator=generator, dtype=torch.float64) for height, width in sizes
    ]


def mixed(weights, values, size):
    assert torch.allclose(weights.sum(dim=-1), weights.new_ones(()))
    assert weights.max() > 0.5  # or the test would see nothing
    return join_heads(weights @ values, *size)


def test_the_weights_of_the_broadcast_give_its_output():
    module, (x, g) = strong(Broadcast(16, 2)), maps((4, 6), (7, 7))
    weights, values = broadcast_weights(module, x, g)
    assert weights.shape == (2, 2, 24, 49)
    torch.testing.assert_close(mixed(weights, values, (4, 6)), module(x, g))


def test_the_weights_of_the_aggregation_give_its_output():
    module, (x,) = strong(SelfAttention(16, 2)), maps((7, 7))
    weights, values = aggregation_weights(module, x)
    torch.testing.assert_close(x + module.proj(mixed(weights, values, (7, 7))), module(x))


def test_the_weights_of_the_fusion_give_its_output():
    module, (g, x) = strong(CrossAttention(16, 2)), maps((1, 8), (7, 7))
    weights, values = fusion_weights(module, g, x)
    torch.testing.assert_close(g + mixed(weights, values, (1, 8)), module(g, x))


def test_lightvits_weights_give_its_output():
    module = strong(create_model("lightvit_t", **SMALL)).stages[1].blocks[0].mixer
    x, g = maps((7, 14), (1, 8))
    (gather, values), (give, given) = lightvit_weights(module, x, g)
    tokens = mixed(gather, values, (1, 8))
    local = module.local(*module.qkv(module.norm(x)).chunk(3, dim=-1))
    new_x, new_g = module(x, g)
    torch.testing.assert_close(g + module.proj(tokens), new_g)
    torch.testing.assert_close(x + module.proj(local + mixed(give, given, (7, 14))), new_x)


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_way_of_using_tokens_is_recorded(switch):
    network = create_model("dualtoken_vit_t_mix", **SMALL, **SWITCHES[switch]).eval()
    images = torch.randn(1, 3, 64, 96)
    expected = network(images)
    outputs = []
    seen = record(network, lambda: outputs.append(network(images)))
    assert torch.equal(outputs[0], expected)
    assert [block.name for block in seen.blocks] == ["1.1", "2.1", "3.1", "3.2"]
    assert [block.image_grid for block in seen.blocks] == [(8, 12), (4, 6), (2, 3), (2, 3)]
    grid = {"normal": (1, 8), "grid_3": (3, 3)}.get(switch, (7, 7))
    for block, heads in zip(seen.blocks, (1, 2, 4, 4), strict=True):
        rows, columns = block.image_grid
        assert block.broadcast.keys == grid
        assert block.broadcast.weights.shape == (heads, rows * columns, grid[0] * grid[1])
        assert block.aggregation.queries == (grid if switch == "grid_3" else (7, 7))
        assert (block.fusion is not None) == (switch in ("normal", "position_attention"))
    assert len(seen.path()) == (0 if switch == "none" else 4)
    assert bool(seen.notes) == (switch in ("normal", "none", "position_attention"))
    assert seen.positions == (switch in ("position", "position_attention", "grid_3"))


def test_lightvit_is_recorded():
    network = create_model("lightvit_t", **SMALL).eval()
    seen = record(network, lambda: network(torch.randn(1, 3, 64, 64)))
    block = seen.blocks[1]
    assert (block.aggregation.queries, block.aggregation.keys) == ((1, 8), (4, 4))
    assert (block.broadcast.queries, block.broadcast.keys) == ((4, 4), (1, 8))
    assert len(seen.path()) == 4
    assert "windows" in " ".join(seen.notes)


def test_a_position_finds_its_own_row():
    network = strong(create_model("dualtoken_vit_t_mix", **SMALL))
    block = record(network, lambda: network(torch.randn(1, 3, 64, 96).double())).blocks[1]
    heads = block.broadcast.from_position(0.99, 0.3)  # of 4 x 6 tokens: row 1, column 5
    assert heads.shape == (2, 7, 7)
    assert (heads.reshape(2, 49) == block.broadcast.weights[:, 1 * 6 + 5]).all()


def test_the_path_says_how_far_tokens_moved():
    network = create_model("dualtoken_vit_t_mix", **SMALL).eval()
    seen = record(network, lambda: network(torch.randn(1, 3, 64, 64)))
    first, *_, last = seen.path()
    assert first.block == "1.1"
    assert last.block == "3.2"
    block = seen.blocks[-1]
    before, after, start = block.before[2, 3], block.after[2, 3], seen.blocks[-2].before[2, 3]
    assert last.change[2, 3] == pytest.approx(((after - before) ** 2).sum() ** 0.5 / (before**2).sum() ** 0.5, rel=1e-4)
    cosine = (after * start).sum() / ((after**2).sum() * (start**2).sum()) ** 0.5
    assert last.cosine[2, 3] == pytest.approx(cosine, abs=1e-5)


def test_hooks_go_even_when_the_forward_fails():
    network = create_model("dualtoken_vit_t_mix", **SMALL).eval()

    def fail():
        network(torch.randn(1, 3, 64, 64))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(network, fail)
    assert not any(module._forward_hooks for module in network.modules())


def test_our_network_is_found_below_a_head():
    from dualtoken.heads import make_detector

    detector = make_detector("retinanet", "dualtoken_vit_t_mix", 2, {"channels": 64}, depths=[1, 1, 1])
    assert find_network(detector) is not None
    assert find_network(torch.nn.Linear(2, 2)) is None
