"""INT8 in ONNX files, for onnxruntime: large products with fixed weights are computed in integers, the rest in float.

    x -> QuantizeLinear -> MatMulIntegerToFloat (int8 weights, bias) -> y
    x -> QuantizeLinear -> QLinearConv (int8 weights, bias) -> DequantizeLinear -> y

Operators are written as they will run instead of as pairs of quantise and dequantise that the engine may or may not
fuse: a bias between them is enough and it does not. Norms, softmax, GELU, depth-wise convolutions and residual sums
stay in float: there rounding would cost more than it saves.

Numbers between layers get one scale and zero point a tensor, fixed by calibration images, so that the answer for an
image does not depend on its batch. Weights get one scale an output, see `weight_scales`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import require
from dualtoken.export.calibration_images import Feed, Outputs, distance, one_by_one
from dualtoken.export.marks import mark_onnx

Floats = NDArray[np.float32]

# A product is computed in integers where that saves time or much space. Measured with onnxruntime 1.31 on AVX2.
PAYS = 100_000  # multiply-accumulates an image: below, quantising the input costs more than the product saves
HEAVY = 16_384  # weights: above, integers are worth it for the size of the file alone
NARROW = 32  # inputs or outputs of a product: fewer do not pay for reading and writing them in other types
THIN = 64  # outputs of a convolution: narrower ones stand in stems, which do not gain and are sensitive

_CONTRIB = "com.microsoft"
_SAMPLES = 2048  # numbers of each tensor and image that the choice of its range looks at
_CLIPS = np.linspace(0.4, 1.0, 13)  # shares of the observed range that are tried
_SMALL = 256  # numbers: tensors below stay in float32
_RANKING_IMAGES = 4


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product or convolution with fixed weights, as it stands in the graph.

    Attributes:
        name: of the layer in the model, where the file tells it; else of the node.
        node: of the graph.
        last: the node whose output is the layer's: that which adds the bias, or `node` itself.
        weight: (inputs, outputs), or (outputs, inputs, height, width) of a convolution.
        bias: (outputs,), or None.
        pooled: whether it reads the result of a max pooling, in another order at most. onnxruntime then quantises
            before the pooling, which in integers takes ten times as long.
    """

    name: str
    node: Any
    last: Any
    weight: Floats
    bias: Floats | None
    pooled: bool

    @property
    def source(self) -> str:
        """Name of the tensor that it reads."""
        return str(self.node.input[0])

    @property
    def result(self) -> str:
        """Name of the tensor that it gives."""
        return str(self.last.output[0])

    @property
    def convolution(self) -> bool:
        """Whether it is a convolution."""
        return self.weight.ndim == 4

    @property
    def matrix(self) -> Floats:
        """(inputs, outputs)"""
        return self.weight.reshape(len(self.weight), -1).T if self.convolution else self.weight


@dataclass
class Seen:
    """What calibration images showed of one tensor.

    Attributes:
        low, high: its smallest and largest number; 0 lies between them.
        size: numbers an image, on average.
        samples: some of its numbers, drawn evenly.
    """

    low: float = 0.0
    high: float = 0.0
    size: float = 0.0
    samples: list[Floats] = field(default_factory=list)


class OnnxQuantizer:
    """An ONNX file that has seen calibration images, ready to be written in INT8.

    Args:
        source: the float32 file.
        calibration: what the network will see: a few dozen to a few hundred images, as arrays (B, 3, H, W), or tuples
            of one array for each input. They are taken one image at a time.

    Attributes:
        layers: names of the layers that are worth computing in integers.

    Raises:
        DataError: no calibration images.
        MissingExtraError: onnx or onnxruntime is not installed.
    """

    def __init__(self, source: str | Path, calibration: Iterable[Feed]) -> None:
        self._onnx, self._runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
        self.model = self._onnx.load(str(source))
        products = find_products(self.model)
        tensors = {p.source for p in products} | {p.result for p in products if p.convolution}
        self._feeds: list[Outputs] = []
        self._seen = self._observe(sorted(tensors), calibration)
        self._ranges = {name: affine(seen) for name, seen in self._seen.items()}
        self._products = {p.name: p for p in products if self._worth_it(p)}
        self.layers = tuple(self._products)

    def write(self, target: str | Path, exclude: Collection[str] = ()) -> None:
        """Write the file with all `layers` but those of `exclude` in integers; the metadata stay.

        Weights of the other layers are kept in 16 bits and widened as the file is loaded.
        """
        model = self._quantised(set(self.layers) - set(exclude))
        halve_weights(self._onnx, model)
        mark_onnx(model, "int8")
        self._onnx.save(model, str(target))

    def harm(self) -> dict[str, float]:
        """How far each layer, alone in integers, moves the network's outputs, relative to their size."""
        reference = self._run(self.model)
        return {name: distance(self._run(self._quantised({name})), reference) for name in self.layers}

    # ------------------------------------------------------------ calibration

    def _observe(self, tensors: list[str], calibration: Iterable[Feed]) -> dict[str, Seen]:
        onnx = self._onnx
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in tensors)
        session = self._session(model)
        random = np.random.default_rng(0)
        seen: dict[str, Seen] = defaultdict(Seen)
        images = 0
        for feed in one_by_one(calibration):
            images += 1
            if len(self._feeds) < _RANKING_IMAGES:
                self._feeds.append(feed)
            for name, array in zip(tensors, _call(session, feed), strict=True):
                _update(seen[name], array, random)
        for found in seen.values():
            found.size /= images
        return seen

    def _worth_it(self, product: Product) -> bool:
        inputs, outputs = product.matrix.shape
        if min(inputs, outputs) < (THIN if product.convolution else NARROW) or product.pooled:
            return False
        # Of a convolution the places of the result count, of a product the rows of the source.
        tensor, channels = (product.result, outputs) if product.convolution else (product.source, inputs)
        positions = self._seen[tensor].size / channels
        return positions * inputs * outputs >= PAYS or inputs * outputs >= HEAVY

    # ------------------------------------------------------------ the graph

    def _quantised(self, chosen: Collection[str]) -> Any:
        onnx = self._onnx
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        products = [product for name, product in self._products.items() if name in chosen]
        graph = _Writer(onnx, self._ranges)
        replaced = {product.node.output[0]: product for product in products}
        skipped = {p.last.output[0] for p in products if p.last is not p.node}
        nodes = []
        for node in model.graph.node:
            first = node.output[0]
            if first in replaced:
                nodes += graph.integers(replaced[first])
            elif first not in skipped:
                nodes.append(node)
        _approximate_gelu(onnx, nodes if products else [])
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        finish_graph(onnx, model, [entry for entry in graph.constants.values() if entry is not None])
        return model

    def _run(self, model: Any) -> list[Outputs]:
        session = self._session(model)
        return [_call(session, feed) for feed in self._feeds]

    def _session(self, model: Any) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3
        return self._runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class _Writer:
    """Nodes and constants that take a layer's place."""

    def __init__(self, onnx: Any, ranges: Mapping[str, tuple[np.float32, np.uint8]]) -> None:
        self.onnx, self.ranges = onnx, ranges
        self.constants: dict[str, Any] = {}

    def integers(self, product: Product) -> list[Any]:
        """The nodes, in order; a tensor that several layers read is quantised once."""
        scales = weight_scales(product.matrix)
        shape = (-1, 1, 1, 1) if product.convolution else (1, -1)
        weight = np.rint(product.weight / scales.reshape(shape)).clip(-127, 127).astype(np.int8)
        name = product.node.input[1]  # and not the node's: a head has the same weights for all levels of a pyramid
        stored = (self._constant(f"{name}_int8", weight), self._constant(f"{name}_scales", scales))
        quantised, before = self._quantise(product.source)
        after = self._convolution if product.convolution else self._matrix_product
        return before + after(product, quantised, stored, scales)

    def _matrix_product(self, product: Product, quantised: str, stored: tuple[str, str], scales: Floats) -> list[Any]:
        scale, zero = self._range(product.source)
        inputs = [quantised, stored[0], scale, stored[1], zero, ""]
        if product.bias is not None:
            inputs.append(self._constant(f"{product.node.output[0]}_bias", product.bias))
        return [self._node("MatMulIntegerToFloat", inputs, product.result, domain=_CONTRIB)]

    def _convolution(self, product: Product, quantised: str, stored: tuple[str, str], scales: Floats) -> list[Any]:
        name, result = product.node.output[0], f"{product.result}_int8"
        scale, zero = self._range(product.source)
        out_scale, out_zero = self._range(product.result)
        zeros = self._constant(f"{name}_zeros", np.zeros(len(scales), np.int8))
        inputs = [quantised, scale, zero, *stored, zeros, out_scale, out_zero]
        if product.bias is not None:
            unit = np.float64(self.ranges[product.source][0]) * scales  # of the sums, which are int32
            limits = np.iinfo(np.int32)
            bias = np.rint(product.bias / unit).clip(limits.min, limits.max).astype(np.int32)
            inputs.append(self._constant(f"{name}_bias", bias))
        convolution = self._node("QLinearConv", inputs, result)
        convolution.attribute.extend(product.node.attribute)
        return [convolution, self._node("DequantizeLinear", [result, out_scale, out_zero], product.result)]

    def _quantise(self, tensor: str) -> tuple[str, list[Any]]:
        name = f"{tensor}_uint8"
        if name in self.constants:
            return name, []
        self.constants[name] = None  # no constant, but made
        return name, [self._node("QuantizeLinear", [tensor, *self._range(tensor)], name)]

    def _range(self, tensor: str) -> tuple[str, str]:
        scale, zero = self.ranges[tensor]
        return self._constant(f"{tensor}_scale", np.array(scale)), self._constant(f"{tensor}_zero", np.array(zero))

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        if name not in self.constants:
            self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _node(self, kind: str, inputs: Sequence[str], output: str, **options: Any) -> Any:
        return self.onnx.helper.make_node(kind, list(inputs), [output], name=f"{kind}_{output}", **options)


def find_products(model: Any) -> list[Product]:
    """All matrix products (MatMul, Gemm) with fixed weights on the right, and all dense 2-D convolutions."""
    onnx = require("onnx", "onnx")
    constants = {entry.name: entry for entry in model.graph.initializer}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    writers = {name: node for node in model.graph.node for name in node.output}
    results = {entry.name for entry in model.graph.output}

    def fixed(name: str) -> Floats | None:
        entry = constants.get(name)
        return onnx.numpy_helper.to_array(entry) if entry is not None and entry.data_type == 1 else None

    found: dict[str, Product] = {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or (weight := fixed(node.input[1])) is None:
            continue
        settings = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        last, bias = node, fixed(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if node.op_type == "Conv" and (weight.ndim != 4 or settings.get("group", 1) != 1):
            continue
        if node.op_type == "Gemm":
            if settings.get("transA", 0) or settings.get("alpha", 1) != 1 or settings.get("beta", 1) != 1:
                continue
            weight = weight.T if settings.get("transB", 0) else weight
        if node.op_type == "MatMul":
            if weight.ndim != 2:
                continue
            last, bias = _bias_after(node, readers, results, fixed, weight.shape[1])
        if bias is not None and bias.shape != (weight.shape[0] if weight.ndim == 4 else weight.shape[1],):
            continue
        name = _layer_name(node, last, readers)
        name = name if name not in found else f"{name}/{node.output[0]}"
        found[name] = Product(name, node, last, weight, bias, _is_pooled(node.input[0], writers))
    return list(found.values())


def weight_scales(matrix: Floats) -> Floats:
    """One scale for each output of a weight matrix (inputs, outputs), so that sums of two products fit into 16 bits.

    CPUs without VNNI multiply 8-bit numbers in pairs: 255 * (a + b) of two neighbouring weights must stay below 2^15
    or is cut off without a word. So neighbours of one sign add up to 128 at most. Most pairs do anyway, and
    the weights keep nearly all of their 8 bits; leaving one bit out for all of them (`reduce_range`) loses more.
    """
    inputs, outputs = matrix.shape
    pairs = np.zeros((inputs + inputs % 2, outputs), np.float32)
    pairs[:inputs] = matrix
    pairs = pairs.reshape(-1, 2, outputs)
    largest = np.abs(matrix).max(axis=0) / 127
    for sign in (1, -1):  # 127 and not 128: rounding may add a half to each of the two
        largest = np.maximum(largest, np.maximum(sign * pairs, 0).sum(axis=1).max(axis=0) / 127)
    return np.maximum(largest, np.finfo(np.float32).tiny * 2**24).astype(np.float32)


def affine(seen: Seen) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of a tensor in 8 bits: those of the range with the least mean squared error.

    A range narrower than the one seen cuts outliers off and rounds all others more finely.
    """
    samples = np.concatenate(seen.samples)
    tried = {(low * seen.low, high * seen.high) for low in _CLIPS for high in {low, 1.0, _CLIPS[0]}}
    best = min(tried, key=lambda ends: _rounding_error(samples, *ends))
    return _scale_and_zero(*best)


def _rounding_error(samples: Floats, low: float, high: float) -> tuple[float, float]:
    scale, zero = _scale_and_zero(low, high)
    rounded = (np.rint(samples / scale) + zero).clip(0, 255)
    return float(np.square((rounded - zero) * scale - samples).mean()), low - high


def _scale_and_zero(low: float, high: float) -> tuple[np.float32, np.uint8]:
    scale = np.float32(max(high - low, 1e-12) / 255)
    return scale, np.uint8(np.rint(-low / scale).clip(0, 255))


def _update(seen: Seen, array: Floats, random: np.random.Generator) -> None:
    flat = array.ravel()
    seen.low, seen.high = min(seen.low, float(flat.min())), max(seen.high, float(flat.max()))
    seen.size += flat.size
    seen.samples.append(flat if flat.size <= _SAMPLES else flat[random.integers(0, flat.size, _SAMPLES)])


def _call(session: Any, feed: Sequence[NDArray[Any]]) -> Outputs:
    names = [entry.name for entry in session.get_inputs()]
    result: Outputs = session.run(None, dict(zip(names, feed, strict=True)))
    return result


def _bias_after(
    node: Any, readers: Mapping[str, list[Any]], results: Collection[str], fixed: Any, outputs: int
) -> tuple[Any, Floats | None]:
    """The node that adds a bias to a product, if one does and nobody else reads the product."""
    users = readers[node.output[0]]
    if len(users) == 1 and users[0].op_type == "Add" and node.output[0] not in results:
        for name in users[0].input:
            bias = fixed(name)
            if bias is not None and bias.shape == (outputs,):
                return users[0], bias
    return node, None


def _is_pooled(tensor: str, writers: Mapping[str, Any]) -> bool:
    """Whether a tensor is the result of a max pooling, transposed or reshaped at most."""
    node = writers.get(tensor)
    while node is not None and node.op_type in ("Transpose", "Reshape"):
        node = writers.get(node.input[0])
    return node is not None and node.op_type == "MaxPool"


def _layer_name(node: Any, last: Any, readers: Mapping[str, list[Any]]) -> str:
    """The layer's path in the model: from the name of its weights, as our exports call the node, or from its bias."""

    def path(kind: str) -> str:
        stems = [name.removesuffix(kind) for name in (*node.input, *last.input) if name.endswith(kind)]
        return next((stem for stem in stems if len(readers[stem + kind]) == 1), "")  # equal ones of several are one

    own = "" if node.name.startswith("node_") else str(node.name)
    return path(".weight") or own or path(".bias") or str(node.name or node.output[0])


def _approximate_gelu(onnx: Any, nodes: Iterable[Any]) -> None:
    """GELU by its tanh formula: less than 0.0005 off, below the 8-bit step, and a third faster."""
    for node in nodes:
        if node.op_type == "Gelu" and not node.domain:
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))


def halve_weights(onnx: Any, model: Any, *, least_rank: int = 2) -> None:
    """Keep float weights in 16 bits and widen them as the file is loaded: half the bytes, computed in float32.

    Tensors of fewer dimensions than `least_rank`, small ones, and those with numbers that do not fit stay as they are.
    """
    casts = []
    for entry in model.graph.initializer:
        if entry.data_type != onnx.TensorProto.FLOAT or len(entry.dims) < least_rank:
            continue
        values = onnx.numpy_helper.to_array(entry)
        if values.size >= _SMALL and np.abs(values).max() <= np.finfo(np.float16).max:
            name = entry.name
            entry.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def finish_graph(onnx: Any, model: Any, constants: Iterable[Any] = ()) -> None:
    """Add constants; drop weights that nobody reads any more, and notes of the exporter, which take megabytes."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {entry.name for entry in graph.output}
    kept = [entry for entry in graph.initializer if entry.name in used]
    kept += constants
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    del graph.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    if all(entry.domain != _CONTRIB for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_CONTRIB, 1))
