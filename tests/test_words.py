import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from dualtoken.answers import Comparison
from dualtoken.cli import VERBS
from dualtoken.errors import ConfigError
from dualtoken.export.guard import GuardReport
from dualtoken.export.parity import Parity
from dualtoken.export.run import ExportResult
from dualtoken.lab.benchmark_tables import cells
from dualtoken.outputs import Interval
from dualtoken.prediction.command import split_model
from dualtoken.words import counted


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
        (12345, ("object",), "12,345 objects"),
    ],
)
def test_nouns_fit_their_numbers(number, words, said):
    assert counted(number, *words) == said


def test_what_is_to_be_typed_next_can_be_typed(capsys):
    folder = Path("my photos")
    with pytest.raises(ConfigError) as caught:
        split_model([str(folder / "model.onnx")])
    assert shlex.split(caught.value.hint)[1:] == ["dualtoken", "predict", "my photos/model.onnx", "photo.jpg"]
    parity = Parity("m.onnx", "m", "classification", "onnx", "onnx", "fp32", passed=True)
    for show, result in (
        (VERBS["train"].show, SimpleNamespace(folder=folder)),
        (VERBS["distill"].show, SimpleNamespace(folder=folder)),
        (VERBS["export"].show, ExportResult(folder / "m.onnx", (folder / "m.onnx",), 1, parity)),
        (VERBS["runtime-bundle"].show, folder),
    ):
        show(result, False, {})
        line = capsys.readouterr().out.splitlines()[-1]
        assert any(word.startswith("my photos") for word in shlex.split(line)), line


def comparison(images: int) -> Comparison:
    return Comparison("a", "b", "data", "val", images, "ap", "AP", 0.5, 0.5, Interval(0.0, -1.0, 1.0), 1, 2, 0, 100)


@pytest.mark.parametrize(
    ("number", "image", "these"), [(1, "1 image", "this 1 image"), (2, "2 images", "these 2 images")]
)
def test_sentences_fit_their_numbers(number, image, these):
    assert these in comparison(number).verdict()
    assert "A is better on  1 image\nB is better on  2 images" in comparison(number).summary()
    parity = Parity("m.onnx", "m", "classification", "onnx", "onnx", "fp32", passed=True, images=number)
    assert parity.line().startswith(f"Parity passed: {image}, raw")
    ((title, _),) = cells([{"engine": "onnx", "batch_size": 1, "image_size": 224, "threads": number}])
    assert title.endswith(image.replace("image", "thread"))
    report = GuardReport("m.onnx", 0.9, 0.9, 0.005, number, (), ())
    assert f"; {image.replace('image', 'layer')} in integers." in report.line()
