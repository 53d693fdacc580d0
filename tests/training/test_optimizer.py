import pytest
import torch
from torch import nn

from dualtoken.backbone import create_model
from dualtoken.training.config import TrainConfig
from dualtoken.training.optimizer import freeze_backbone, make_optimizer, make_scheduler

CONFIG = TrainConfig(lr=0.1, min_lr=1e-4, warmup_epochs=1, weight_decay=0.05)


def rates(config: TrainConfig, total_steps: int, steps_per_epoch: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.peak_lr)
    scheduler = make_scheduler(config, optimizer, total_steps, steps_per_epoch)
    found = []
    for step in range(total_steps):
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_rises_to_the_peak_and_falls_to_the_least_at_the_end():
    found = rates(CONFIG, total_steps=200, steps_per_epoch=10)
    assert found[0] == pytest.approx(0.01)
    assert found[:11] == sorted(found[:11])
    assert found[10] == pytest.approx(0.1)  # after one epoch
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[105] == pytest.approx((0.1 + 1e-4) / 2)  # half way from the peak to the end
    assert found[-1] == pytest.approx(1e-4, abs=1e-4)


def test_the_warm_up_is_at_most_a_tenth_of_the_run():
    found = rates(CONFIG, total_steps=30, steps_per_epoch=10)
    assert found.index(max(found)) == 3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_runs_are_no_matter_for_a_warning(caplog, steps):
    found = rates(CONFIG, total_steps=steps, steps_per_epoch=1)
    assert found[0] == pytest.approx(0.1)
    assert found == sorted(found, reverse=True)
    assert not caplog.records


def test_a_run_of_one_step_and_a_rate_below_the_least():
    assert rates(CONFIG, total_steps=1, steps_per_epoch=1) == [pytest.approx(0.1)]
    assert max(rates(TrainConfig(lr=1e-9), total_steps=20, steps_per_epoch=10)) == pytest.approx(1e-9)


def test_norms_and_biases_do_not_decay_and_layers_learn_more_slowly_from_the_last_to_the_first():
    model = create_model("dualtoken_vit_t_mix", num_classes=3, channels=[8, 16, 32], depths=[1, 1, 1],
                         heads=[1, 2, 2], neck=16)  # fmt: skip
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(CONFIG.model_copy(update={"layer_decay": 0.5}), model)
    scale = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            scale[names[id(parameter)]] = group["lr_scale"]
            if names[id(parameter)].endswith(("bias", "norm.weight")):
                assert group["weight_decay"] == 0
    assert scale.keys() == dict(model.named_parameters()).keys()
    assert scale["head.weight"] == 1
    assert scale["stem.stride2.0.conv.weight"] == min(scale.values()) < 0.5


def test_a_frozen_backbone_leaves_the_classifier():
    model = create_model("test_resnet", num_classes=3)
    freeze_backbone(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    assert sum(len(group["params"]) for group in make_optimizer(CONFIG, model).param_groups) == 2
