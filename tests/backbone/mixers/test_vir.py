import torch

from dualtoken.backbone.branch import Place, find_branch


def test_a_position_sees_what_comes_before_it_the_less_the_farther():
    torch.manual_seed(0)
    mixer = find_branch("vir")(Place(8, 2, 1)).eval()
    x = torch.randn(1, 4, 5, 8)
    other = x.clone()
    other[0, 2, 1] += 1  # place 11 of 20
    changed = (mixer(other) - mixer(x)).abs().sum(-1).flatten() > 1e-6
    assert changed.tolist() == [False] * 11 + [True] * 9
