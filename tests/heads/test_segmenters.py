"""Every decoder on our backbone and on others."""

import pytest
import torch

from dualtoken.backbone import count_macs, count_parameters
from dualtoken.errors import ConfigError, ModelError
from dualtoken.heads import DECODERS, make_segmenter
from dualtoken.heads.context import Context


@pytest.mark.parametrize("name", ["dualtoken_vit_t_mix", "lightvit_t", "mobilenetv4_conv_small"])
@pytest.mark.parametrize("head", DECODERS)
def test_logits_for_every_pixel_and_gradients_everywhere(head, name):
    torch.manual_seed(0)
    network = make_segmenter(head, name, 5)
    logits = network.train()(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 5, 64, 96)
    logits.sum().backward()
    assert any(weight.grad is not None for weight in network.body.parameters())


def test_deeplab_may_have_a_finer_stride():
    network = make_segmenter("deeplabv3", "dualtoken_vit_t_mix", 5, encoder_output_stride=8)
    assert network.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 5, 64, 64)


def test_the_light_decoder_is_light():
    """0.45 M parameters and 0.50 G multiply-adds on our maps at 384 x 480; the usual one has 1.72 M and 5.62 G."""
    network = make_segmenter("dappm", "dualtoken_vit_t_mix", 11).eval()
    assert count_parameters(network) - count_parameters(network.body) == pytest.approx(0.446e6, rel=0.01)
    macs = count_macs(network, (384, 480)) - count_macs(network.body, (384, 480))
    assert macs == pytest.approx(0.497e9, rel=0.01)


def test_context_of_small_maps_and_of_one_image():
    torch.manual_seed(0)
    context = Context(16, 8, 12)
    large, small = torch.randn(1, 16, 9, 12), torch.randn(1, 16, 2, 3)
    pools = [name for name, _ in context.named_parameters() if name.startswith("pools")]
    for image, seen in ((large, True), (small, False)):
        context.zero_grad()
        result = context.train()(image)
        assert result.shape == (1, 12, *image.shape[2:])
        result.square().sum().backward()
        gradients = [context.get_parameter(name).grad for name in pools]
        assert all((gradient is not None and bool(gradient.any())) == seen for gradient in gradients)


def test_undecayed_names_are_parameters():
    network = make_segmenter("fpn", "dualtoken_vit_t_mix", 5)
    assert network.no_weight_decay()
    assert network.no_weight_decay() <= {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"head": "unet9"}, ConfigError, "Unknown head"),
        ({"architecture": "dualtoken_vit_x"}, ModelError, "no model"),
        ({"head": "deeplabv3", "architecture": "edgenext_xx_small"}, ModelError, "cannot be put on"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        make_segmenter(**{"head": "fpn", "architecture": "dualtoken_vit_t_mix", "classes": 2} | arguments)
