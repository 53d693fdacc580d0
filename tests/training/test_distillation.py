"""A student learns from teachers: the same bits when it is repeated or continued, and better than it began."""

import csv
import shutil

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from dualtoken.backbone import create_model
from dualtoken.errors import ConfigError, DataError, ModelError
from dualtoken.model_folder import ModelConfig, load_config, load_model, save_model
from dualtoken.preprocess import Preprocessing
from dualtoken.training.distillation import DistillConfig, distill
from dualtoken.training.loop import Loop
from dualtoken.training.state import run_counters
from dualtoken.training.student import student_of
from dualtoken.training.teachers import open_teacher

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16}
SETTINGS = {
    "model_args": SMALL, "batch_size": 4, "workers": 0, "image_size": 32, "view_size": 32, "epochs": 3, "lr": 0.01,
    "images_per_epoch": 8, "held_out": 4, "views": 2, "cooldown": 0.5,
}  # fmt: skip


def small_teacher(place):
    """A model folder of three classes with weights that were never trained."""
    torch.manual_seed(0)
    model = create_model("dualtoken_vit_t_mix", num_classes=3, **SMALL)
    folder = place / "teacher"
    folder.mkdir()
    save_model(
        model, ModelConfig("dualtoken_vit_t_mix", ("x", "y", "z"), Preprocessing((32, 32)), model_args=SMALL), folder
    )
    return folder


@pytest.fixture
def teacher(tmp_path):
    return small_teacher(tmp_path)


@pytest.fixture
def images(make_image_folder):
    return make_image_folder(classes=("cat", "dog", "emu"), per_class=8)


def run(images, teacher, output=None, **settings):
    return distill([images], [teacher], output, **SETTINGS | settings)


def state(folder):
    return load_file(folder / "last" / "state.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def stop_in(monkeypatch, epoch: int, batch: int) -> None:
    """Press Ctrl-C in a run at this place."""
    step = Loop._batch

    def stopping(self, *batch_of_images):
        moved = step(self, *batch_of_images)
        self.interrupted = (self.counters.epoch, self.counters.batch) == (epoch, batch)
        return moved

    monkeypatch.setattr(Loop, "_batch", stopping)


def test_a_model_folder_that_answers_with_the_teachers_classes(images, teacher, tmp_path):
    result = run(images, teacher, tmp_path / "run")
    model, config = load_model(result.folder)
    assert config.classes == load_config(teacher).classes
    assert config.provenance["teachers"][0]["name"] == teacher.name
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, len(config.classes))
    assert 0 <= result.metrics["val_agreement"] <= 1
    page = (result.folder / "report.html").read_text()
    assert "Distillation report" in page
    assert teacher.name in page
    assert "24 images, 3 classes" in page
    assert page.count("<img") >= 3  # losses, agreement, rate


def test_the_loss_falls(images, teacher, tmp_path):
    run(images, teacher, tmp_path / "run", epochs=12, hard_labels=0.5)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["train_loss"]) < 0.9 * float(rows[0]["train_loss"])


def test_maps_are_learned_where_they_have_a_weight(images, teacher, tmp_path):
    run(images, teacher, tmp_path / "run", epochs=8, maps=1.0, features=0, soft_labels=0)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["train_loss"]) < 0.85 * float(rows[0]["train_loss"])
    assert all(float(row["val_loss"]) == pytest.approx(1 - float(row["val_cosine_maps"]), abs=1e-4) for row in rows)


def test_maps_on_the_way_are_learned_too(teacher, tmp_path):
    model, _ = load_model(teacher)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    student = student_of(model, [open_teacher(str(teacher))], {}, maps=True)
    assert same(before, model.state_dict())  # asking which maps there are is no training
    said = student(torch.rand(2, 3, 64, 64))
    assert {name: tuple(one.shape) for name, one in said.items() if name.startswith("maps.")} == {
        "maps.8.0": (2, 8, 8, 8),
        "maps.16.0": (2, 16, 4, 4),
        "maps.last.0": (2, 32, 2, 2),
    }
    said["maps.8.0"].sum().backward()
    assert all(one.grad is not None for one in model.stem.parameters())
    assert all(one.grad is None for one in model.stages[1].parameters())  # the first level is before it


def test_maps_that_are_kept_are_those_that_are_asked_anew(images, teacher, tmp_path):
    run(images, teacher, tmp_path / "kept", maps=1.0, views=2)
    run(images, teacher, tmp_path / "again", maps=1.0, views=2, cache=str(tmp_path / "kept" / "cache"))
    assert same(state(tmp_path / "kept"), state(tmp_path / "again"))


def test_a_teacher_of_tokens_has_no_maps(images, tmp_path, monkeypatch):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=1, num_heads=2, num_classes=3)
    monkeypatch.setattr(timm, "create_model", lambda name, **settings: vit)
    monkeypatch.setattr(timm, "is_model", lambda name: True)
    vit.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(ConfigError, match="no teacher has maps"):
        run(images, "vit", tmp_path / "run", maps=1.0)


@pytest.mark.parametrize("views", [0, 2])
def test_continued_is_as_never_stopped(images, teacher, tmp_path, monkeypatch, views):
    run(images, teacher, tmp_path / "whole", views=views)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=1, batch=0)
        with pytest.raises(KeyboardInterrupt):
            run(images, teacher, tmp_path / "parts", views=views)
    assert load_counters(tmp_path / "parts").step == 3
    distill(resume=tmp_path / "parts")
    assert same(state(tmp_path / "whole"), state(tmp_path / "parts"))


def load_counters(folder):
    from dualtoken.training.state import run_counters

    return run_counters(folder)


def test_a_run_of_constant_rate_can_be_made_longer(images, teacher, tmp_path):
    run(images, teacher, tmp_path / "run", cooldown=0)
    distill(resume=tmp_path / "run", epochs=4)
    run(images, teacher, tmp_path / "long", epochs=4, cooldown=0)
    assert same(state(tmp_path / "run"), state(tmp_path / "long"))


def test_the_views_that_were_chosen_are_kept(images, teacher, tmp_path):
    run(images, teacher, tmp_path / "run", views=None)
    assert "views: 0\n" in (tmp_path / "run" / "train.yaml").read_text()


def test_a_cosine_knows_its_end(images, teacher, tmp_path):
    run(images, teacher, tmp_path / "run", schedule="cosine")
    with pytest.raises(ConfigError, match="epochs can only change"):
        distill(resume=tmp_path / "run", epochs=4)


def test_teachers_are_asked_once_about_each_view(images, teacher, tmp_path, monkeypatch):
    from dualtoken.training.teachers import TorchTeacher

    asked = []
    say = TorchTeacher.__call__
    monkeypatch.setattr(TorchTeacher, "__call__", lambda self, pixels: asked.append(len(pixels)) or say(self, pixels))
    run(images, teacher, tmp_path / "one", epochs=8, cache=str(tmp_path / "kept"))
    assert sum(asked) <= 24 * 2 + 4
    first = sum(asked)
    run(images, teacher, tmp_path / "two", epochs=8, cache=str(tmp_path / "kept"))
    assert sum(asked) == first
    assert same(state(tmp_path / "one"), state(tmp_path / "two"))


def test_images_without_labels_and_weights_of_sources(images, teacher, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for number, path in enumerate(sorted(images.rglob("*.jpg"))[:10]):
        shutil.copy(path, plain / f"{number}.jpg")
    result = distill([plain, images], [teacher], tmp_path / "run", **SETTINGS, image_weights=[0.5, 0.5])
    assert "10 images, no labels" in load_config(result.folder).provenance["data"]["sets"][0]


def write_onnx(path, classes: int) -> None:
    """A classifier that any exporter could have made: the mean colour, and a linear layer."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.linspace(-1, 1, 3 * classes, dtype=np.float32).reshape(3, classes)
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["features"]),
        helper.make_node("MatMul", ["features", "weight"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3]),
    ]
    graph = helper.make_graph(nodes, "teacher", [images], outputs, [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_two_teachers_an_onnx_file_among_them(images, teacher, tmp_path):
    file = tmp_path / "teacher.onnx"
    write_onnx(file, classes=2)
    described = {"teacher_size": 32, "teacher_mean": [0.5] * 3, "teacher_std": [0.5] * 3}
    with pytest.raises(ConfigError, match="different classes"):
        distill([images], [teacher, file], tmp_path / "run", **SETTINGS, **described)
    result = distill([images], [file, file], tmp_path / "run", **SETTINGS, **described)
    assert load_config(result.folder).classes == ("class 0", "class 1")
    assert len(load_config(result.folder).provenance["teachers"]) == 2


def test_growing_inputs_and_a_probe(images, teacher, tmp_path):
    result = run(images, teacher, tmp_path / "run", image_size=32, grow={1: 64}, view_size=64, probe=str(images))
    assert result.metrics["val_probe_linear"] >= 0
    assert DistillConfig.from_settings({"epochs": 3, "image_size": 32, "grow": {1: 64}}).sizes == [32, 64, 64]


def test_mixed_images_are_new_each_time(images, teacher, tmp_path):
    run(images, teacher, tmp_path / "run", views=0, mixup=0.2, cutmix=1.0)
    with pytest.raises(ConfigError, match="views is 2"):
        run(images, teacher, tmp_path / "other", views=2, mixup=0.2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"head": "fcos"}, "head has no effect"),
        ({"soft_labels": 0, "features": 0, "maps": 0}, "nothing would be learned"),
        ({"image_weights": [1, 2]}, "image_weights has 2 numbers"),
        ({"image_size": 64}, "larger than a crop of 32"),
        ({"held_out": 24}, "held_out is 24"),
        ({"soft_label": 1}, "soft_labels"),
    ],
)
def test_what_cannot_be_is_said(images, teacher, tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        run(images, teacher, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_no_images_no_teacher(images, tmp_path):
    with pytest.raises(ConfigError, match="no teacher"):
        distill([images], [], tmp_path / "run", **SETTINGS)
    with pytest.raises(ModelError, match="no file"):
        run(images, tmp_path / "t.onnx", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        run(tmp_path / "empty", "dualtoken-vit-t-cifar10", tmp_path / "run")


def test_draws_are_shares_and_passes():
    from dualtoken.training.pool import PoolSampler

    rows = [np.arange(6), np.arange(6, 16)]
    sampler = PoolSampler(rows, [1, 3], images=8, batch_size=4, views=2, seed=0)
    seen = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        draws = [draw for batch in sampler for draw in batch]
        assert sum(place // 2 < 6 for place, _ in draws) == 2
        seen += draws
    first = [place // 2 for place, _ in seen if place // 2 < 6]
    assert sorted(first) == sorted([*range(6)] * 2)  # two passes over the first set
    assert {place % 2 for place, _ in seen} == {0, 1}
    assert len(dict(seen)) == len(set(seen))  # a view has one seed


def test_a_finished_run_says_so_and_how_to_go_on_and_writes_nothing(images, teacher, tmp_path, capsys):
    folder = run(images, teacher, tmp_path / "run", schedule="constant").folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    again = distill(resume=folder)
    said = capsys.readouterr().out
    assert f"{folder} is finished: 3 epochs" in said
    assert f"--resume {folder} --epochs 6" in said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert again.metrics
    assert distill(resume=folder, epochs=4).folder == folder
    assert run_counters(folder).epoch == 4


def test_images_that_cannot_be_read_are_counted_and_listed(images, teacher, tmp_path, capsys):
    for name, end in (("cat/0000.jpg", -60), ("dog/0001.jpg", 2)):  # the header of the first can still be read
        path = images / name
        path.write_bytes(path.read_bytes()[:end])
    folder = run(images, teacher, tmp_path / "run", views=0, images_per_epoch=None).folder
    listed = (folder / "left_out.csv").read_text(encoding="utf-8")
    assert "could not be read meanwhile and are left out" in capsys.readouterr().out
    assert "cat/0000.jpg" in listed
    assert "dog/0001.jpg" in listed
