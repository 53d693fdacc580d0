"""Every decoder on our backbone and on others."""

import pytest
import torch

from dualtoken.errors import ConfigError, ModelError
from dualtoken.heads import DECODERS, make_segmenter


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
