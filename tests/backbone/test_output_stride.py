"""Maps at a finer stride from the same weights, as DeepLab asks."""

import pytest
import timm
import torch

from dualtoken.backbone import create_model
from dualtoken.backbone.mixers.dual_token import ConvEncoder
from dualtoken.backbone.stem import PatchMerge

NAMES = ["dualtoken_vit_t_mix", "lightvit_t"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("stride", "expected"), [(8, [2, 4, 8, 8, 8]), (16, [2, 4, 8, 16, 16]), (32, [2, 4, 8, 16, 32])]
)
def test_levels_have_the_strides_that_they_state(name, stride, expected):
    model = timm.create_model(name, features_only=True, output_stride=stride).eval()
    assert model.feature_info.reduction() == expected
    with torch.inference_mode():
        maps = model(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape[2:]) for level in maps] == [(64 // s, 96 // s) for s in expected]


@pytest.mark.parametrize("stride", [8, 16])
def test_weights_of_one_stride_fit_the_others(stride):
    usual, finer = create_model("dualtoken_vit_t_mix"), create_model("dualtoken_vit_t_mix", output_stride=stride)
    assert finer.load_state_dict(usual.state_dict()) == ([], [])  # nothing missing, nothing unexpected


@pytest.mark.parametrize("stride", [8, 16])
def test_every_weight_gets_a_gradient(stride):
    model = create_model("dualtoken_vit_t_mix", output_stride=stride, num_classes=2)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_the_dense_merge_gives_the_halving_one_at_every_second_position():
    torch.manual_seed(0)
    halving, dense = PatchMerge(6, 10), PatchMerge(6, 10, spacing=1)
    dense.load_state_dict(halving.state_dict())
    x = torch.randn(2, 8, 12, 6)
    torch.testing.assert_close(dense(x)[:, ::2, ::2], halving(x))


def test_two_dense_merges_and_dilated_convolutions_give_the_halving_ones():
    torch.manual_seed(0)
    halving = torch.nn.Sequential(PatchMerge(4, 8), ConvEncoder(8), PatchMerge(8, 16), ConvEncoder(16)).eval()
    dense = torch.nn.Sequential(
        PatchMerge(4, 8, spacing=1), ConvEncoder(8), PatchMerge(8, 16, spacing=2), ConvEncoder(16)
    ).eval()
    dense.load_state_dict(halving.state_dict())
    dense[1].depthwise.dilate(2)
    dense[3].depthwise.dilate(4)
    x = torch.randn(1, 32, 32, 4)
    torch.testing.assert_close(dense(x)[:, ::4, ::4], halving(x))
