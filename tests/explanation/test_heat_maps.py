"""Heat maps point at reasons that are known, whatever the layout of the network's maps."""

import pytest
import torch
from explained_models import PLAIN, Bright

from dualtoken.backbone import create_model
from dualtoken.errors import ConfigError, ModelError
from dualtoken.explanation.heat import METHODS, heat_map
from dualtoken.explanation.levels import Level, choose_levels, find_levels, tapped
from dualtoken.explanation.targets import ClassScorer

TASK = "classification"


def spot(height=32, width=48):
    """Dark, with a bright spot in rows 8 to 11, columns 32 to 35: at stride 4 cell (2, 8)."""
    image = torch.full((1, 3, height, width), -0.1)
    image[:, :, 8:12, 32:36] = 1
    return image


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
def test_the_map_points_at_the_reason(method, layout):
    model = Bright(layout).eval()
    scorer, image = ClassScorer(model, (1, 0), PLAIN), spot()
    levels = choose_levels(model, TASK, scorer, image)
    heat = heat_map(method, model, levels, scorer, image, 0)
    place = (2, 8) if method != "integrated_gradients" else (1, 4)  # its cells are 8 pixels
    assert heat.values.shape == ((8, 12) if method != "integrated_gradients" else (4, 6))
    assert divmod(int(heat.values.argmax()), heat.values.shape[1]) == place
    against = heat_map(method, model, levels, scorer, image, 1)
    torch.testing.assert_close(torch.tensor(against.values), -torch.tensor(heat.values))


def test_hirescam_of_a_linear_network_adds_up_to_its_logit():
    model, image = Bright("NHWC").eval(), spot()
    scorer = ClassScorer(model, (1,), PLAIN)
    heat = heat_map("hirescam", model, find_levels(model, TASK), scorer, image, 0)
    assert heat.values.sum() == pytest.approx(model(image)[0, 1].item(), rel=1e-4)


class TwoMaps(torch.nn.Module):
    """A body with two maps, the second made of the first, and a head that adds both up."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Module()
        self.body.forward = lambda x: [fine := torch.nn.functional.avg_pool2d(x, 2), 3 * fine[..., ::2, ::2]]
        self.body.strides = (2, 4)

    def forward(self, images):
        return sum(level.sum(dim=(1, 2, 3)) for level in self.body(images))[:, None]


def test_maps_of_several_levels_add_up_to_what_the_head_makes_of_them():
    class Sum(ClassScorer):
        def evidence(self, images):
            return self.model(images)

    model, image = TwoMaps().eval(), spot()
    scorer = Sum(model, (0,), PLAIN)
    levels = choose_levels(model, "detection", scorer, image)
    heat = heat_map("hirescam", model, levels, scorer, image, 0)
    assert heat.levels == ("body[0]", "body[1]")
    assert heat.values.shape == (16, 24)
    assert heat.values.sum() == pytest.approx(model(image).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "args", "stride", "module", "shape"),
    [
        ("dualtoken_vit_t_mix", {"channels": [8, 16, 32], "depths": [1, 1, 1]}, None, "stages.0", (8, 8)),
        ("dualtoken_vit_t_mix", {"channels": [8, 16, 32], "depths": [1, 1, 1]}, 32, "stages.2", (2, 2)),
        ("swin_tiny_patch4_window7_224",
         {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}, 16, "layers.2", (4, 4)),
        ("test_resnet", {}, None, "layer2", (8, 8)),
        ("deit_tiny_patch16_224", {"img_size": 112, "depth": 3, "embed_dim": 24}, None, "blocks.1", (7, 7)),
    ],
)  # fmt: skip
def test_the_level_is_chosen_and_read(name, args, stride, module, shape):
    torch.manual_seed(0)
    model = create_model(name, num_classes=4, **args).eval()
    side = args.get("img_size", 64)
    image = torch.randn(1, 3, side, side)
    scorer = ClassScorer(model, (2,), PLAIN)
    (level,) = choose_levels(model, TASK, scorer, image, stride)
    heat = heat_map("gradcam", model, [level], scorer, image, 0)
    assert (heat.levels, heat.values.shape) == ((module,), shape)
    assert heat.values.std() > 0


def test_a_stride_that_is_not_there_is_refused():
    model = Bright().eval()
    with pytest.raises(ConfigError, match=r"stride is 8, but the network has maps at \[4\]"):
        choose_levels(model, TASK, ClassScorer(model, (0,), PLAIN), spot(), 8)


def test_a_network_without_maps_is_told_what_works():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 48, 2)).eval()
    scorer, image = ClassScorer(model, (0,), PLAIN), spot()
    with pytest.raises(ModelError) as error:
        choose_levels(model, TASK, scorer, image)
    assert "integrated_gradients" in error.value.hint
    assert heat_map("integrated_gradients", model, [], scorer, image, 0).values.shape == (4, 6)


def test_the_network_is_left_as_it_was():
    model, image = create_model("test_resnet", num_classes=2).eval(), spot(64, 64)
    next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    scorer = ClassScorer(model, (0,), PLAIN)
    for method in METHODS:
        heat_map(method, model, choose_levels(model, TASK, scorer, image), scorer, image, 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert image.grad is None
    assert not image.requires_grad


def test_frozen_networks_are_explained_too():
    model = Bright().eval().requires_grad_(False)
    scorer = ClassScorer(model, (1,), PLAIN)
    heat = heat_map("gradcam", model, choose_levels(model, TASK, scorer, spot()), scorer, spot(), 0)
    assert heat.values.max() > 0


def test_taps_go_even_when_the_network_fails():
    model = Bright().eval()
    with pytest.raises(RuntimeError), tapped(model, [Level("stage")], (32, 48)):
        model(torch.randn(1, 3, 32))
    assert not model.stage._forward_hooks
