"""Networks that teach: of timm's registry, the Hub, a model folder, or an ONNX or OpenVINO file.

All of them are asked alike: pixels uint8 (B, 3, S, S) to logits, pooled features and maps. Each scales the pixels to
its own input and normalises them as its own description says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dualtoken.answers import CLASSIFIER
from dualtoken.errors import ConfigError, ModelError, require
from dualtoken.hub import find_model, missing_model
from dualtoken.model_folder import class_names, load_config, load_model
from dualtoken.preprocess import IMAGENET_MEAN, IMAGENET_STD

# Maps are compared by level: after strides of 8 and 16, and the last ones before pooling. Each on a grid of so many
# places a side: enough to say where, little to keep.
LAST = "last"
MAP_SIDES = {"8": 8, "16": 4, LAST: 2}


class Taught(NamedTuple):
    """What a teacher says of a batch, float32; what it does not give is None.

    Attributes:
        logits: (B, classes).
        features: (B, width), pooled.
        maps: by level, (B, width of the level, side, side) with the side that `MAP_SIDES` names.
    """

    logits: Tensor | None
    features: Tensor | None
    maps: Mapping[str, Tensor] = MappingProxyType({})


def on_grids(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Maps (B, C, h, w) by level to (B, C, side, side), by their means."""
    return {level: F.adaptive_avg_pool2d(one, MAP_SIDES[level]) for level, one in maps.items()}


def last_and_between(model: nn.Module, images: Tensor, *, between: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """What a network of timm's kind sees before pooling, and its maps by level; none where it has tokens only.

    Without `between` these are the last alone.
    """
    network = cast(Any, model)
    strides = [str(one["reduction"]) for one in getattr(network, "feature_info", None) or ()]
    levels = {stride: place for place, stride in enumerate(strides) if stride in MAP_SIDES}  # the last of each
    if not (between and levels and hasattr(network, "forward_intermediates")):
        last = network.forward_features(images)
        return last, {LAST: last} if is_map(last) else {}
    last, maps = network.forward_intermediates(images, indices=sorted(levels.values()))
    if not is_map(last):
        return last, {}
    return last, dict(zip(sorted(levels, key=lambda stride: levels[stride]), maps, strict=True)) | {LAST: last}


class TeacherInput(NamedTuple):
    """How pixels become a teacher's input: side in pixels, mean and std for pixels scaled to [0, 1]."""

    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) to float32 (B, 3, size, size)."""
        return normalised(scaled(pixels, self.size), self.mean, self.std)


def scaled(pixels: Tensor, size: int) -> Tensor:
    """uint8 (B, 3, S, S) to float32 (B, 3, size, size), 0 to 255; what shrinks is averaged over."""
    images = pixels.float()
    if pixels.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp_(0, 255)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels 0 to 255 to the network's numbers."""
    centre, spread = (torch.tensor(values, device=images.device)[:, None, None] * 255 for values in (mean, std))
    return (images - centre) / spread


class Teacher(Protocol):
    """Says what it sees.

    Attributes:
        name: as it was given.
        classes: class names in the order of its logits; none where it gives no logits.
        width: of its pooled features; 0 where it gives none.
        map_widths: channels of its maps by level; empty where it gives none.
        key: digest of its weights and of its input.
    """

    name: str
    classes: tuple[str, ...]
    width: int
    map_widths: Mapping[str, int]
    key: str

    def __call__(self, pixels: Tensor) -> Taught:
        """uint8 (B, 3, S, S) to what it says of them."""


def open_teacher(
    name: str,
    *,
    size: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    device: torch.device | None = None,
) -> Teacher:
    """A teacher by name.

    Args:
        name: an ONNX or OpenVINO file, a model folder, `hf-hub:USER/NAME`, or a name of timm's registry, whose weights
            timm then fetches.
        size: side of its input in pixels; None for the one that it was trained with.
        mean, std: of its input, for pixels scaled to [0, 1]; None for those of its description, else ImageNet's.
        device: where a torch network runs.

    Raises:
        ModelError: there is no such model, or it is no classifier.
    """
    given: dict[str, Any] = {"size": size, "mean": mean, "std": std}
    path = Path(name)
    if path.suffix.lower() in (".onnx", ".xml"):
        if not path.is_file():
            raise ModelError(f"There is no file {name!r} to teach.", "Give an ONNX or OpenVINO file.")
        return ExportedTeacher(path, **given)
    folder = find_model(name)
    if folder.is_dir():
        if load_config(folder).task != CLASSIFIER:
            raise ModelError(f"{name!r} is no classifier, and only classifiers teach.", "Give a classifier's folder.")
        model, config = load_model(folder)
        preprocessing = config.preprocessing
        described = TeacherInput(max(preprocessing.image_size), preprocessing.mean, preprocessing.std)
        return TorchTeacher(name, model, config.classes, _input(described, **given), device)
    if not timm.is_model(name):
        raise missing_model(name, timm.list_models())
    model = timm.create_model(name, pretrained=True).eval()
    cfg = cast(Any, model).pretrained_cfg
    described = TeacherInput(cfg["input_size"][-1], tuple(cfg["mean"]), tuple(cfg["std"]))
    return TorchTeacher(name, model, class_names(cast(Any, model).num_classes), _input(described, **given), device)


def _input(described: TeacherInput, size: int | None, mean: Any, std: Any) -> TeacherInput:
    return TeacherInput(size or described.size, tuple(mean or described.mean), tuple(std or described.std))


class TorchTeacher:
    """A classifier of timm's kind."""

    def __init__(
        self, name: str, model: nn.Module, classes: tuple[str, ...], prepare: TeacherInput, device: torch.device | None
    ) -> None:
        self.name, self.classes, self.prepare = name, classes, prepare
        self.model = model.eval().requires_grad_(False).to(device or "cpu")
        self.width = int(cast(Any, model).head_hidden_size)
        with torch.no_grad():
            _, maps = last_and_between(self.model, next(model.parameters()).new_zeros(2, 3, *[prepare.size] * 2))
        self.map_widths: Mapping[str, int] = {level: one.shape[1] for level, one in maps.items()}
        weights = hashlib.sha256(repr(prepare).encode())
        for key, tensor in sorted(model.state_dict().items()):
            weights.update(
                key.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        self.key = weights.hexdigest()

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Taught:
        model = cast(Any, self.model)
        device = next(self.model.parameters()).device
        last, maps = last_and_between(model, self.prepare(pixels.to(device)))
        features = model.forward_head(last, pre_logits=True)
        places = on_grids({level: one.float() for level, one in maps.items()})
        return Taught(model.get_classifier()(features).float(), features.float(), places)


def is_map(features: Any) -> bool:
    """Whether features before pooling are maps (B, C, h, w), as of all pyramids, and not tokens (B, N, C)."""
    return isinstance(features, Tensor) and features.ndim == 4


class ExportedTeacher:
    """An ONNX or OpenVINO file, run on the CPU: its outputs `logits` and `features`, or the only one as logits.

    Features (B, C, h, w) are the last maps too, and are pooled here. Outputs `maps_8` and `maps_16` are those between.

    What it says about itself is read where this package wrote the file. Else classes are ImageNet's or numbered, and
    size, mean and std are those given, or 224 pixels and ImageNet's.
    """

    def __init__(self, path: Path, size: int | None, mean: Any, std: Any, threads: int | None = None) -> None:
        self.name = str(path)
        described, classes = _described(path)
        self.prepare = _input(described or TeacherInput(224), size, mean, std)
        self.outputs, self.run = _session(path, threads or torch.get_num_threads())
        logits, features, maps = self._ask(torch.zeros(2, 3, self.prepare.size, self.prepare.size, dtype=torch.uint8))
        if classes and (logits is None or logits.shape[1] != len(classes)):
            raise ModelError(f"{self.name!r} names {len(classes)} classes, but that is not what it gives.")
        self.classes = classes or (class_names(logits.shape[1]) if logits is not None else ())
        self.width = 0 if features is None else features.shape[1]
        self.map_widths: Mapping[str, int] = {level: one.shape[1] for level, one in maps.items()}
        self.key = hashlib.sha256(path.read_bytes() + repr(self.prepare).encode()).hexdigest()

    def __call__(self, pixels: Tensor) -> Taught:
        return self._ask(pixels)

    def _ask(self, pixels: Tensor) -> Taught:
        try:
            arrays = self.run(self.prepare(pixels.cpu()).numpy())
        except Exception as error:  # each engine has classes of its own
            raise ModelError(
                f"{self.name!r} cannot be asked about {len(pixels)} images of {self.prepare.size} pixels: {error}",
                "Export it for any number of images, and give its input: --set teacher_size=SIDE",
            ) from error
        named = dict(zip(self.outputs, arrays, strict=True))
        logits = named.get("logits", arrays[0] if len(arrays) == 1 else None)
        if logits is None and "features" not in named:
            raise ModelError(
                f"{self.name!r} gives {', '.join(self.outputs)}: which are logits, and which features?",
                "Name its outputs logits and features.",
            )
        features = _tensor(named.get("features"))
        if features is None or not is_map(features):
            return Taught(_tensor(logits), features)
        between = {level: _tensor(named.get(f"maps_{level}")) for level in MAP_SIDES}
        maps = {level: one for level, one in between.items() if one is not None} | {LAST: features}
        return Taught(_tensor(logits), features.mean((2, 3)), on_grids(maps))


def _tensor(array: NDArray[Any] | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _described(path: Path) -> tuple[TeacherInput | None, tuple[str, ...]]:
    """Input and classes of a file that this package wrote."""
    from dualtoken.prediction import load

    try:
        config = load(path).config
    except ModelError:
        return None, ()
    preprocessing = config.preprocessing
    return TeacherInput(max(preprocessing.image_size), preprocessing.mean, preprocessing.std), config.classes


def _session(path: Path, threads: int) -> tuple[list[str], Any]:
    """Names of the outputs of a file, and what runs it: an array to a list of arrays."""
    if path.suffix.lower() == ".onnx":
        runtime = require("onnxruntime", "runtime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0].name
        return [node.name for node in session.get_outputs()], lambda images: session.run(None, {entry: images})
    openvino = require("openvino", "runtime-openvino")
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", settings)
    names = [node.get_any_name() for node in model.outputs]
    return names, lambda images: [model(images)[number] for number in range(len(names))]


def shared_classes(teachers: Sequence[Teacher]) -> tuple[str, ...]:
    """The classes that all teachers with logits know.

    Raises:
        ConfigError: they know different ones.
    """
    known = [teacher for teacher in teachers if teacher.classes]
    for teacher in known[1:]:
        if teacher.classes != known[0].classes:
            raise ConfigError(
                f"{known[0].name!r} and {teacher.name!r} know different classes, so that their logits have no average.",
                "Give teachers of the same classes, or learn features alone: --set soft_labels=0",
            )
    return known[0].classes if known else ()
