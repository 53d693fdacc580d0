import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from export_models import CLASSES

from dualtoken.answers import Evaluation
from dualtoken.errors import ConfigError, DataError, ExportError, ModelError, OutputError
from dualtoken.export.calibration_images import distance, one_by_one
from dualtoken.export.onnx_int8 import NARROW, OnnxQuantizer, Seen, affine, find_products, weight_scales
from dualtoken.export.openvino_int8 import OpenVinoQuantizer
from dualtoken.export.quantization import (
    compress_weights,
    export_size,
    main_figure,
    quantize_export,
)
from dualtoken.outputs import Interval
from dualtoken.prediction.exported import read_export
from dualtoken.runtime import load


def quantize(source, target, images):
    """Write all layers that are worth it in integers; their names."""
    quantizer = (OpenVinoQuantizer if source.suffix == ".xml" else OnnxQuantizer)(source, [images])
    quantizer.write(target)
    return quantizer.layers


@pytest.fixture
def images() -> np.ndarray:
    """(12, 3, 64, 96), like what pre-processing gives."""
    return np.random.default_rng(0).standard_normal((12, 3, 64, 96)).astype(np.float32)


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


# ---------------------------------------------------------------- numbers


def test_pairs_of_weights_never_overflow_16_bits():
    random = np.random.default_rng(0)
    for inputs in (1, 2, 7, 64):
        matrix = random.standard_normal((inputs, 40)).astype(np.float32)
        matrix[:, :5] = np.abs(matrix[:, :5])
        matrix[:, 5] = 0
        scales = weight_scales(matrix)
        assert np.isfinite(matrix / scales).all()
        stored = np.rint(matrix / scales)
        assert np.abs(stored).max() <= 127
        padded = np.concatenate([stored, np.zeros((inputs % 2, 40))]).reshape(-1, 2, 40)
        for pixel in (0, 255):
            for other in (0, 255):
                sums = pixel * padded[:, 0] + other * padded[:, 1]
                assert sums.max() < 2**15
                assert sums.min() >= -(2**15)


def test_weights_keep_nearly_all_of_their_bits():
    matrix = np.random.default_rng(0).standard_normal((192, 100)).astype(np.float32)
    seven_bits, eight_bits = np.abs(matrix).max(axis=0) / 63, np.abs(matrix).max(axis=0) / 127
    scales = weight_scales(matrix)
    assert (scales >= eight_bits * 0.999).all()
    assert (scales / seven_bits).mean() < 0.75


def test_ranges_round_with_the_least_error():
    random = np.random.default_rng(0)
    even = random.uniform(-1, 3, 4000).astype(np.float32)
    scale, zero = affine(Seen(float(even.min()), float(even.max()), 4000, [even]))
    assert (scale, zero) == (pytest.approx(4 / 255, rel=0.01), 64)
    outlier = np.append(random.standard_normal(1_000_000), 20).astype(np.float32)
    assert affine(Seen(float(outlier.min()), 20.0, 1_000_001, [outlier]))[0] < 0.7 * (20 + 5) / 255
    assert affine(Seen(0.0, 0.0, 4, [np.zeros(4, np.float32)]))[1] == 0


def test_calibration_goes_image_by_image():
    assert [part[0].shape for part in one_by_one([np.zeros((3, 3, 8, 8)), np.zeros((2, 3, 8, 8))])] == [
        (1, 3, 8, 8)
    ] * 5
    pair = (np.zeros((1, 4)), np.zeros((7, 5)))
    assert [part[1].shape for part in one_by_one([pair])] == [(7, 5)]
    with pytest.raises(DataError, match="no calibration images"):
        list(one_by_one([]))


def test_distance_sees_the_worst_output_and_what_is_no_number():
    one, other = [[np.ones(4), np.ones(2)]], [[np.ones(4), 2 * np.ones(2)]]
    assert distance(one, one) == 0
    assert distance(other, one) == 1
    assert distance([[np.ones(4), np.array([np.nan, 1])]], one) == np.inf


# ---------------------------------------------------------------- ONNX


def test_large_products_go_to_integers_and_answers_stay(exported, tmp_path, images):
    source, target = exported("classifier"), tmp_path / "int8.onnx"
    before = source.read_bytes()
    layers = quantize(source, target, images)
    assert source.read_bytes() == before
    assert kinds(target).count("MatMulIntegerToFloat") == len(layers) > 15
    assert {"LayerNormalization", "Softmax", "Gelu", "Conv"} <= set(kinds(target))
    assert len(set(layers)) == len(layers)
    assert not any(name.startswith("stem.") for name in layers)
    assert "stages.0.blocks.0.feed_forward.mlp.fc1" in layers  # as people know it
    small = {p.name for p in find_products(onnx.load(source)) if min(p.matrix.shape) < NARROW}
    assert not small & set(layers)
    assert distance([run(target, images)], [run(source, images)]) < 0.05
    assert load(target).predict(np.zeros((64, 96, 3), np.uint8)).classes == CLASSES


def test_the_answer_for_an_image_does_not_depend_on_its_batch(exported, tmp_path, images):
    target = tmp_path / "int8.onnx"
    quantize(exported("classifier"), target, images)
    images[5] *= 20  # with ranges taken from the batch this one would coarsen all others
    together = run(target, images)[0]
    alone = np.concatenate([run(target, image[None])[0] for image in images])
    differences = np.abs(together - alone).max(axis=1)
    assert np.median(differences) < 1e-4
    assert differences.max() < 0.02  # a value between two steps may be rounded the other way


def test_convolutions_of_heads_go_to_integers_too(exported, tmp_path, images):
    source, target = exported("retinanet"), tmp_path / "int8.onnx"
    layers = quantize(source, target, images)
    assert kinds(target).count("QLinearConv") == sum(
        p.convolution for p in find_products(onnx.load(source)) if p.name in layers
    )
    assert "QLinearConv" in kinds(target)
    assert distance([run(target, images)], [run(source, images)]) < 0.1
    # A tensor that several layers read is quantised once.
    quantised = [node.input[0] for node in onnx.load(target).graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantised) == len(set(quantised))


@pytest.mark.parametrize("name", ["segmenter", "mask_rcnn"])
def test_models_of_every_task_answer(exported, images, name):
    source = exported(name)
    target = source.with_name("small.onnx")  # the other parts lie there
    assert quantize(source, target, images[:4])
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    answer, wanted = load(target).predict(picture), load(source).predict(picture)
    assert type(answer) is type(wanted)
    if name == "segmenter":
        assert (answer.mask == wanted.mask).mean() > 0.8


def test_excluded_layers_stay_in_float(exported, tmp_path, images):
    source = exported("classifier")
    quantizer = OnnxQuantizer(source, [images])
    quantizer.write(tmp_path / "none.onnx", quantizer.layers)
    assert "MatMulIntegerToFloat" not in kinds(tmp_path / "none.onnx")
    assert distance([run(tmp_path / "none.onnx", images)], [run(source, images)]) < 0.002  # weights in 16 bits
    quantizer.write(tmp_path / "some.onnx", quantizer.layers[:1])
    assert kinds(tmp_path / "some.onnx").count("MatMulIntegerToFloat") == len(quantizer.layers) - 1


def test_harm_is_that_of_each_layer_alone(exported, tmp_path, images):
    source = exported("classifier")
    quantizer = OnnxQuantizer(source, [images])
    harm = quantizer.harm()
    assert list(harm) == list(quantizer.layers)
    name = max(harm, key=lambda layer: harm[layer])
    quantizer.write(tmp_path / "one.onnx", set(quantizer.layers) - {name})
    alone = [[run(path, images[i : i + 1]) for i in range(4)] for path in (tmp_path / "one.onnx", source)]
    assert harm[name] == pytest.approx(distance(*alone), rel=0.2)  # its other weights are rounded to 16 bits
    assert harm[name] > 2 * min(harm.values()) > 0


def test_metadata_stay_and_say_int8(exported, tmp_path, images):
    source, target = exported("classifier"), tmp_path / "int8.onnx"
    quantize(source, target, images)
    (old, before), (new, after) = read_export(source), read_export(target)
    assert (before.precision, after.precision) == ("fp32", "int8")
    assert new == old
    assert after.weights_sha256 == before.weights_sha256
    keys = [{entry.key for entry in onnx.load(path).metadata_props} for path in (source, target)]
    assert keys[0] == keys[1]


def test_layers_are_called_by_their_modules(exported, model_of):
    from dualtoken.export.pieces import merged
    from dualtoken.model_folder import load_model

    (known, _), products = load_model(model_of("classifier")), find_products(onnx.load(exported("classifier")))
    assert {product.name for product in products} <= {name for name, _ in merged(known).named_modules()}
    # One module for all levels of the pyramid: its second use has a number.
    names = [product.name for product in find_products(onnx.load(exported("retinanet")))]
    assert len(set(names)) == len(names)
    assert {"head.classification_head.conv.0.0", "head.classification_head.conv.0.0/2"} <= set(names)


# ---------------------------------------------------------------- OpenVINO


def test_openvino_computes_linear_layers_as_convolutions(exported, tmp_path, images):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    source, target = exported("classifier", ".xml"), tmp_path / "int8.xml"
    layers = quantize(source, target, images[:4])
    assert {"stages.0.blocks.0.feed_forward.mlp.fc1", "neck.0"} <= set(layers)
    core = openvino.Core()
    (float_model, model) = (core.read_model(str(path)) for path in (source, target))
    count = [sum(op.get_type_name() == "Convolution" for op in m.get_ops()) for m in (float_model, model)]
    assert count[1] > count[0] + len(layers) // 2
    found, wanted = ([list(core.compile_model(m, "CPU")(images).values())] for m in (model, float_model))
    assert distance([np.array(a) for a in found], [np.array(a) for a in wanted]) < 0.25
    (_, before), (_, after) = read_export(source), read_export(target)  # checks the digest of the .bin too
    assert (before.precision, after.precision) == ("fp32", "int8")
    assert "int8.bin" in after.sha256
    assert source.with_suffix(".bin").name not in after.sha256


@pytest.mark.slow
def test_nothing_is_said_of_a_cuda_compiler(exported, tmp_path):
    """A machine with CUDA's compiler and no GPU: torch would say so in the middle of ours."""
    pytest.importorskip("nncf")
    code = (
        "import sys, numpy as np; from dualtoken.export.openvino_int8 import OpenVinoQuantizer as Quantizer;"
        "Quantizer(sys.argv[1], [np.zeros((1, 3, 64, 96), np.float32)])"
    )
    called = [sys.executable, "-W", "ignore", "-c", code, str(exported("classifier", ".xml"))]
    environment = os.environ | {"CUDA_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(called, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""


@pytest.mark.slow
def test_further_parts_stay_with_openvino_files_too(exported, images):
    pytest.importorskip("nncf")
    source = exported("mask_rcnn", ".xml")
    target = source.with_name("small.xml")  # the other parts lie there
    assert quantize(source, target, images[:2])
    (_, before), (_, after) = read_export(source), read_export(target)  # checks all digests
    assert after.parts == before.parts
    assert set(after.sha256) == set(before.sha256) - {"mask_rcnn.bin"} | {"small.bin"}
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    assert len(load(target).predict(picture, threshold=0.0)) > 0


def test_products_become_convolutions_without_a_change(exported, images):
    openvino = pytest.importorskip("openvino")
    from dualtoken.export.openvino_int8 import as_convolutions

    core = openvino.Core()
    model, before = (core.read_model(str(exported("classifier", ".xml"))) for _ in range(2))
    turned = as_convolutions(openvino, model)
    assert turned > 20
    gelus = [op for op in model.get_ops() if op.get_type_name() == "Gelu"]
    assert not any(gelu.input_value(0).get_node().get_type_name() == "Transpose" for gelu in gelus)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    found, wanted = (core.compile_model(m, "CPU", exact)(images)[0] for m in (model, before))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- whole, and only the weights


@pytest.fixture
def labelled(exported, make_image_folder):
    """Images with the model's own answers as labels, so that the float32 export is always right."""
    root = make_image_folder(CLASSES, per_class=6, size=(96, 64), splits=("train", "val"))
    model = load(exported("classifier"))
    for split in ("train", "val"):
        for path in sorted((root / split).rglob("*.jpg")):
            answer = model.predict(path).label
            path.rename(root / split / answer / f"{path.parent.name}-{path.name}".replace(" ", ""))
    return root


def test_an_export_is_quantised_and_measured_on_the_users_images(exported, labelled, tmp_path):
    source, target = exported("classifier"), tmp_path / "small" / "int8.onnx"
    try:
        report = quantize_export(source, target, labelled, max_drop=0.25, progress=False)
    except DataError:
        pytest.skip("the random network gives one class only")
    assert report.float_score == 1
    assert report.score >= 0.75
    assert report.path == target
    assert report.line().startswith("INT8: ")
    assert load(target).export.info.precision == "int8"
    json.dumps(report.to_dict(), allow_nan=False)
    with pytest.raises(OutputError):
        quantize_export(source, target, labelled, progress=False)


def test_a_loss_that_is_not_allowed_is_refused(exported, labelled, tmp_path, monkeypatch):
    from dualtoken.export import quantization

    monkeypatch.setattr(
        quantization, "main_figure", lambda e: 1.0 if e.model.endswith("classifier.onnx") else 0.5
    )  # whatever is quantised is half wrong
    with pytest.raises(ExportError, match=r"found is 50\.00 %"):
        quantize_export(exported("classifier"), tmp_path / "int8.onnx", labelled, progress=False)
    assert not (tmp_path / "int8.onnx").exists()


def test_only_onnx_and_openvino_are_quantised(tmp_path):
    for source, target in (("m.pt2", "m.int8.pt2"), ("m.onnx", "m.xml")):
        with pytest.raises(ConfigError, match="made of"):
            quantize_export(tmp_path / source, tmp_path / target, "nowhere", progress=False)


def test_an_impossible_loss_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match="max_drop is 5"):
        quantize_export(tmp_path / "none.onnx", tmp_path / "int8.onnx", "nowhere", max_drop=5, progress=False)


def test_the_main_figure_is_the_tasks():
    def evaluation(task: str, **metrics: float) -> Evaluation:
        found = {name: Interval(value, 0, 1) for name, value in metrics.items()}
        return Evaluation(task, "", "", "", (), found, (), None, (), 0, 0)

    assert main_figure(evaluation("classification", top5=0.9, top1=0.5)) == 0.5
    assert main_figure(evaluation("instance_segmentation", ap=0.3, mask_ap=0.2)) == 0.2
    assert main_figure(evaluation("semantic_segmentation", pixel_accuracy=0.9, miou=0.4)) == 0.4


@pytest.mark.parametrize(("bits", "limit", "share"), [(16, 0.01, 0.6), (8, 0.05, 0.5), (4, 0.6, 0.4)])
def test_weights_in_fewer_bits(exported, tmp_path, images, bits, limit, share):
    source, target = exported("classifier"), tmp_path / "small.onnx"
    size = compress_weights(source, target, bits)
    assert size == target.stat().st_size < share * source.stat().st_size
    assert 0 < distance([run(target, images)], [run(source, images)]) < limit
    assert read_export(target)[1].precision == {16: "fp16", 8: "weights-int8", 4: "weights-int4"}[bits]


def test_half_weights_of_openvino(exported, tmp_path):
    pytest.importorskip("openvino")
    source, target = exported("classifier", ".xml"), tmp_path / "half.xml"
    compress_weights(source, target)
    assert target.with_suffix(".bin").stat().st_size < 0.6 * source.with_suffix(".bin").stat().st_size
    assert load(target).export.info.precision == "fp16"
    with pytest.raises(ConfigError, match="expected 16"):
        compress_weights(source, tmp_path / "four.xml", 4)


@pytest.mark.parametrize(("suffix", "bits"), [(".onnx", 8), pytest.param(".xml", 16, marks=pytest.mark.slow)])
def test_all_parts_get_fewer_bits_and_go_together(exported, tmp_path, suffix, bits):
    source, target = exported("mask_rcnn", suffix), tmp_path / "new" / f"small{suffix}"
    size = compress_weights(source, target, bits)
    assert {path.name for path in target.parent.glob(f"*{suffix}")} == {
        f"small{part}{suffix}" for part in ("", ".boxes", ".masks")
    }
    assert size == export_size(target) == sum(path.stat().st_size for path in target.parent.iterdir())
    assert size < export_size(source)
    info = read_export(target)[1]  # checks the digests
    assert info.parts == {"boxes": f"small.boxes{suffix}", "masks": f"small.masks{suffix}"}
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    assert len(load(target).predict(picture, threshold=0.0)) > 0


def test_files_that_fewer_bits_are_not_made_of(exported, tmp_path):
    for name in ("none.onnx", "none.xml"):
        with pytest.raises(ModelError, match="There is no file"):
            compress_weights(tmp_path / name, tmp_path / f"small{name}")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(exported("classifier").read_bytes()[:5000])
    with pytest.raises(ModelError):
        compress_weights(damaged, tmp_path / "small.onnx")
    compress_weights(exported("classifier"), tmp_path / "half.onnx")
    with pytest.raises(ConfigError, match="is fp16 already"):
        compress_weights(tmp_path / "half.onnx", tmp_path / "small.onnx", 8)
    with pytest.raises(ConfigError, match="is fp16 already"):
        quantize_export(tmp_path / "half.onnx", tmp_path / "small.onnx", "nowhere", progress=False)
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.parametrize("whole", [True, False])
def test_weights_of_another_model_are_not_written_over(exported, tmp_path, whole):
    target = tmp_path / "small.xml"
    target.with_suffix(".bin").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"small\.bin"):
        quantize_export(exported("classifier", ".xml"), target, "nowhere") if whole else compress_weights(
            exported("classifier", ".xml"), target
        )
    assert target.with_suffix(".bin").read_bytes() == b"mine"
    assert not target.exists()


def test_parts_of_another_model_are_not_taken_for_ones_own(exported, tmp_path):
    (tmp_path / "mask_rcnn.boxes.onnx").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"'mask_rcnn\.boxes\.onnx' belongs to 'mask_rcnn\.onnx'"):
        quantize_export(exported("mask_rcnn"), tmp_path / "int8.onnx", "nowhere", progress=False)


def test_large_weights_do_not_overflow_in_half(exported, tmp_path):
    model = onnx.load(exported("classifier"))
    head = next(entry for entry in model.graph.initializer if entry.name.endswith("norm.bias"))
    values = np.full(list(head.dims), 1e6, np.float32)
    head.CopyFrom(onnx.numpy_helper.from_array(np.resize(values, 300), "large"))
    onnx.save(model, tmp_path / "large.onnx")
    compress_weights(tmp_path / "large.onnx", tmp_path / "half.onnx")
    assert not any(entry.name == "large_half" for entry in onnx.load(tmp_path / "half.onnx").graph.initializer)
