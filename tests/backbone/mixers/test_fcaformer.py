import torch

from dualtoken.backbone.branch import Place
from dualtoken.backbone.mixers.fcaformer import ForwardCrossAttention


def test_a_stage_begins_without_and_each_block_leaves_its_tokens_to_the_later_ones():
    torch.manual_seed(0)
    blocks = [ForwardCrossAttention(Place(8, 2, 2, block, 3)).eval() for block in range(3)]
    x = torch.randn(2, 9, 6, 8)
    first, g = blocks[0](x, torch.randn(2, 3, 2, 8))  # what an earlier stage left
    torch.testing.assert_close(blocks[0](x, None)[0], first)
    assert g.shape == (2, 3, 2, 8)
    second, g = blocks[1](first, g)
    assert g.shape == (2, 6, 2, 8)
    third, last = blocks[2](second, g)
    assert last.shape == g.shape  # nobody comes after it
    without = torch.cat([torch.zeros_like(g[:, :3]), g[:, 3:]], 1)
    assert (blocks[2](second, without)[0] - third).abs().max() > 1e-4
