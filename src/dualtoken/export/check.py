"""The certificate: an export answers as its model does, on real pictures, from the file to the final answer.

Both go the whole way that users go (open, resize, normalise, network, choice of boxes, masks of the image's size), each
with the settings that it carries itself. On the way raw outputs are compared too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers import kind_of
from dualtoken.answers.agreement import Agreement
from dualtoken.engines import MAIN, Engine
from dualtoken.errors import ConfigError, ImageError, ModelError
from dualtoken.export.parity import LIMITS, Parity
from dualtoken.export.parity_pictures import Pictures, pictures_for
from dualtoken.files import digest
from dualtoken.hub import find_folder, find_model
from dualtoken.machine import machine_name
from dualtoken.model_folder import WEIGHTS, ModelConfig, is_model_folder
from dualtoken.prediction.exported import Export
from dualtoken.prediction.inputs import NamedInput
from dualtoken.prediction.models import load
from dualtoken.prediction.predictor import Predictor
from dualtoken.words import counted

_TOGETHER = 3  # pictures in a batch
_FEW = 4  # pictures of each further case


def verify(
    export: str | Path,
    model: str | Path | Predictor,
    *,
    images: str | Path | Sequence[str | Path] | None = None,
    engine: str = "auto",
    limit: float | None = None,
    trust: bool = False,
) -> Parity:
    """Compare an export with the model that it came from, from files to final predictions. Nothing is written.

    Args:
        export: exported file, such as model.onnx.
        model: the model folder that it came from. In Python also a loaded model.
        images: for the parity check: files, folders, patterns, zip archives. Left out: the model folder's samples, the
            data that it was trained on if that is still there, or invented images.
        engine: what runs the export; auto takes the engine of its format.
        limit: how far raw outputs may differ, relative to the largest. Left out: as the export's precision allows.
        trust: open an export that can run code (.pt2) too, since you know who made it.

    Raises:
        ModelError: one of the two cannot be loaded, or they have different tasks or heads.
        ConfigError: an impossible limit.
        ImageError, DataError: a picture cannot be read, or there is none.
    """
    reference = load_reference(model)
    return compare(reference, load(export, engine=engine, trust=trust), images=images, limit=limit)


def load_reference(model: str | Path | Predictor) -> Predictor:
    """The model in torch on the CPU, to evaluate; a loaded one stays as it is, and where that differs gets a copy."""
    from dualtoken.model_folder import load_model

    if isinstance(model, str | Path):
        if Path(model).is_file():
            raise ModelError(
                f"{str(model)!r} is a file, but a model folder is needed, as `dualtoken train` wrote it.",
                "Type: dualtoken export FOLDER --output FILE, or dualtoken verify FILE FOLDER",
            )
        return Predictor(*load_model(find_folder(model)), name=str(model))
    module: Any = model.model
    if not hasattr(module, "parameters"):
        raise ModelError(
            f"{model.name!r} is not a model in torch.", "Give the model folder, or what `dualtoken.load` gives."
        )
    parts = list(module.modules())
    if all(parameter.device.type == "cpu" for parameter in module.parameters()) and not any(p.training for p in parts):
        return model
    return Predictor(copy.deepcopy(module).cpu(), model.config, name=model.name)  # `Predictor` sets evaluation mode


def model_folder_of(reference: Predictor) -> Path | None:
    """Where a loaded model came from, if that is still there."""
    path = find_model(reference.name, local_files_only=True)
    return path if is_model_folder(path) else None


def compare(
    reference: Predictor,
    exported: Predictor,
    *,
    images: str | Path | Sequence[str | Path] | None = None,
    limit: float | None = None,
) -> Parity:
    """As `verify`, for two loaded models."""
    if limit is not None and not 0 < limit < 1:
        raise ConfigError(f"limit is {limit}, expected a number between 0 and 1.")
    if exported.export is None:
        raise ModelError(f"{exported.name!r} is not an exported model.", "Type: dualtoken verify FILE FOLDER")
    mine, its = reference.config, exported.config
    if (mine.task, mine.head) != (its.task, its.head):
        raise ModelError(
            f"{exported.name!r} is for {_purpose(its)}, but {reference.name!r} is for {_purpose(mine)}.",
            "Give the model folder that it was exported from.",
        )
    if len(mine.classes) != len(its.classes):  # other names are for the certificate to tell
        raise ModelError(
            f"{exported.name!r} knows {counted(len(its.classes), 'class', 'classes')},"
            f" but {reference.name!r} {counted(len(mine.classes), 'class', 'classes')}.",
            "Give the model folder that it was exported from.",
        )
    limit = LIMITS.get(exported.export.info.precision) if limit is None else limit
    folder = model_folder_of(reference)
    data = reference.config.provenance.get("data", {}).get("source")
    grey = bool(kind_of(mine.task).agreement(mine, 1.0).further())
    with pictures_for(images, folder, data, grey=grey, bands=mine.preprocessing.bands) as pictures:
        return _Check(reference, exported, exported.export, limit, pictures).run()


# ---------------------------------------------------------------- one comparison


Change = Callable[[ModelConfig], ModelConfig]  # of the settings of both


class _Recorder:
    """An engine that remembers what went in and what came out."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.calls: list[tuple[str, Sequence[Any], list[Any]]] = []

    def run(self, part: str, inputs: Sequence[Any]) -> list[Any]:
        outputs = self.engine.run(part, inputs)
        self.calls.append((part, inputs, outputs))
        return outputs


class _Replay:
    """An engine that gives a remembered first part, and computes the others."""

    def __init__(self, engine: Engine, first: list[Any]) -> None:
        self.engine, self.first = engine, first

    def run(self, part: str, inputs: Sequence[Any]) -> list[Any]:
        return self.first if part == MAIN else self.engine.run(part, inputs)


class _Check:
    def __init__(
        self, reference: Predictor, exported: Predictor, export: Export, limit: float | None, pictures: Pictures
    ) -> None:
        self.reference, self.exported, self.limit, self.pictures = reference, exported, limit, pictures
        self.info = export.info
        self.together = _TOGETHER if self.info.dynamic_batch else 1
        self.found = Parity(
            export=str(export.path), model=reference.name, task=reference.config.task, format=self.info.format,
            engine=export.engine, precision=self.info.precision, limit=limit, images=len(pictures.inputs),
            pictures=pictures.origin, machine=machine_name(), versions=dict(self.info.versions),
        )  # fmt: skip

    def run(self) -> Parity:
        self._check_settings()
        inputs, found = self.pictures.inputs, self.found
        main = self._agreement(self.reference.config)
        self._case("", None, inputs, main)
        for name, change in self._further(main).items():
            found.cases.append(name)
            few = [*inputs, *inputs, *inputs][:_FEW]
            self._case(name, change, few, self._agreement(change(self.reference.config)))
        found.relative_error = max(found.part_errors.values(), default=0.0, key=_or_infinite)
        found.answers, found.summary, found.passed = main.figures(), main.line(), not found.failure
        return found

    # ---------------------------------------------------------------- settings

    def _check_settings(self) -> None:
        """What the export carries must be what the model has, or answers differ on some picture of some day."""
        mine, its = self.reference.config, self.exported.config
        size = its.preprocessing.image_size
        if size != mine.preprocessing.image_size:  # asked for at the export
            mine = _resized(mine, size)
            self.reference = _with(self.reference, mine)
            self.found.notes.append(f"the export takes images of {size[0]} x {size[1]} pixels (height x width)")
        for name in ("classes", "preprocessing", "head_args", "temperature", "threshold", "thresholds", "offsets"):
            if getattr(mine, name) != getattr(its, name):
                reason = f"its {name} is {getattr(its, name)}, the model's is {getattr(mine, name)}"
                self.found.failure = self.found.failure or reason  # whatever the precision
        folder, known = model_folder_of(self.reference), self.info.weights_sha256
        if folder is not None and known and digest(folder / WEIGHTS) != known:
            self.found.notes.append("the model folder's weights are others than those that were exported")

    def _further(self, main: Agreement) -> dict[str, Change]:
        cases: dict[str, Change] = {}
        if self.together > 1 and len(self.pictures.inputs) <= self.together:
            cases[f"{_TOGETHER} images at once"] = lambda config: config
        if self.info.dynamic_size:
            for size in _other_sizes(self.exported.config.preprocessing.image_size):
                cases[f"images of {size[0]} x {size[1]}"] = partial(_resized, size=size)
        if missing := main.further():
            for word, args in missing.items():
                told = ", ".join(f"{name} {value:g}" for name, value in args.items())
                cases[f"{word}: {told}"] = partial(_rechosen, args=args)
            self.found.notes.append(
                f"no picture has {' or '.join(missing)} objects by itself: thresholds were changed to get there"
            )
        return cases

    def _agreement(self, config: ModelConfig) -> Agreement:
        return kind_of(config.task).agreement(config, self.limit or 1.0)

    # ---------------------------------------------------------------- answers

    def _case(self, name: str, change: Change | None, inputs: Sequence[NamedInput], agreement: Agreement) -> None:
        """Compare all `inputs`: the first alone, then the others a few at once."""
        reference, exported = self.reference, self.exported
        if change is not None:
            reference, exported = (_with(model, change(model.config)) for model in (reference, exported))
        first = self.together if "at once" in name else 1
        starts = range(first, len(inputs), self.together)
        for chunk in (inputs[:first], *(inputs[start : start + self.together] for start in starts)):
            self._chunk(reference, exported, chunk, agreement, f" with {name}" if name else "")

    def _chunk(
        self, reference: Predictor, exported: Predictor, chunk: Sequence[NamedInput], agreement: Agreement, where: str
    ) -> None:
        if not chunk:
            return
        mine, its = _Recorder(reference.engine), _Recorder(exported.engine)
        ours, theirs = _answers(reference, mine, chunk), _answers(exported, its, chunk)
        names = [str(name) for name, _ in chunk]
        self._raw(names, mine, its, where)
        for number, (name, our, their) in enumerate(zip(names, ours, theirs, strict=True)):
            again = partial(self._again, number, our)

            def candidates(again: Callable[..., Any] = again) -> Any:  # what each of the two chose its answer from
                sides = ((reference, mine), (exported, its))
                return tuple(again(model, heard, agreement.loosened(model.config)) for model, heard in sides)

            reason = agreement.add(our, their, candidates)
            if reason and self._by_choice_of_regions(again, (exported, mine), our, reference.config):
                agreement.ties += 1
                reason = ""
            if reason:
                self._fail(f"for {Path(name).name!r}{where} {reason}")

    def _again(self, number: int, answer: Any, model: Predictor, recorder: _Recorder, config: ModelConfig) -> Any:
        """The answer to one image of a batch under another config, from the first part's remembered outputs."""
        _, images, outputs = recorder.calls[0]
        other = _with(model, config)
        other.engine = _Replay(model.engine, [_array(output)[number : number + 1] for output in outputs])
        return other.answer(_array(images[0])[number : number + 1], [answer.size])[0]

    def _by_choice_of_regions(
        self, again: Callable[..., Any], other: tuple[Predictor, _Recorder], answer: Any, config: ModelConfig
    ) -> bool:
        """Whether two answers differ only because rounding chose other regions for the parts after the first."""
        if self.found.failure or all(part == MAIN for part, _, _ in other[1].calls):
            return False
        return not self._agreement(config).add(answer, again(*other, other[0].config))

    # ---------------------------------------------------------------- raw outputs

    def _raw(self, names: list[str], mine: _Recorder, its: _Recorder, where: str) -> None:
        """The first part from each one's own images; every later one from what the model's got."""
        for place, (part, inputs, outputs) in enumerate(mine.calls):
            if place < len(its.calls) and part == MAIN:
                _, its_inputs, found = its.calls[place]
                self._input(names, inputs[0], its_inputs[0], where)
            else:
                found = self.exported.engine.run(part, [_array(given) for given in inputs])
            self._outputs(part, outputs, found, names, where)

    def _input(self, names: list[str], mine: Any, its: Any, where: str) -> None:
        mine, its = _array(mine), _array(its)
        if mine.shape != its.shape:
            self._fail(f"{where.strip()} its images are {its.shape}, the model's are {mine.shape}".strip())
            return
        errors = np.abs(mine - its).reshape(len(mine), -1).max(axis=1)
        self.found.input_error = max(self.found.input_error, float(errors.max()), key=_or_infinite)
        if errors.max() != 0:  # NaN too
            self._fail(
                f"for {Path(names[int(errors.argmax())]).name!r}{where} the network's input differs by"
                f" {errors.max():.2g}: the two pre-process differently"
            )

    def _outputs(self, part: str, mine: list[Any], its: list[Any], names: list[str], where: str) -> None:
        if len(mine) != len(its):
            self._fail(f"its part {part!r} gives {counted(len(its), 'output')}, the model's {len(mine)}")
            return
        for number, (ours, theirs) in enumerate(zip(map(_array, mine), map(_array, its), strict=True)):
            name = f"{part} {number}"
            if ours.shape != theirs.shape:
                self._fail(f"output {name!r} is {theirs.shape}, the model's is {ours.shape}{where}")
                continue
            errors = np.abs(ours - theirs).reshape(len(ours), -1).max(axis=1, initial=0)
            relative = errors / max(float(np.abs(ours).max(initial=0)), 1e-12)
            worst = int(np.nanargmax(np.where(np.isnan(errors), np.inf, errors)))
            self.found.max_error = max(self.found.max_error, float(errors[worst]), key=_or_infinite)
            before = self.found.part_errors.get(name, 0.0)
            self.found.part_errors[name] = max(before, float(relative[worst]), key=_or_infinite)
            if self.limit is not None and not relative[worst] <= self.limit:
                whose = Path(names[worst]).name if part == MAIN else "a region"
                self._fail(
                    f"for {whose!r}{where} output {name!r} differs by {relative[worst]:.2g} of its largest value"
                    f" (limit {self.limit:.0e})"
                )

    def _fail(self, reason: str) -> None:
        """Keep the first reason; without a limit there is none."""
        if self.limit is not None and not self.found.failure:
            self.found.failure = reason


# ---------------------------------------------------------------- small parts


def _purpose(config: ModelConfig) -> str:
    task = config.task.replace("_", " ")
    return f"{task} ({config.head})" if config.head else task


def _with(model: Any, config: ModelConfig) -> Any:
    """The same model under another config; the model itself stays."""
    other = copy.copy(model)
    other.config = config
    return other


def _answers(model: Predictor, engine: _Recorder, chunk: Sequence[NamedInput]) -> list[Any]:
    """Final answers of the public way, with all objects, whatever their score."""
    recorded = _with(model, model.config)
    recorded.engine = engine
    answers = []
    for answer in recorded.stream(chunk, batch_size=len(chunk), workers=0, threshold=0.0):
        if isinstance(answer, tuple):
            error: ImageError = answer[1]
            raise error
        answers.append(answer)
    return answers


def _resized(config: ModelConfig, size: tuple[int, int]) -> ModelConfig:
    return replace(config, preprocessing=replace(config.preprocessing, image_size=size))


def _rechosen(config: ModelConfig, args: dict[str, Any]) -> ModelConfig:
    return replace(config, head_args=config.head_args | args)


def _other_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """One size that is wider than it is high, and one that is higher; multiples of 32, which every task takes."""
    height, width = (max(2, round(side / 32)) for side in size)
    return [(32 * height, 32 * (width + 1)), (32 * (height + 2), 32 * max(1, width - 1))]


def _array(values: Any) -> NDArray[Any]:
    """Also of what an engine hands from part to part in its own form."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu() if values.is_floating_point() else values.cpu()
    return np.asarray(values)


def _or_infinite(value: float) -> float:
    """So that what is no number counts as the worst."""
    return value if value == value else float("inf")
