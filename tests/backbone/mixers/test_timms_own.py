"""Branches of networks that timm has: the same numbers as timm's modules, weights carried across in their order."""

import pytest
import torch
from timm.models.davit import ChannelAttention, WindowAttention
from timm.models.metaformer import Attention, SepConv
from timm.models.volo import OutlookAttention

from dualtoken.backbone.branch import Place, find_branch

# timm's module, our branch and where it stands, and whether timm reads (B, N, C), (B, H, W, C) or (B, C, H, W)
CASES = {
    "davit, channels": (lambda: ChannelAttention(32, 4, qkv_bias=True), "davit", Place(32, 4, 1, block=1), "tokens"),
    "davit, windows": (lambda: WindowAttention(32, (7, 7), 4), "davit", Place(32, 4, 1), "tokens"),
    "volo, outlook": (lambda: OutlookAttention(32, 4, 3, 1, 2), "volo", Place(32, 4, 1), "map"),
    "convformer": (lambda: SepConv(32), "sep_conv", Place(32, 4, 1), "first"),
    "caformer": (lambda: Attention(32, 8), "conv_attention", Place(32, 4, 2), "tokens"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_as_timms(case):
    torch.manual_seed(0)
    make, name, place, layout = CASES[case]
    theirs, ours = make().eval(), find_branch(name)(place).eval()
    weights = [torch.randn_like(weight) * weight.shape[-1] ** -0.5 for weight in theirs.state_dict().values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights, strict=True)))
    ours.load_state_dict(
        {key: w.reshape(old.shape) for (key, old), w in zip(ours.state_dict().items(), weights, strict=True)}
    )
    x = torch.randn(2, 7, 7, 32) if "windows" in case else torch.randn(2, 8, 6, 32)
    with torch.inference_mode():
        got = ours(x)
        if layout == "first":
            expected = theirs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        elif layout == "map":
            expected = theirs(x)
        else:
            expected = theirs(x.flatten(1, 2)).view_as(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
