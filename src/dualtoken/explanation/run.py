"""`explain`: a model and images to where it looks, what that is worth, and what the global tokens do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from dualtoken.errors import ConfigError, ImageError, UserError, printable, unknown_name
from dualtoken.explanation.attention import BlockRecord, TokenRecord, find_network, record
from dualtoken.explanation.faithfulness import (
    BASELINES,
    FRESH_COPIES,
    RANDOM_MAPS,
    Baseline,
    compare_with_fresh,
    measure,
)
from dualtoken.explanation.heat import Heat, check_method, heat_map
from dualtoken.explanation.levels import choose_levels
from dualtoken.explanation.opening import fresh_network, open_model
from dualtoken.explanation.results import Explanation, TargetExplanation
from dualtoken.explanation.targets import Questions, ask, check_class
from dualtoken.explanation.views import View, view
from dualtoken.files import alone, refuse_existing, together, unique, writable_folder, write_json
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.model_folder import ModelConfig, versions
from dualtoken.prediction import Predictor, collect_inputs, open_input

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT = "explanation.json"
METHOD = "hirescam"
_MOST_STEPS = 1000  # a map takes as many passes, twice; on finer ones the figures do not change
_LARGEST_SEED = 2**32

Named = tuple[str | None, Any]
Bar = Callable[..., None]


def explain(
    model: str | Path | Predictor, inputs: Any, output: str | Path | None = None, **options: Any
) -> list[Explanation]:
    """Show where a model looks in images, and what that is worth: `explain_each` for all of them.

    Raises:
        ImageError: an image cannot be read; `explain_each` goes on instead.
        ConfigError: an image does not have the pixel; `explain_each` goes on instead.
    """
    results = []
    for result in explain_each(model, inputs, output, **options):
        if isinstance(result, tuple):
            raise result[1]
        results.append(result)
    return results


def explain_each(
    model: str | Path | Predictor,
    inputs: Any,
    output: str | Path | None = None,
    *,
    target: str | None = None,
    most: int | None = None,
    method: str = METHOD,
    stride: int | None = None,
    pixel: tuple[float, float] | None = None,
    blocks: str | Sequence[str] = "last",
    baseline: Baseline = "blur",
    steps: int = 16,
    seed: int = 0,
    device: str = "auto",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
) -> Iterator[Explanation | tuple[str, UserError]]:
    """Show where a model looks, what that is worth, and what the global tokens do (needs the extra `explain`).

    Args:
        model: a model folder, a model of the package, hf-hub:USER/NAME, or the name of a network of timm (fresh
            weights). In Python also a `Predictor` that runs in torch.
        inputs: files, folders, patterns, zip archives. In Python also pillow images and arrays.
        output: folder to make, for figures, overlays and `explanation.json`, which grows with every image. No folder is
            made where no image can be explained. In Python it may be left out: nothing is written then.
        target: name of a class: explain it alone; images in which the model does not find it say so.
        most: classes, objects or regions to explain in an image. Left out: 1 class, 3 objects, all regions.
        method: how the heat map is computed: hirescam, gradcam or integrated_gradients.
        stride: for classes: pixels for one position of the map to read.
        pixel: pixel of the image whose attention is drawn. Left out: where the first map is strongest.
        blocks: of our networks, whose attention is drawn: last of each stage, all, or names such as 1.2,3.1: the stage
            and the block in it, counted from 1.
        baseline: what stands where pixels are taken away.
        steps: parts in which pixels are taken away, 2 to 1000.
        seed: decides random maps and fresh weights, 0 or more.
        device: where to compute: auto, cpu, cuda, cuda:1 or mps.
        limits: what an image may cost.
        progress: show bars, on a terminal.

    Yields:
        For each image an `Explanation`, or its name and why there is none: an `ImageError`, or the `ConfigError` of a
        pixel that it does not have. The model is left as it was.

    Raises:
        ModelError: an export, which has no gradients; or a network whose maps cannot be read.
        ConfigError: an impossible setting, or one that means nothing for this model.
        MissingExtraError: captum is not installed.
        OutputError: `output` is there already, or cannot be written.
    """
    check_method(method)
    _check(baseline, steps, most, method, stride, pixel, seed)
    if output is not None:
        refuse_existing(output, "output")
    predictor, notes = open_model(model, device, seed)
    network = find_network(predictor.model)  # type: ignore[arg-type]
    if network is None and (pixel is not None or blocks != "last"):
        raise ConfigError(
            f"{'pixel' if pixel is not None else 'blocks'} is given, but {predictor.config.architecture} has no global"
            " tokens whose attention could be drawn.",
            "Leave it out: heat maps are drawn for every network.",
        )
    _check_blocks(network, blocks)
    check_class(predictor.config, target)
    job = _Job(
        predictor, target, most, method, stride, pixel, blocks, baseline, steps, seed, tuple(notes), learned=not notes
    )  # fmt: skip
    return _explanations(job, _named(inputs), None if output is None else Path(output), limits, progress)


@dataclass(frozen=True, eq=False)
class _Job:
    """What is the same for all images."""

    predictor: Predictor
    target: str | None
    most: int | None
    method: str
    stride: int | None
    pixel: tuple[float, float] | None
    blocks: str | Sequence[str]
    baseline: Baseline
    steps: int
    seed: int
    notes: tuple[str, ...]
    learned: bool  # whether its weights are not fresh

    @property
    def model(self) -> nn.Module:
        return cast(nn.Module, self.predictor.model)

    @property
    def config(self) -> ModelConfig:
        return self.predictor.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.predictor.name,
            "architecture": self.config.architecture,
            "task": self.config.task,
            "method": self.method,
            "baseline": self.baseline,
            "steps": self.steps,
            "seed": self.seed,
            "versions": versions(),
        }


def _explanations(
    job: _Job, named: Iterator[Named], folder: Path | None, limits: ImageLimits, progress: bool
) -> Iterator[Explanation | tuple[str, UserError]]:
    done: list[dict[str, Any]] = []
    names: set[str] = set()
    with _made(folder):
        seeds = range(job.seed + 1, job.seed + 1 + FRESH_COPIES) if job.learned else ()
        fresh = [fresh_network(job.config, seed).to(job.device) for seed in seeds]
        for given_name, source in named:
            name = None if given_name is None else printable(given_name)
            try:
                image = open_input(given_name, source, limits, bands=job.config.preprocessing.bands)
                seen = view(image, job.config.preprocessing)
                given = None if job.pixel is None else seen.to_input(job.pixel)
            except (ImageError, ConfigError) as error:
                if isinstance(error, ConfigError) and name is not None:
                    error = ConfigError(f"{name!r}: {error.message}", error.hint)
                yield name or "pixels", error
                continue
            with _progress(progress, name or "pixels") as bar:
                result = _explain_one(job, fresh, name, image, seen, given, bar)
            if folder is not None:
                _write(job, result, folder, unique(Path(name).stem if name else "image", names))
                done.append(result.to_dict())
                write_json(folder / RESULT, job.to_dict() | {"images": done})
            yield result


@contextmanager
def _made(folder: Path | None) -> Iterator[None]:
    """The folder is there and can be written; what was made for it goes again if it stays empty."""
    if folder is None:
        yield
        return
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with alone(folder):
            writable_folder(folder)
            yield
    finally:
        with suppress(OSError):  # of the first that holds something
            for place in new:
                place.rmdir()


def _explain_one(
    job: _Job,
    fresh: Sequence[nn.Module],
    name: str | None,
    image: Image.Image,
    seen: View,
    given: tuple[float, float] | None,
    bar: Bar,
) -> Explanation:
    """Ask, draw maps, weigh them, then look at the tokens."""
    pixels = torch.from_numpy(job.config.preprocessing(image))[None].to(job.device)
    questions = ask(job.model, job.config, pixels, seen.part, job.target, job.most)
    bar(total=len(questions.targets) * (2 + len(fresh)) + RANDOM_MAPS)
    targets = tuple(_explain_targets(job, fresh, questions, seen, pixels, bar))
    left, top, right, bottom = seen.part
    middle = (left + right) / 2, (top + bottom) / 2
    position = given or (_strongest(targets[0].heat, seen) if targets else middle)
    tokens, blocks = _tokens(job, pixels)
    pixel = job.pixel or seen.pixel_at(position)
    return Explanation(name, seen, targets, tokens, blocks, pixel, position, (*job.notes, *questions.notes))


def _explain_targets(
    job: _Job, fresh: Sequence[nn.Module], questions: Questions, seen: View, pixels: Tensor, bar: Bar
) -> Iterator[TargetExplanation]:
    scorer, step = questions.scorer, partial(bar, advance=1)
    if scorer is None:
        return
    levels = (
        []
        if job.method == "integrated_gradients"
        else choose_levels(job.model, job.config.task, scorer, pixels, job.stride)
    )
    heats, sanities = [], []
    for number, _ in enumerate(questions.targets):
        heats.append(heat_map(job.method, job.model, levels, scorer, pixels, number))
        step()
        others = []
        for other in fresh:
            others.append(heat_map(job.method, other, levels, scorer.of(other), pixels, number))
            step()
        sanities.append(compare_with_fresh(heats[-1], others) if others else None)
    worths = measure(heats, scorer, pixels, seen.part, baseline=job.baseline, steps=job.steps, seed=job.seed, step=step)
    for target, heat, worth, sanity in zip(questions.targets, heats, worths, sanities, strict=True):
        yield TargetExplanation(target, heat, worth, sanity, seen.pixel_at(_strongest(heat, seen)))


def _strongest(heat: Heat, seen: View) -> tuple[float, float]:
    """x, y in pixels of the input: the middle of where the map is strongest."""
    inside = heat.over(seen.preprocessing.image_size)[seen.part.rows, seen.part.columns]
    rows, columns = np.nonzero(inside >= inside.max())
    middle = len(rows) // 2
    return float(columns[middle]) + seen.part.left + 0.5, float(rows[middle]) + seen.part.top + 0.5


def _tokens(job: _Job, pixels: Tensor) -> tuple[TokenRecord | None, tuple[BlockRecord, ...]]:
    """What all blocks of one of our networks did, and the chosen ones."""
    network = find_network(job.model)
    if network is None:
        return None, ()
    dense = getattr(job.model, "dense", job.model)
    tokens = record(network, lambda: dense(pixels))
    if job.blocks == "all":
        return tokens, tokens.blocks
    if job.blocks == "last":
        last = {block.name.partition(".")[0]: block for block in tokens.blocks}
        return tokens, tuple(last.values())
    return tokens, tuple(block for block in tokens.blocks if block.name in job.blocks)


# ---------------------------------------------------------------- what is asked for


def _check(
    baseline: str,
    steps: int,
    most: int | None,
    method: str,
    stride: int | None,
    pixel: tuple[float, float] | None,
    seed: int,
) -> None:
    if baseline not in BASELINES:
        raise ConfigError(unknown_name("baseline", baseline, BASELINES))
    if not 2 <= steps <= _MOST_STEPS:
        raise ConfigError(f"steps is {steps:,}, expected 2 to {_MOST_STEPS:,}.")
    if not 0 <= seed < _LARGEST_SEED:
        raise ConfigError(f"seed is {seed}, expected 0 to {_LARGEST_SEED - 1:,}.")
    if pixel is not None and not min(pixel) >= 0:
        raise ConfigError(f"pixel is {pixel[0]:g},{pixel[1]:g}, expected X,Y, counted from 0 at the left and top.")
    if most is not None and most < 1:
        raise ConfigError(f"most is {most}, expected 1 or more.")
    if stride is not None and method == "integrated_gradients":
        raise ConfigError("stride is given, but integrated gradients ask pixels, not a map.", "Leave it out.")


def _check_blocks(network: Any, blocks: str | Sequence[str]) -> None:
    if network is None or blocks in ("last", "all"):
        return
    known = [f"{stage}.{n}" for stage, part in enumerate(network.stages, 1) for n in range(1, len(part.blocks) + 1)]
    if isinstance(blocks, str) or not blocks:
        raise ConfigError(f"blocks is {blocks!r}, expected 'last', 'all' or a list of {', '.join(known)}.")
    for name in blocks:
        if name not in known:
            raise ConfigError(unknown_name("block", name, known), "They are STAGE.BLOCK, counted from 1.")


def _named(inputs: Any) -> Iterator[Named]:
    single = isinstance(inputs, str | Path | bytes | Image.Image) or hasattr(inputs, "shape")
    for source in [inputs] if single else inputs:
        if isinstance(source, str | Path):
            yield from collect_inputs([source])
        else:
            yield getattr(source, "filename", None) or None, source


# ---------------------------------------------------------------- what is written


def _write(job: _Job, result: Explanation, folder: Path, stem: str) -> None:
    """The figures and overlays of one image, all or none; their names go into `result.files`."""
    from dualtoken.explanation.figure import Row, heat_figure, overlay, token_figure
    from dualtoken.report.plots import to_png

    what = f"{Path(result.path).name if result.path else 'image'} · {Path(job.predictor.name).name}"
    with together(folder / f"{stem}.heat.png") as place:

        def save(kind: str, picture: Figure | Image.Image) -> str:
            path = place / f"{stem}.{kind}.png"
            picture.save(path) if isinstance(picture, Image.Image) else path.write_bytes(to_png(picture))
            return path.name

        if result.targets:
            rows = [Row(part.target, part.heat, part.faithfulness, part.sanity) for part in result.targets]
            title = f"What speaks for the prediction: {what}"
            result.files["heat"] = save("heat", heat_figure(result.view, rows, title, result.notes))
            result.files["overlays"] = [
                save(str(number), overlay(result.view, row.heat)) for number, row in enumerate(rows, 1)
            ]
        if result.tokens is not None:
            tokens = token_figure(
                result.view, result.tokens, result.blocks, result.position, f"What the global tokens do: {what}",
                result.notes,
            )  # fmt: skip
            result.files["tokens"] = save("tokens", tokens)


@contextmanager
def _progress(shown: bool, name: str) -> Iterator[Bar]:
    """How far it is with the maps of an image: told their number as `total`, and to `advance`."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        yield partial(bar.update, bar.add_task(name, total=None))
