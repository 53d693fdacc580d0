"""A setting is applied or refused; weights find their place in another task's network."""

import pytest
import torch
from safetensors.torch import load_file

from dualtoken.errors import ConfigError, ModelError
from dualtoken.model_folder import ModelConfig, save_model
from dualtoken.preprocess import Preprocessing
from dualtoken.tasks import TASKS, Network
from dualtoken.training import train
from dualtoken.training.network import take_weights

NARROW = {"channels": 64}


@pytest.mark.parametrize("key", sorted(TASKS["classification"].unused - {"head"}))
def test_settings_of_other_tasks_are_refused(key, image_folder, tmp_path):
    value = {"head_args": NARROW, "zoom": [1, 1], "max_objects": 5}.get(key, 0.5)
    with pytest.raises(ConfigError, match=f"{key} has no effect for classification"):
        train(image_folder, tmp_path / "run", **{key: value})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("head_args", "words"),
    [({"chanels": 64}, "Did you mean 'channels'"), ({"channels": "many"}, "channels is 'many'"), ({"foo": 1}, "'foo'")],
)
def test_wrong_arguments_of_a_head_are_named(head_args, words):
    with pytest.raises(ConfigError, match=words):
        TASKS["detection"].build(Network("dualtoken_vit_t_mix", 2, "fcos", head_args))


def saved(task: str, head: str, folder, **head_args):
    torch.manual_seed(3)
    model = TASKS[task].build(Network("dualtoken_vit_t_mix", 2, head, head_args))
    config = ModelConfig("dualtoken_vit_t_mix", ("a", "b"), Preprocessing(), task=task, head=head, head_args=head_args)
    folder.mkdir()
    save_model(model, config, folder)
    return folder


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (("classification", ""), ("detection", "fcos")),
        (("detection", "fcos"), ("semantic_segmentation", "fpn")),
        (("detection", "fcos"), ("classification", "")),
        (("semantic_segmentation", "fpn"), ("instance_segmentation", "mask_rcnn")),
    ],
)
def test_the_backbone_goes_from_any_task_to_any_other(source, target, tmp_path):
    folder = saved(*source, tmp_path / "source", **(NARROW if source[1] == "fcos" else {}))
    torch.manual_seed(4)
    model = TASKS[target[0]].build(
        Network("dualtoken_vit_t_mix", 2, target[1], NARROW if target[1] in ("fcos", "mask_rcnn") else {})
    )
    take_weights(model, folder)
    theirs = load_file(folder / "model.safetensors")
    tail = "stages.1.merge.reduction.weight"
    before = next(tensor for name, tensor in theirs.items() if name.endswith(tail))
    after = next(tensor for name, tensor in model.state_dict().items() if name.endswith(tail))
    assert torch.equal(before, after)


def test_another_backbone_is_refused(tmp_path):
    folder = saved("classification", "", tmp_path / "source")
    model = TASKS["detection"].build(Network("mobilenetv4_conv_small", 2, "fcos", NARROW))
    with pytest.raises(ModelError, match="does not fit"):
        take_weights(model, folder)
