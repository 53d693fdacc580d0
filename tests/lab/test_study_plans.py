"""The arms are networks that can be made, the scales are settings that exist, and mistakes are named."""

from functools import partial

import pytest
import torch

from dualtoken.backbone import count_macs, count_parameters, create_model, mixers
from dualtoken.errors import ConfigError
from dualtoken.lab.study_plans import _SCALES, ABLATIONS, MIXERS, PEERS, STUDIES, check_names, make_plan, what_it_tells
from dualtoken.training.recipes import load_recipe


@pytest.mark.parametrize(("study", "task", "scale"), _SCALES)
def test_every_run_of_every_scale_has_settings_that_exist(study, task, scale):
    plan = make_plan(study, scale, task)
    for arm in plan.arms:
        config = load_recipe(plan.recipe, plan.settings_of(arm, 2))
        assert (config.seed, config.task) == (2, task)
        assert config.limit_minutes is None  # a limit of time would give each arm another number of images
    assert what_it_tells(plan).endswith(".")


def test_arms_of_one_study_differ_in_one_thing_only():
    for study, (arms, base) in STUDIES.items():
        assert base in [arm.name for arm in arms], study
        assert len({arm.name for arm in arms}) == len(arms)
        assert len({tuple(arm.settings) for arm in arms if arm.settings}) == 1
    for arm in ABLATIONS[1:]:
        assert len(arm.settings["model_args"]) == 1
        assert arm.says


@pytest.mark.parametrize("arm", [*ABLATIONS, *PEERS], ids=lambda arm: arm.name)
def test_every_arm_is_a_network(arm):
    with torch.device("meta"):
        model = create_model(arm.settings.get("model", "dualtoken_vit_t_mix"), **arm.settings.get("model_args", {}))
    assert count_parameters(model) > 1e6


def test_every_branch_is_an_arm_of_the_mixers():
    branches = {name for name, mixer in mixers.MIXERS.items() if isinstance(mixer, partial)}
    assert {arm.name for arm in MIXERS} == branches | {"base", "fcaformer", "lightvit"}, (
        "Give it a width in study_plans.py"
    )


@pytest.mark.slow
@pytest.mark.parametrize("arm", MIXERS, ids=lambda arm: arm.name)
def test_the_mixers_cost_about_the_same(arm):
    with torch.device("meta"):
        model = create_model("dualtoken_vit_t_mix", **arm.settings.get("model_args", {}))
    assert count_macs(model) / 1e9 == pytest.approx(0.5, rel=0.09)


def test_arguments_of_scale_and_arm_are_merged():
    plan = make_plan("ablations", settings={"model_args": {"neck": 64}, "epochs": 9})
    settings = plan.settings_of(plan.arm("grid_3"), 1)
    assert settings["model_args"] == {"channels": [24, 48, 96], "depths": [1, 2, 1], "neck": 64, "token_grid": 3}
    assert (settings["epochs"], settings["seed"]) == (9, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ablation",), "Did you mean 'ablations'"),
        (("peers", "gpus"), "Did you mean 'gpu'"),
        (("peers", "cpu", "detection"), "is for classification, the data are for detection"),
        (("dense", "cpu", "classification"), "is for semantic segmentation or detection"),
        (("peers", "cpu", "classification", {"model": "x"}), "its arms have the networks"),
        (("peers", "cpu", "classification", {"seed": 3}), "--seeds"),
        (("peers", "cpu", "classification", {"limit_minutes": 3}), "--budget"),
        (("peers", "cpu", "classification", {"device": "cuda"}), "--device"),
    ],
)
def test_mistakes(arguments, said):
    with pytest.raises(ConfigError) as error:
        make_plan(*arguments)
    assert said in str(error.value)


@pytest.mark.parametrize("only", [[], "mlp"])
def test_no_arm_is_not_all_arms(only):
    with pytest.raises(ConfigError, match="expected names of arms"):
        check_names("ablations", only=only)


def test_an_unknown_arm_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'grid_3'"):
        make_plan("ablations").arm("grid3")
