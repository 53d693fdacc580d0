"""INT8 in OpenVINO files, by NNCF: large products and convolutions with fixed weights in integers, the rest in float.

The linear layers of an exported network are matrix products between transposes. On CPUs without VNNI OpenVINO
computes those more slowly in integers than in float, but point-wise convolutions faster, with bias, GELU and rounding
in the same pass. They are the same sums, so the former are turned into the latter first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import require
from dualtoken.export.calibration_images import Feed, Outputs, distance, one_by_one
from dualtoken.export.marks import mark_openvino
from dualtoken.export.quiet import quiet

NARROW = 32  # inputs or outputs of a product: below, integers do not pay
THIN = 64  # outputs of a convolution over neighbours: narrower ones stand in stems, which are sensitive
_RANKING_IMAGES = 4
_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


class OpenVinoQuantizer:
    """An OpenVINO model that NNCF has quantised once; layers can go back to float.

    Args, attributes and errors are those of `OnnxQuantizer`; `source` is the float32 `.xml`, its `.bin` beside it.
    """

    def __init__(self, source: str | Path, calibration: Iterable[Feed]) -> None:
        self._openvino, nncf = require("openvino", "openvino"), require("nncf", "openvino")
        feeds = list(one_by_one(calibration))
        self._feeds = feeds[:_RANKING_IMAGES]
        self._core = self._openvino.Core()
        self._float = self._core.read_model(str(source))
        as_convolutions(self._openvino, self._float)
        layers = [op for op in self._float.get_ops() if _worth_it(op)]
        self.layers = tuple(op.get_friendly_name() for op in layers)
        self._weights = {op.get_friendly_name(): _fixed(op.input_value(1)) for op in layers}
        self._full = self._quantised(nncf, feeds) if layers else self._float

    def write(self, target: str | Path, exclude: Collection[str] = ()) -> None:
        """Write the model with all `layers` but those of `exclude` in integers; the metadata stay."""
        model = self._with(set(self.layers) - set(exclude))
        self._openvino.save_model(model, str(target), compress_to_fp16=False)
        mark_openvino(Path(target), "int8")

    def harm(self) -> dict[str, float]:
        """How far each layer, alone in integers, moves the network's outputs, relative to their size."""
        reference = self._run(self._float)
        return {name: distance(self._run(self._with({name})), reference) for name in self.layers}

    def _quantised(self, nncf: Any, feeds: list[Outputs]) -> Any:
        advanced = nncf.quantization.advanced_parameters
        others = [
            op.get_friendly_name()
            for op in self._float.get_ops()
            if op.get_friendly_name() not in self._weights and op.get_type_name() not in ("Constant", "Result")
        ]
        with quiet("nncf", "torch.utils.cpp_extension"):  # which misses a GPU beside a CUDA compiler
            return nncf.quantize(
                self._float,
                nncf.Dataset(feeds),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(feeds),
                fast_bias_correction=True,
                ignored_scope=nncf.IgnoredScope(names=others, validate=False),
                # Smoothing would tie the weights of a layer to what stands before it.
                advanced_parameters=advanced.AdvancedQuantizationParameters(
                    smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
                ),
            )

    def _with(self, chosen: Collection[str]) -> Any:
        """The quantised model with all layers but `chosen` back in float."""
        model = self._full.clone()
        for op in model.get_ops():
            name = op.get_friendly_name()
            if name in self._weights and name not in chosen:
                before = op.input_value(0).get_node()
                if before.get_type_name() == "FakeQuantize":
                    op.input(0).replace_source_output(before.input_value(0))
                weight = self._openvino.op.Constant(self._weights[name])
                op.input(1).replace_source_output(weight.output(0))
        model.validate_nodes_and_infer_types()
        return model

    def _run(self, model: Any) -> list[Outputs]:
        compiled = self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return [[np.array(found) for found in compiled(feed).values()] for feed in self._feeds]


def as_convolutions(openvino: Any, model: Any) -> int:
    """Turn products with fixed weights over the last axis of maps (B, H, W, C) into point-wise convolutions, in place.

    Transposes on both sides of a product vanish, where there are none they are added; the answers stay the same.

    Returns:
        How many products were turned.
    """
    ops = openvino.opset13
    turned = 0
    for product in model.get_ops():
        weight = _map_weight(product)  # (outputs, inputs)
        if weight is None:
            continue
        source = product.input_value(0)
        if _permutation(source.get_node()) == _TO_CHANNELS_LAST:
            source = source.get_node().input_value(0)
        else:
            source = ops.transpose(source, np.array(_TO_CHANNELS_FIRST)).output(0)
        kernel = ops.constant(np.ascontiguousarray(weight)[:, :, None, None])
        result = ops.convolution(source, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
        result.set_friendly_name(product.get_friendly_name())
        last, bias = _bias_after(product, len(weight))
        if bias is not None:
            result = ops.add(result, ops.constant(bias.reshape(1, -1, 1, 1)))
        _read(ops, last.output(0).get_target_inputs(), result)
        turned += 1
    model.validate_nodes_and_infer_types()
    return turned


def _read(ops: Any, readers: Iterable[Any], new: Any) -> None:
    """Let `readers`, which expect maps (B, H, W, C), read the maps (B, C, H, W) of `new`."""
    restored = None
    for reader in readers:
        node = reader.get_node()
        if _permutation(node) == _TO_CHANNELS_FIRST and reader.get_index() == 0:
            for after in node.output(0).get_target_inputs():
                after.replace_source_output(new.output(0))
        elif node.get_type_name() == "Gelu":  # the same in any order: the transpose moves behind it, and meets the next
            after_it = node.output(0).get_target_inputs()
            reader.replace_source_output(new.output(0))
            node.validate_and_infer_types()
            _read(ops, after_it, node)
        else:
            restored = restored or ops.transpose(new, np.array(_TO_CHANNELS_LAST))
            reader.replace_source_output(restored.output(0))


def _map_weight(op: Any) -> NDArray[Any] | None:
    """(outputs, inputs) of a product of maps with fixed weights; None for everything else."""
    if op.get_type_name() != "MatMul" or (weight := _fixed(op.input_value(1))) is None or weight.ndim != 2:
        return None
    rank = op.input_value(0).get_partial_shape().rank
    settings = op.get_attributes()
    if not rank.is_static or rank.get_length() != 4 or settings["transpose_a"]:
        return None
    return weight if settings["transpose_b"] else weight.T


def _bias_after(product: Any, outputs: int) -> tuple[Any, NDArray[Any] | None]:
    """The node that adds a bias to a product, if one does and nobody else reads the product."""
    readers = list(product.output(0).get_target_inputs())
    if len(readers) == 1 and readers[0].get_node().get_type_name() == "Add":
        addition = readers[0].get_node()
        bias = _fixed(addition.input_value(1 - readers[0].get_index()))
        if bias is not None and bias.size == outputs and bias.shape[-1] == outputs:
            return addition, bias
    return product, None


def _worth_it(op: Any) -> bool:
    """Whether a layer is computed in integers: dense, with fixed weights, and neither narrow nor a thin stem."""
    if op.get_type_name() not in ("MatMul", "Convolution") or (weight := _fixed(op.input_value(1))) is None:
        return False
    if op.get_type_name() == "MatMul":
        return weight.ndim == 2 and min(weight.shape) >= NARROW
    outputs, inputs, *kernel = weight.shape
    return min(outputs, inputs * math.prod(kernel)) >= (NARROW if math.prod(kernel) == 1 else THIN)


def _fixed(value: Any) -> NDArray[Any] | None:
    node = value.get_node()
    return np.array(node.data) if node.get_type_name() == "Constant" else None


def _permutation(op: Any) -> list[int] | None:
    if op.get_type_name() != "Transpose" or (order := _fixed(op.input_value(1))) is None:
        return None
    return [int(axis) for axis in order]
