"""`convert-weights`: a checkpoint of a paper's own code as a model folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone import VARIANTS, count_parameters, create_model, require_known
from dualtoken.backbone.official import OFFICIAL, Official
from dualtoken.errors import ModelError, first_line, nearest
from dualtoken.files import atomic_folder, digest, refuse_existing
from dualtoken.hub.download import PICKLES
from dualtoken.model_folder import ModelConfig, class_names, read_weights, save_model, versions
from dualtoken.preprocess import Preprocessing
from dualtoken.words import counted

_SHOWN = 3  # names of a list in a message
_COUNTERS = ".num_batches_tracked"  # older checkpoints have none, and nothing depends on them
_MAGIC = (b"PK\x03\x04", b"\x80")  # what torch.save writes: an archive with a pickle in it, or a plain one
_TO_SAFETENSORS = """It could run code when it is opened. Python reads its tensors alone, and writes what is needed:

    import torch
    from safetensors.torch import save_file
    state = torch.load({before!r}, map_location="cpu", weights_only=True)
    for key in ("state_dict_ema", "state_dict", "model"):
        state = state.get(key, state)
    save_file({{name: tensor.contiguous().clone() for name, tensor in state.items()}}, {after!r})
"""


@dataclass(frozen=True)
class ConvertedWeights:
    """What was written.

    Attributes:
        folder: of the model.
        tensors, classes, parameters: how many.
    """

    folder: Path
    tensors: int
    classes: int
    parameters: int

    def summary(self) -> str:
        """How much was carried across, in a few words."""
        number = f"{self.parameters / 1e6:.3f} M parameters"
        return f"{counted(self.tensors, 'tensor')}, {number}, {counted(self.classes, 'class', 'classes')}"


def convert_weights(checkpoint: str | Path, model: str, output: str | Path) -> ConvertedWeights:
    """Turn a checkpoint of a paper's official code into a model folder, for train, predict, evaluate and export.

    Args:
        checkpoint: safetensors file with the tensors under their official names.
        model: which network they are of, such as cas_vit_xs; one of `dualtoken models` or of timm.
        output: folder of the model, new or empty.

    Raises:
        ModelError: no safetensors, a network without rules, or tensors that are not this network's.
        OutputError: the folder is not empty, or cannot be written.
    """
    refuse_existing(output, "--output")
    require_known(model)
    path = Path(checkpoint)
    network = carry_over(_read(path), model)
    cfg: Any = network.pretrained_cfg
    classes = class_names(network.num_classes)  # type: ignore[arg-type]
    sides = cfg["input_size"][1:]
    official = _official(model)
    preprocessing = Preprocessing(
        image_size=tuple(sides),
        crop_pct=official.crop_pct if official else cfg["crop_pct"],
        interpolation=cfg["interpolation"],
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )
    source = {"file": path.name, "sha256": digest(path), "code": VARIANTS[model].code if model in VARIANTS else ""}
    provenance = {"converted_from": source, "versions": versions()}
    with atomic_folder(output) as folder:
        save_model(network, ModelConfig(model, classes, preprocessing, provenance=provenance), folder)
    return ConvertedWeights(Path(output), len(network.state_dict()), len(classes), count_parameters(network))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelError: there is none, or it is a pickle; the hint is what to type in Python.
    """
    if not path.is_file():
        raise ModelError(f"There is no file {str(path)!r}.", "Give a checkpoint as a safetensors file.")
    with path.open("rb") as file:
        begins = file.read(9)
    header = begins[8:] == b"{"  # of safetensors, after its length
    if not header and (begins.startswith(_MAGIC) or path.suffix in PICKLES):
        after = path.with_suffix(".safetensors")
        hint = _TO_SAFETENSORS.format(before=str(path), after=str(after))
        raise ModelError(f"{str(path)!r} is a pickle, and dualtoken opens safetensors alone.", hint)
    return read_weights(path)


def carry_over(state: Mapping[str, Tensor], name: str) -> nn.Module:
    """The network `name` with the weights of an official checkpoint, in evaluation mode.

    Args:
        state: tensors by their official names; a prefix that all share (`module.`, `model.`) does not matter.
        name: of a family in `OFFICIAL`, or of a network that timm has.

    Returns:
        It has as many classes as the checkpoint.

    Raises:
        ModelError: no rules for the network, or tensors that are missing, left over or of another shape.
    """
    state = _without_prefix(state)
    model = create_model(name)
    try:
        tensors, theirs, left = _ours(state, model, name)
    except _MisfitError as error:
        raise ModelError(str(error), _hint(name, _others(state, name))) from None
    classes = _classes(tensors, model)
    if classes not in (None, model.num_classes):
        model = create_model(name, num_classes=classes)
    own = model.state_dict()
    missing = [theirs[key] for key in own if key not in tensors and not key.endswith(_COUNTERS)]
    shapes = {
        theirs[key]: (tuple(tensors[key].shape), tuple(own[key].shape))
        for key in own
        if key in tensors and _size(tensors[key]) != _size(own[key])
    }
    if missing or left or shapes:
        raise ModelError(_differences(name, missing, left, shapes), _hint(name, _others(state, name)))
    model.load_state_dict({key: tensors[key].reshape(own[key].shape) if key in tensors else own[key] for key in own})
    return model.eval()


# ---------------------------------------------------------------- whose tensor is whose


class _MisfitError(Exception):
    """A filter of timm could not make anything of a checkpoint."""


def _ours(
    state: Mapping[str, Tensor], model: nn.Module, name: str
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The tensors by our names, their name of each that we have, and what nobody asked for."""
    own, official = model.state_dict(), _official(name)
    if official is not None:
        theirs = {key: official.name_of(key) for key in own}
        asked = {*theirs.values()}
        left = [
            key
            for key in state
            if key not in asked and not key.endswith(_COUNTERS) and not re.search(official.computed, key)
        ]
        return {key: state[of] for key, of in theirs.items() if of in state}, theirs, left
    adapt: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        tensors: dict[str, Tensor] = dict(adapt(dict(state), model) if adapt else state)
    except Exception as error:  # dozens of filters: each stumbles in another way
        raise _MisfitError(f"This is no checkpoint of {name}: timm's filter fails at {first_line(error)}.") from error
    return tensors, {key: key for key in own}, [key for key in tensors if key not in own]


def _official(name: str) -> Official | None:
    """The names of a network's official code; None for what timm has.

    Raises:
        ModelError: nobody wrote them down.
    """
    variant = VARIANTS.get(name)
    if variant is None or variant.config is None:
        return None
    found = OFFICIAL.get(name) or OFFICIAL.get(variant.family)
    if found is None:
        known = ", ".join(sorted({one.family for one in VARIANTS.values()}.intersection(OFFICIAL)))
        raise ModelError(
            f"Which names the official checkpoints of {name} have is not known here.", f"It is of: {known}."
        )
    return found


def _without_prefix(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What wrappers put before every name is taken away."""
    for prefix in ("module.", "model."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _classes(tensors: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """How many the checkpoint's classifier tells apart; None where it has none."""
    weight = tensors.get(f"{_classifiers(model)[0]}weight")
    return None if weight is None else len(weight)


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """What the names of the last layers' tensors begin with."""
    names: Any = model.pretrained_cfg["classifier"]  # type: ignore[index]
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _size(tensor: Tensor) -> list[int]:
    """Its sides but those of 1: a point-wise convolution is a linear layer."""
    return [side for side in tensor.shape if side != 1]


# ---------------------------------------------------------------- what to say where they differ


def _others(state: Mapping[str, Tensor], name: str) -> list[str]:
    """The other sizes of the family that the tensors fit."""
    family = VARIANTS[name].family if name in VARIANTS else None
    sizes = [other for other, variant in VARIANTS.items() if variant.family == family and other != name]
    return [other for other in sizes if _fits(state, other)]


def _fits(state: Mapping[str, Tensor], name: str) -> bool:
    """Whether the tensors are those of this network, whatever its classes."""
    with torch.device("meta"):
        model = create_model(name)
    try:
        tensors, _, left = _ours(state, model, name)
    except _MisfitError:
        return False
    own = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(_classifiers(model))}
    return not left and all(
        key.endswith(_COUNTERS) or (key in tensors and _size(tensors[key]) == _size(own[key])) for key in own
    )


def _differences(
    name: str, missing: list[str], left: list[str], shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> str:
    lines = [f"This is no checkpoint of {name}."]
    if missing:
        lines.append(f"Missing, {counted(len(missing), 'tensor')}: " + _few(missing, lambda key: _near(key, left)))
    if left:
        lines.append(f"Left over, {counted(len(left), 'tensor')}: " + _few(left, lambda key: _near(key, missing)))
    if shapes:
        lines.append(
            f"Of another shape, {counted(len(shapes), 'tensor')}: "
            + _few([*shapes], lambda key: f"{_shape(shapes[key][0])} in place of {_shape(shapes[key][1])}")
        )
    return "\n".join(lines)


def _few(names: list[str], about: Callable[[str], str]) -> str:
    shown = [f"{key} ({more})" if (more := about(key)) else key for key in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more." if len(names) > _SHOWN else ".")


def _near(key: str, others: list[str]) -> str:
    found = nearest(key, others)
    return f"nearest: {found}" if found else ""


def _shape(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides)) or "1"


def _hint(name: str, others: list[str]) -> str:
    if others:
        return f"It fits {' and '.join(others)}. Type: --model {others[0]}"
    code = VARIANTS[name].code if name in VARIANTS else ""
    return f"Give a checkpoint of {name} as {code or 'its authors'} has it, whole and before any merging of layers."
