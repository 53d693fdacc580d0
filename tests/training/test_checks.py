"""A mistyped name in the settings is answered before torch is imported and before any image is opened."""

import subprocess
import sys

import pytest

from dualtoken.errors import ConfigError, UserError
from dualtoken.training.checks import check_settings, network_names
from dualtoken.training.config import TrainConfig
from dualtoken.training.recipes import load_recipe, recipe_names

MISTYPED = [
    ({"model": "dualtoken_vit_t_mx"}, "There is no model 'dualtoken_vit_t_mx'. Did you mean 'dualtoken_vit_t_mix'?"),
    ({"model": "resnt18"}, "Did you mean 'resnet18'?"),
    ({"model_args": {"token_mpl": "mlp"}}, "Unknown model argument 'token_mpl'. Did you mean 'token_mlp'?"),
    ({"model_args": {"drop_rte": 0.1}}, "Did you mean 'drop_rate'?"),
    ({"model_args": {"quite_another": 1}}, "Unknown model argument 'quite_another'. Known: channels, "),
    ({"model_args": {"mixer": "dual_tokn"}}, "Did you mean 'dual_token'?"),
    ({"model_args": {"token_mlp": "max"}}, "token_mlp is 'max', expected one of mix, mlp, none."),
    ({"head": "fcoss"}, "Unknown head 'fcoss'. Did you mean 'fcos'?"),
    ({"head_args": {"chanels": 64}}, "Unknown head argument 'chanels'. Did you mean 'channels'?"),
    ({"head": "fcos", "head_args": {"other": 64}}, "Unknown head argument 'other'. Known: "),
    ({"head": "fpn", "head_args": {"decoder_drpout": 0}}, "Did you mean 'decoder_dropout'?"),
]


@pytest.mark.parametrize(("settings", "said"), MISTYPED)
def test_a_mistyped_name_is_told_with_the_right_one(settings, said):
    with pytest.raises(UserError) as error:
        check_settings(TrainConfig.from_settings(settings))
    assert said in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "resnet18.a1_in1k"},
        {"model": "dualtoken-vit-t-cifar10", "model_args": {"drop_rate": 0.1}},
        {"model_args": {"token_grid": 5, "channels": [32, 64, 128], "output_stride": 16}},
        {"model": "resnet18", "model_args": {"token_mpl": "only its network can tell"}},
        {"head": "fcos", "head_args": {"channels": 64, "strides": [8, 16, 32]}},
        {"head": "fpn", "head_args": {"decoder_dropout": 0.1, "global_pool": "avg"}},
        {"head_args": {"channels": 64, "decoder_dropout": 0.1}},
    ],
)
def test_what_may_be_right_passes(settings):
    assert check_settings(TrainConfig.from_settings(settings)) is None


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_passes(name):
    assert check_settings(load_recipe(name)) is None


def test_names_are_those_of_timm():
    import timm

    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "timm")
        by_source = set(network_names())
    assert by_source >= set(timm.list_models())


def test_a_network_that_somebody_registered_is_known():
    import timm

    def network_of_a_plugin(pretrained=False, **kwargs):
        raise NotImplementedError

    network_of_a_plugin.__module__ = __name__
    timm.models.register_model(network_of_a_plugin)
    assert "network_of_a_plugin" in network_names()
    assert check_settings(TrainConfig(model="network_of_a_plugin")) is None


def test_an_impossible_switch_of_a_model_folder_is_told():
    with pytest.raises(ConfigError, match="Did you mean 'token_grid'"):
        check_settings(TrainConfig(model="dualtoken-vit-t-cifar10", model_args={"token_gird": 5}))


def test_neither_torch_nor_images_are_needed(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no image")
    code = (
        "import sys\n"
        f"sys.argv = 'dualtoken train {tmp_path / 'broken'} --output {tmp_path / 'run'}"
        " --set model_args={token_mpl:mlp}'.split()\n"
        "sys.argv[-1] = 'model_args={token_mpl: mlp}'\n"
        "from dualtoken.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code)\n"
        "print([name for name in ('torch', 'timm', 'torchvision', 'lightning_fabric') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Did you mean 'token_mlp'?" in shown.stderr
    assert shown.stdout == "2\n[]\n"
