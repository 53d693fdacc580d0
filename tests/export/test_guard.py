import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dualtoken.errors import ConfigError, ExportError, ModelError
from dualtoken.export.guard import quantize_with_guard
from dualtoken.export.onnx_int8 import OnnxQuantizer

WIDTH, ROWS, CLASSES, DEPTH = 64, 64, 8, 4


class Scripted:
    """A quantizer whose files only say which layers are in float; `score` reads them."""

    def __init__(self, harm: dict[str, float]) -> None:
        self.layers, self._harm, self.ranked = tuple(harm), harm, 0

    def write(self, target, exclude=()):
        target.write_text(json.dumps(sorted(exclude)))
        target.with_suffix(".bin").write_bytes(b"weights")

    def harm(self):
        self.ranked += 1
        return self._harm

    def score(self, path: Path) -> float:
        return 0.9 - sum(loss for name, loss in self._harm.items() if name not in json.loads(path.read_text()))


def spread(losses: list[float]) -> Scripted:
    return Scripted({f"layer{place}": loss for place, loss in enumerate(losses)})


@pytest.mark.parametrize(("bad", "measured"), [(0, [0]), (1, [0, 1]), (3, [0, 1, 2, 4, 3]), (8, [0, 1, 2, 4, 8, 6, 7])])
def test_the_fewest_layers_that_are_enough_stay_in_float(tmp_path, bad, measured):
    quantizer = spread([0.0] * (16 - bad) + [0.1] * bad)
    path, report = quantize_with_guard(quantizer, quantizer.score, tmp_path / "m.xml", float_score=0.9, max_drop=0.05)
    assert len(report.kept) == bad
    assert all(quantizer._harm[name] == 0.1 for name in report.kept)
    assert [attempt.kept for attempt in report.attempts] == measured
    assert (report.layers, report.drop) == (16 - bad, pytest.approx(0, abs=1e-9))
    assert json.loads(path.read_text()) == sorted(report.kept)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    assert quantizer.ranked == (bad > 0)
    json.dumps(report.to_dict(), allow_nan=False)


def test_what_cannot_be_met_is_refused_and_leaves_nothing(tmp_path):
    quantizer = spread([0.1] * 9)
    with pytest.raises(ExportError) as refused:
        quantize_with_guard(quantizer, quantizer.score, tmp_path / "new" / "m.onnx", float_score=0.9)
    assert "0.5 points of 90.00 %" in str(refused.value)
    assert "best that was found is 40.00 %" in str(refused.value)  # four of nine in float
    assert not (tmp_path / "new").exists()


def test_numbers_that_are_none_count_as_dead(tmp_path):
    quantizer = spread([0.0] * 4)

    def broken(path):
        if json.loads(path.read_text()):
            raise ModelError("The network gives outputs that are not numbers.")
        return math.nan

    with pytest.raises(ExportError, match="not a number"):
        quantize_with_guard(quantizer, broken, tmp_path / "m.onnx", float_score=0.9)


def test_nothing_to_quantise_and_impossible_limits_are_refused(tmp_path):
    with pytest.raises(ExportError, match="no layer"):
        quantize_with_guard(spread([]), lambda _: 1.0, tmp_path / "m.onnx", float_score=0.9)
    for limit in (-0.1, 1.0, 5.0):
        with pytest.raises(ConfigError, match="max_drop"):
            quantize_with_guard(spread([0.0]), lambda _: 1.0, tmp_path / "m.onnx", float_score=0.9, max_drop=limit)


def test_other_files_of_the_model_are_beside_it_when_measured(tmp_path):
    companion = tmp_path / "from" / "m.boxes.onnx"
    companion.parent.mkdir()
    companion.write_text("boxes")
    quantizer = spread([0.0, 0.0])

    def measure(path):
        return quantizer.score(path) if path.with_name("m.boxes.onnx").read_text() == "boxes" else 0.0

    path, _ = quantize_with_guard(quantizer, measure, tmp_path / "to" / "m.onnx", float_score=0.9, beside=[companion])
    assert path.with_name("m.boxes.onnx").read_text() == "boxes"


# ---------------------------------------------------------------- a real network with planted layers


def planted(path: Path, bad: tuple[int, ...]) -> Path:
    """Residual layers and a classifier; in `bad` ones a huge number, which the next weight ignores, rides along.

    In float it does nothing. In 8 bits with one scale a tensor it leaves nothing of the others.
    """
    random = np.random.default_rng(0)
    constants, nodes, tensor = {}, [], "x"
    for depth in range(DEPTH):
        weight = (random.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        if depth in bad:
            weight[0] = 0
            spike = np.zeros(WIDTH, np.float32)
            spike[0] = 1e4
            constants[f"spike{depth}"] = spike
            nodes.append(helper.make_node("Add", [tensor, f"spike{depth}"], [f"spiked{depth}"], name=f"spike{depth}"))
        constants[f"block{depth}.weight"] = weight
        source = f"spiked{depth}" if depth in bad else tensor
        nodes.append(helper.make_node("MatMul", [source, f"block{depth}.weight"], [f"y{depth}"], name=f"node{depth}"))
        nodes.append(helper.make_node("Tanh", [f"y{depth}"], [f"x{depth}"], name=f"tanh{depth}"))
        tensor = f"x{depth}"
    constants["head.weight"] = random.standard_normal((WIDTH, CLASSES)).astype(np.float32)
    nodes.append(helper.make_node("MatMul", [tensor, "head.weight"], ["logits"], name="head"))
    graph = helper.make_graph(
        nodes, "planted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", ROWS, WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", ROWS, CLASSES])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def answers(path: Path, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0].argmax(-1)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((8, ROWS, WIDTH)).astype(np.float32)


def guarded(tmp_path: Path, bad: tuple[int, ...], images: np.ndarray, max_drop: float):
    source = planted(tmp_path / "float.onnx", bad)
    right = answers(source, images)
    return quantize_with_guard(
        OnnxQuantizer(source, [images]),
        lambda path: float((answers(path, images) == right).mean()),
        tmp_path / "int8.onnx", float_score=1.0, max_drop=max_drop,
    )  # fmt: skip


def test_a_sound_network_goes_through_whole(tmp_path, images):
    _, report = guarded(tmp_path, (), images, 0.05)
    assert report.kept == ()
    assert report.layers == DEPTH


@pytest.mark.parametrize("bad", [0, 2, 3])
def test_the_planted_layer_is_found_and_left_in_float(tmp_path, images, bad):
    path, report = guarded(tmp_path, (bad,), images, 0.05)
    assert report.attempts[0].score < 0.8
    assert report.kept == (f"block{bad}",)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == DEPTH - 1


def test_where_all_layers_are_dead_nothing_is_written(tmp_path, images):
    with pytest.raises(ExportError):
        guarded(tmp_path, tuple(range(DEPTH)), images, 0.05)
    assert [entry.name for entry in tmp_path.iterdir()] == ["float.onnx"]
