"""timm's contract, held against every variant, every mixer and every switch: a new one is one line in CASES."""

from functools import partial

import pytest
import timm
import torch
from exporting import exports
from timm.models import is_model

import dualtoken
from dualtoken.backbone import VARIANTS, BackboneConfig, DualTokenViT, create_model
from dualtoken.backbone.config import CHOICES
from dualtoken.backbone.mixers import MIXERS

SMALL = {"channels": (16, 32, 64), "depths": (1, 2, 1), "heads": (1, 2, 4), "neck": 32}
SWITCHES = {f"{key}={value}": {key: value} for key, values in CHOICES.items() for value in values}
CASES = {
    **SWITCHES,
    "token_grid=3": {"token_grid": 3},
    "fcaformer": {"mixer": "fcaformer", "global_tokens": "none"},
    "lightvit": {"mixer": "lightvit", "global_tokens": "normal", "joint_tokens": True},
}

UNLIKE = ("token_mlp=mix", "local_mixer=window", "lightvit")  # what torch follows in the quick suite


@pytest.fixture(params=CASES)
def case(request) -> dict:
    return SMALL | CASES[request.param]


def make(case: dict, **kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("dualtoken_vit_t_mix", **{"num_classes": 5} | case | kwargs)


def images(*size: int, channels: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


def test_every_mixer_of_our_own_frame_has_a_case():
    own = {name for name, mixer in MIXERS.items() if not isinstance(mixer, partial)}  # branches: test_neighbours.py
    assert {(BackboneConfig() if "mixer" not in c else BackboneConfig(**c)).mixer for c in CASES.values()} == own


# ---------------------------------------------------------------- every case


def test_every_parameter_gets_a_finite_gradient(case):
    model = make(case).train()
    logits = model(images(64, 64))
    assert logits.shape == (2, 5)
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (65, 100), (224, 96)])
def test_any_size_any_batch(case, size):
    model = make(case).eval()
    batch = images(*size, batch=3)
    with torch.inference_mode():
        together = model(batch)
        alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_channels_last_and_contiguous_agree(case):
    model = make(case).eval()
    batch = images(64, 64)
    with torch.inference_mode():
        expected = model(batch)
        got = model.to(memory_format=torch.channels_last)(batch.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_bf16(case):
    model = make(case).eval().bfloat16()
    with torch.inference_mode():
        logits = model(images(64, 64).bfloat16())
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_mixed_precision_trains(case):
    model = make(case).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images(64, 64)).float().square().mean()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_features_only_gives_five_levels(case):
    model = make(case, features_only=True).eval()
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32]
    maps = model(images(96, 64))
    assert [m.shape[1] for m in maps] == model.feature_info.channels() == [8, 8, 16, 32, 64]
    assert [tuple(m.shape[2:]) for m in maps] == [(96 // r, 64 // r) for r in (2, 4, 8, 16, 32)]


def test_out_indices_pick_levels():
    everything = make(SMALL, features_only=True).eval()(images(64, 64))
    for indices in [(2, 3, 4), (0, 4), (3,)]:
        picked = make(SMALL, features_only=True, out_indices=indices).eval()(images(64, 64))
        for got, index in zip(picked, indices, strict=True):
            torch.testing.assert_close(got, everything[index])


def test_forward_intermediates_agrees_with_forward_features(case):
    model = make(case).eval()
    batch = images(64, 64)
    with torch.inference_mode():
        final, maps = model.forward_intermediates(batch)
        torch.testing.assert_close(final, model.forward_features(batch))
        assert len(maps) == 5
        early = model.forward_intermediates(batch, indices=[1, 2], stop_early=True, intermediates_only=True)
        for got, index in zip(early, (1, 2), strict=True):
            torch.testing.assert_close(got, maps[index])
        (last,) = model.get_intermediate_layers(batch, n=1, norm=True)
        torch.testing.assert_close(last, model.norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_classifier_can_be_replaced_and_removed(case):
    model = make(case).eval()
    batch = images(64, 64)
    assert model.forward_head(model.forward_features(batch), pre_logits=True).shape == (2, 32)
    model.reset_classifier(7)
    assert model.get_classifier().out_features == 7
    assert model(batch).shape == (2, 7)
    model.reset_classifier(0)
    assert model(batch).shape == (2, model.head_hidden_size)
    model.reset_classifier(0, "")
    assert model(batch).ndim == 4
    assert make(case, num_classes=0, global_pool="").eval()(batch).ndim == 4
    assert make(case, global_pool="").eval()(batch).shape[1] == 5


@pytest.mark.parametrize("channels", [1, 4])
def test_in_chans(case, channels):
    assert make(case, in_chans=channels).eval()(images(32, 32, channels=channels)).shape == (2, 5)


def test_grad_checkpointing_changes_nothing(case):
    gradients = []
    for enable in (False, True):
        model = make(case).train()
        model.set_grad_checkpointing(enable)
        model(images(32, 32)).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-4, atol=1e-5)


def test_groups_and_decay_name_every_parameter(case):
    from timm.models import group_parameters
    from timm.optim import param_groups_layer_decay

    model = make(case)
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() <= names
    for coarse in (False, True):
        grouped = [name for group in group_parameters(model, model.group_matcher(coarse)).values() for name in group]
        assert sorted(grouped) == sorted(names)
    assert param_groups_layer_decay(model, layer_decay=0.7)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript(case):
    model = make(case).eval()
    batch = images(64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.script(model)(batch), model(batch), rtol=1e-4, atol=1e-5)


def test_fx_trace(case):
    from timm.layers import get_notrace_functions, get_notrace_modules
    from torch.fx import GraphModule, Tracer

    class TimmTracer(Tracer):
        def __init__(self):
            super().__init__(autowrap_functions=tuple(get_notrace_functions()))

        def is_leaf_module(self, module, name):
            return type(module) in get_notrace_modules() or super().is_leaf_module(module, name)

    model = make(case).eval()
    graph = GraphModule(model, TimmTracer().trace(model))
    batch = images(64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(graph(batch), model(batch))


def test_folded_equals_unfolded(case):
    model = make(case).train()
    for _ in range(3):  # running statistics that are not the identity
        model(images(64, 64) * 3 + 1)
    model.eval()
    batch = images(64, 80)
    with torch.inference_mode():
        expected = model(batch)
        modules = len(list(model.modules()))
        got = model.fold()(batch)
    assert len([m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]) == 0
    assert len(list(model.modules())) <= modules
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def exported_agrees(case: dict, *sizes: tuple[int, int, int]) -> None:
    """Traced once with symbolic batch, height and width, then held against eager at `sizes`."""
    model = make(case).eval()
    dynamic = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    program = torch.export.export(model, (images(96, 64),), dynamic_shapes=dynamic).module()
    with torch.inference_mode():
        for batch, height, width in sizes:
            x = images(height, width, batch=batch)
            torch.testing.assert_close(program(x), model(x), rtol=1e-4, atol=1e-5)


def test_export_with_dynamic_batch_and_size():
    exported_agrees(SMALL | {"depths": (1, 1, 1)}, (1, 64, 128), (3, 224, 160), (2, 41, 57))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in CASES if name != "fcaformer"]
)  # a row of cross tokens ties the sizes
def test_every_case_exports_with_dynamic_batch_and_size(name):
    windows = name in ("local_mixer=window", "lightvit")  # torch specialises these to batches of two or more
    exported_agrees(SMALL | CASES[name], (2 if windows else 1, 64, 128), (3, 224, 160), (2, 41, 57))


@pytest.mark.slow
def test_onnx_and_openvino_answer_the_same(case, tmp_path):
    exports(make(case), tmp_path / "model.onnx", (64, 96))


@pytest.mark.slow
def test_compiles_without_graph_breaks(case):
    model = make(case)
    compiled = torch.compile(model, fullgraph=True)
    compiled(images(64, 64)).sum().backward()
    model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images(64, 64)), model(images(64, 64)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name if name in UNLIKE else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_captures_one_graph(name):
    explanation = torch._dynamo.explain(make(SMALL | CASES[name]))(images(64, 64))
    assert explanation.graph_break_count == 0, explanation.break_reasons


# ---------------------------------------------------------------- every variant


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith(("dualtoken", "lightvit"))])
def test_registered_with_matching_config(name):
    assert is_model(name)
    model = timm.create_model(name, num_classes=3).eval()
    assert isinstance(model, DualTokenViT)
    cfg = model.pretrained_cfg
    parameters = dict(model.named_parameters())
    assert cfg["first_conv"] + ".weight" in parameters
    assert cfg["classifier"] + ".weight" in parameters
    height, _width = cfg["pool_size"]
    with torch.inference_mode():
        assert model(images(64, 64)).shape == (2, 3)
    assert model.feature_info[-1]["reduction"] * height == cfg["input_size"][1]
    assert [info["num_chs"] for info in model.feature_info[2:]] == list(VARIANTS[name].config.channels)


def test_seed_decides_the_weights():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return create_model("dualtoken_vit_t_mix", **SMALL).stages[0].blocks[0].mixer.local.pointwise.fc1.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_prune_keeps_what_is_asked_for():
    model = make(SMALL).eval()
    expected = model.forward_intermediates(images(64, 64), [3], intermediates_only=True)
    assert model.prune_intermediate_layers([3]) == [3]
    assert len(model.stages) == 2
    torch.testing.assert_close(model.forward_intermediates(images(64, 64), [3], intermediates_only=True), expected)


def test_drop_path_grows_with_depth():
    model = make(SMALL | {"depths": (2, 2, 2)}, drop_path_rate=0.5)
    rates = [
        getattr(block.feed_forward.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks
    ]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"token_mlp": "mixx"}, "Did you mean 'mix'"),
        ({"token_grid": 0}, "whole number from 1"),
        ({"token_weight": 2.0}, "from 0 to 1"),
        ({"heads": (3, 3, 3)}, "even multiple"),
        ({"depths": (1, 2)}, "one per stage"),
        ({"output_stride": 4}, "expected 8, 16 or 32"),
    ],
)
def test_impossible_settings_say_what_was_expected(kwargs, said):
    with pytest.raises(dualtoken.errors.ConfigError) as error:
        make(SMALL, **kwargs)
    assert said in str(error.value)


def test_unknown_model_names_the_nearest():
    with pytest.raises(dualtoken.errors.ModelError, match="Did you mean 'dualtoken_vit_s_mix'"):
        create_model("dualtoken_vit_s_mixx")
