"""A trained model that answers: single images, streams of them, and whole splits.

What computes the raw outputs is its engine: torch for a model folder, another one for an exported model. All the rest,
from the file to the answer, is here and the same for all of them. Nothing here needs torch.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from dualtoken.answers import Kind, kind_of
from dualtoken.data import BadImage, ImageFiles, MaskSamples, OnBadImage, Samples
from dualtoken.engines import out_of_memory
from dualtoken.errors import ConfigError, ImageError, printable
from dualtoken.images import DEFAULT_LIMITS, ImageLimits, too_large
from dualtoken.model_folder import ModelConfig
from dualtoken.outputs import Answer
from dualtoken.prediction.ahead import work_ahead
from dualtoken.prediction.inputs import NamedInput, is_tensor, open_input

if TYPE_CHECKING:
    from torch import nn

    from dualtoken.engines import Engine
    from dualtoken.prediction.exported import Export


_CPU_PIXELS = 8 * 224**2  # in a batch
_KEPT = 4  # whole images on their way through the network at a time


class Loaded(NamedTuple):
    """An image ready for the network: pixels float32 (3, H, W), its own (height, width), and itself if it is kept."""

    pixels: NDArray[np.float32]
    size: tuple[int, int]
    image: Image.Image | None = None


class Predictor:
    """A network with everything needed to answer: its task, classes, pre-processing, temperature and threshold.

    Args:
        model: an engine, or a torch module from images (B, 3, H, W) to the task's raw outputs, which is put into
            evaluation mode and left on its device.
        config: of the model; `classes` are in the order of the outputs.
        name: what reports call the model; the architecture's name if not given.
        export: the exported file that the engine runs; None for networks in torch.
    """

    def __init__(
        self, model: Engine | nn.Module, config: ModelConfig, name: str | None = None, *, export: Export | None = None
    ) -> None:
        self.model = model
        self.export = export
        self.engine = _engine(model)
        self.config = config
        self.name = name or config.architecture

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.config.classes

    @property
    def kind(self) -> Kind:
        """Its kind of answers."""
        return kind_of(self.config.task)

    def limited(self, max_objects: int | None) -> Predictor:
        """The same network with another limit of objects in an image; itself for None.

        Raises:
            ConfigError: it finds no objects, or the number is impossible.
        """
        if max_objects is None:
            return self
        other = copy.copy(self)
        other.config = self.kind.limited(self.config, max_objects)
        return other

    def predict(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        threshold: float | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Any:
        """The answer for one image, or for several.

        Args:
            inputs: a path, the bytes of a file, a PIL image, a numpy array (height, width, channels), a tensor
                (channels, height, width), see `open_input`; or a list of these, or an array or tensor with one
                more dimension in front.
            batch_size: images that go through the network at once, see `fitting_batch`. Answers do not depend on it.
            threshold: objects or labels with a lower score are left out, 0 to 1; None takes the model's own.
            limits: what an image may cost.

        Returns:
            A `Classification`, `Labels`, `Detections` or `Segmentation`, as the model's task is; a list in the same
            order for several images.

        Raises:
            ImageError: an image cannot be read. `stream` goes on instead.
        """
        single = _is_single(inputs)
        named = ((_name_of(source), source) for source in ([inputs] if single else inputs))
        answers = []
        for answer in self.stream(named, batch_size=batch_size, threshold=threshold, limits=limits):
            if isinstance(answer, tuple):
                raise answer[1]
            answers.append(answer)
        return answers[0] if single else answers

    def warm(self) -> Any:
        """The answer for an empty image: the first run of an engine takes longest."""
        preprocessing = self.config.preprocessing
        bands = preprocessing.bands.stored if preprocessing.bands else 3
        return self.predict(np.zeros((*preprocessing.image_size, bands), np.uint8))

    def stream(self, inputs: Iterable[NamedInput], **options: Any) -> Iterator[Answer]:
        """Answer a stream of (name, source) pairs, as `collect_inputs` gives them.

        Files are read ahead in threads, a few batches at most: memory does not grow with the stream.

        Args:
            inputs: names and sources.
            **options: `batch_size`, `workers`, `threshold` and `limits` of `stream_images`.

        Yields:
            For each input, in order, an answer with the name as its path, or (name, ImageError).
        """
        for answer, _ in self.stream_images(inputs, keep=False, **options):
            yield answer

    def stream_images(
        self,
        inputs: Iterable[NamedInput],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        threshold: float | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        keep: bool = True,
    ) -> Iterator[tuple[Answer, Image.Image | None]]:
        """As `stream`, each answer with its image, which was opened once for both; None where it cannot be read.

        Args:
            inputs: names and sources.
            batch_size: images that go through the network at once, see `fitting_batch`.
            workers: reading threads; 0 reads in this one, None takes one a CPU core, 8 at most.
            threshold: objects or labels with a lower score are left out, 0 to 1; None takes the model's own.
            limits: what an image may cost.
            keep: give the images too. Few are on their way at a time then: photos are larger than a network's input.
        """
        batch_size = self.fitting_batch(batch_size)
        batch_size = min(batch_size, _KEPT) if keep else batch_size
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"threshold is {threshold}, expected a number from 0 to 1.")

        bands = self.config.preprocessing.bands

        def load(item: NamedInput) -> Loaded | ImageError:
            return self.load(item[0], lambda: open_input(*item, limits, bands=bands), keep=keep)

        loaded = work_ahead(load, inputs, workers, 2 * batch_size)
        while chunk := [(name, image) for (name, _), image in islice(loaded, batch_size)]:
            yield from self._answers(chunk, threshold)

    def answers(
        self,
        samples: ImageFiles,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        on_bad_image: OnBadImage = "fail",
        progress: bool = True,
        bad_images: list[BadImage] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """(row, answer) for every image of a split, objects with the lowest scores included.

        Args:
            samples: the split.
            batch_size, workers, limits, on_bad_image, progress: as in `evaluate`.
            bad_images: gets (path, reason) of the images left out.

        Raises:
            ImageError: an image cannot be read and `on_bad_image` is `fail`.
        """
        bad = [] if bad_images is None else bad_images
        batch_size = self.fitting_batch(batch_size)
        samples = replace(samples, bands=self.config.preprocessing.bands)

        def load(row: int) -> Loaded | ImageError:
            return self.load(samples.path(row), lambda: _open_row(samples, row, limits))

        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
            loaded = bar.track(
                work_ahead(load, range(len(samples)), workers, 2 * batch_size), len(samples), description="Evaluating"
            )
            good = _good(loaded, samples, on_bad_image, bad)
            while batch := list(islice(good, batch_size)):
                pixels = np.stack([image.pixels for _, image in batch])
                found = self.answer(pixels, [image.size for _, image in batch])
                yield from zip((row for row, _ in batch), found, strict=True)

    def forward(self, images: NDArray[np.float32]) -> Any:
        """Pre-processed images (B, 3, H, W) to raw outputs: a classifier's logits (B, K), without the temperature.

        Raises:
            ModelError: they are not finite numbers, or not as many as the config says.
        """
        return self.kind.outputs(self.config, self.engine, images)

    def answer(self, images: NDArray[np.float32], sizes: Sequence[tuple[int, int]]) -> list[Any]:
        """Pre-processed images (B, 3, H, W) and their own (height, width) to answers, without the threshold.

        Raises:
            ModelError: the network gives something that is no number.
        """
        return self.kind.answer(self.config, self.engine, images, sizes)

    def fitting_batch(self, wanted: int | None) -> int:
        """So many images at once, or one where the export takes no more.

        Left out, it is on a CPU what its caches hold, 8 images of 224 x 224 pixels: 32 take three times the memory and
        no less time. On another device it is as many as are worth it.

        Raises:
            ConfigError: it is less than 1.
        """
        if wanted is None:
            height, width = self.config.preprocessing.image_size
            held = max(_CPU_PIXELS // (height * width), 1) if _runs_on_cpu(self.model) else self.kind.batch
            wanted = min(held, self.kind.batch)
        if wanted < 1:
            raise ConfigError(f"batch_size is {wanted}, expected 1 or more.")
        return 1 if self.export and not self.export.info.dynamic_batch else wanted

    def load(self, name: str | None, open_it: Callable[[], Image.Image], *, keep: bool = False) -> Loaded | ImageError:
        """What `open_it` gives, ready for the network, or why not; the image itself is kept along if `keep`."""
        try:
            image = open_it()
            return Loaded(self.config.preprocessing(image), (image.height, image.width), image if keep else None)
        except ImageError as error:
            return error
        except (MemoryError, RecursionError):  # ends this image, and not the rest
            return too_large(name or "pixels")

    def _answers(
        self, chunk: list[tuple[str | None, Loaded | ImageError]], threshold: float | None
    ) -> Iterator[tuple[Answer, Image.Image | None]]:
        found = iter(self._answer_good([(name, one) for name, one in chunk if isinstance(one, Loaded)]))
        for name, loaded in chunk:
            answer = loaded if isinstance(loaded, ImageError) else next(found)
            if isinstance(answer, ImageError):
                yield (printable(name or "pixels"), answer), None
                continue
            yield self.finish(answer, name, threshold), cast("Loaded", loaded).image

    def finish(self, answer: Any, name: str | None, threshold: float | None = None) -> Any:
        """One of `answer`'s, with its image's name and without what is below the threshold: the model's own if None."""
        answer = replace(answer, path=None if name is None else printable(name))
        return self.kind.shown(self.config, answer, threshold)

    def _answer_good(self, images: list[tuple[str | None, Loaded]]) -> list[Any]:
        """Answers; where there is not enough memory for all at once one by one, and an `ImageError` for what fails."""
        if not images:
            return []
        try:
            return self.answer(np.stack([one.pixels for _, one in images]), [one.size for _, one in images])
        except Exception as error:
            if not out_of_memory(error):
                raise
            if len(images) == 1:
                return [too_large(images[0][0] or "pixels")]
        return [answer for image in images for answer in self._answer_good([image])]


def _engine(model: Any) -> Engine:
    torch = sys.modules.get("torch")  # a module of torch's cannot be there without it
    if torch is not None and isinstance(model, torch.nn.Module):
        from dualtoken.engines.torch import torch_engine

        return torch_engine(model)
    return cast("Engine", model)


def _runs_on_cpu(model: Any) -> bool:
    """Whether it does as far as one can see: engines of exported models do."""
    torch = sys.modules.get("torch")
    parameter = next(model.parameters(), None) if torch and isinstance(model, torch.nn.Module) else None
    return parameter is None or parameter.device.type == "cpu"


def _open_row(samples: ImageFiles, row: int, limits: ImageLimits) -> Image.Image:
    """An image of a split, with its labels still fitting it.

    Raises:
        ImageError: it or its mask cannot be read, or it has no longer the size that it was found with.
    """
    image = samples.open(row, limits)
    if isinstance(samples, Samples):
        return image
    height, width = samples.sizes[row].tolist()  # type: ignore[attr-defined]
    if image.size != (width, height):
        raise ImageError(
            f"{samples.path(row)!r} is {image.width} x {image.height} (width x height),"
            f" but its labels are for {width} x {height}.",
            "It was changed since the data set was read: start again.",
        )
    if isinstance(samples, MaskSamples):
        samples.open_mask(row, limits)  # found now, and not after the network has run
    return image


def _good(
    loaded: Iterable[tuple[int, Loaded | ImageError]],
    samples: ImageFiles,
    on_bad_image: OnBadImage,
    bad_images: list[BadImage],
) -> Iterator[tuple[int, Loaded]]:
    for row, image in loaded:
        if isinstance(image, Loaded):
            yield row, image
        elif on_bad_image == "skip":
            bad_images.append((samples.path(row), image.message))
        else:
            hint = f"{image.hint} To go on without such images: --on-bad-image skip.".strip()
            raise ImageError(image.message, hint)


def _is_single(inputs: Any) -> bool:
    if isinstance(inputs, np.ndarray) or is_tensor(inputs):
        return bool(inputs.ndim < 4)
    return isinstance(inputs, str | Path | bytes | Image.Image) or hasattr(inputs, "read")


def _name_of(source: Any) -> str | None:
    if isinstance(source, str | Path):
        return str(source)
    return getattr(source, "filename", None) or None
