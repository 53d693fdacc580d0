"""What a training step computes another way, because it is faster so, is the same function with the same gradients."""

import pytest
import torch
from torch import nn

from dualtoken.backbone import create_model
from dualtoken.backbone.area import area_resize, distinct_cells
from dualtoken.backbone.layers import DepthwiseConv
from dualtoken.backbone.mixers.dual_token import PositionAwareTokens


def run(module: nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Outputs, and the gradients of inputs and weights."""
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    outputs = module(*inputs)
    outputs = [y for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if y is not None]
    weights = [torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype) for y in outputs]
    return [y.detach() for y in outputs] + list(torch.autograd.grad(outputs, [*inputs, *module.parameters()], weights))


def same(module: nn.Module, *inputs: torch.Tensor) -> None:
    """In training and in evaluation, where nothing is cut short."""
    for fast, plain in zip(run(module.train(), *inputs), run(module.eval(), *inputs), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 5), (7, 7)])
def test_a_small_depthwise_convolution_as_a_dense_layer(kernel, size, monkeypatch):
    torch.manual_seed(0)
    conv, x = DepthwiseConv(6, kernel), torch.randn(64, *size, 6)
    same(conv, x)
    dense = []
    monkeypatch.setattr(conv, "_dense", lambda x: dense.append(1) or x)
    conv.train()(x)
    conv.eval()(x)
    assert dense == [1]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (3, 2)])
def test_equal_cells_are_aggregated_once(size, monkeypatch):
    torch.manual_seed(0)
    tokens = create_model("dualtoken_vit_t_mix").stages[2].blocks[0].mixer.tokens
    assert isinstance(tokens, PositionAwareTokens)
    x, g = torch.randn(4, *size, 192), torch.randn(4, 7, 7, 192)
    same(tokens, x, g)
    once = []
    monkeypatch.setattr(tokens, "_aggregate_once", lambda x: once.append(1) or tokens.aggregate(tokens.downsample(x)))
    tokens.train()(x, g)
    tokens.eval()(x, g)
    assert once == [1]


@pytest.mark.parametrize(("size", "kinds"), [((1, 1), 1), ((2, 3), 15), ((3, 3), 25), ((4, 1), 7), ((9, 14), 49)])
def test_distinct_cells_rebuild_the_grid(size, kinds):
    grid = area_resize(torch.randn(1, *size, 3), 7, 7).flatten(1, 2)
    first, kind_of, repeats = distinct_cells(*size, 7)
    torch.testing.assert_close(grid[:, first][:, kind_of], grid)
    assert len(first) == kinds
    assert [kind_of.count(kind) for kind in range(kinds)] == repeats
