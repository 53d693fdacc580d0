import torch

from dualtoken.backbone.branch import Place, find_branch


def test_one_half_reaches_its_block_and_the_other_its_place_in_every_cell():
    torch.manual_seed(0)
    mixer = find_branch("maxim")(Place(4, 1, 1)).eval()
    for layer in (mixer.grid, mixer.block):
        torch.nn.init.normal_(layer.gate.weight)
    x = torch.randn(1, 14, 14, 4)
    other = x.clone()
    other[0, 3, 9] += 1
    changed = ((mixer(other) - mixer(x)).abs().sum(-1) > 1e-6)[0]
    expected = torch.zeros(14, 14, dtype=torch.bool)
    expected[:7, 7:] = True  # the block of 7 x 7 that it lies in
    expected[1::2, 1::2] = True  # cells are 2 x 2: the place (1, 1) of each of the 7 x 7
    assert torch.equal(changed, expected)
