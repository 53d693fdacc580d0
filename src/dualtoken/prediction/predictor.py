"""A trained model that answers: single images, streams of them, and whole splits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from dualtoken.data.index import BadImage, ImageFiles, Samples
from dualtoken.data.loading import OnBadImage, evaluation_loader, usable_workers
from dualtoken.errors import ConfigError, DataError, ImageError, ModelError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.model_folder import ModelConfig, load_model
from dualtoken.outputs import Answer, Detections
from dualtoken.prediction.inputs import NamedInput, collect_inputs, open_input
from dualtoken.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn


class Loaded(NamedTuple):
    """An image ready for the network: its pixels, float32 (3, H, W), and its own (height, width)."""

    pixels: NDArray[np.float32]
    size: tuple[int, int]


class Logits(NamedTuple):
    """Raw outputs for a split, before the temperature.

    Attributes:
        logits: (N, K) float32.
        labels: (N,) int64, index of the right class.
        indices: (N,) int64, place of each image in the samples.
        bad_images: (path, reason) of images that were left out.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    bad_images: tuple[BadImage, ...] = ()


class Predictor:
    """A network with everything needed to answer: its task, classes, pre-processing, temperature and threshold.

    Args:
        model: images (B, 3, H, W) to the task's raw outputs; put into evaluation mode and left on its device.
        config: of the model; `classes` are in the order of the outputs.
        name: what reports call the model; the architecture's name if not given.
    """

    def __init__(self, model: nn.Module, config: ModelConfig, name: str | None = None) -> None:
        self.model = model.eval()
        self.config = config
        self.name = name or config.architecture
        self.task = TASKS[config.task](config.classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.config.classes

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def predict(
        self,
        inputs: Any,
        *,
        batch_size: int = 32,
        threshold: float | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Any:
        """The answer for one image, or for several.

        Args:
            inputs: a path, the bytes of a file, a PIL image, a numpy array (height, width, channels), a tensor
                (channels, height, width), see `open_input`; or a list of these, or an array or tensor with one
                more dimension in front.
            batch_size: images that go through the network at once. Answers do not depend on it.
            threshold: objects with a lower score are left out, 0 to 1; None takes the model's own.
            limits: what an image may cost.

        Returns:
            A `Classification`, `Detections` or `Segmentation`, as the model's task is; a list in the same order for
            several images.

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

    def stream(
        self,
        inputs: Iterable[NamedInput],
        *,
        batch_size: int = 32,
        workers: int | None = None,
        threshold: float | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Iterator[Answer]:
        """Answer a stream of (name, source) pairs, as `collect_inputs` gives them.

        Files are read ahead in threads, a few batches at most: memory does not grow with the stream.

        Args:
            inputs: names and sources.
            batch_size: images that go through the network at once.
            workers: reading threads; 0 reads in this one, None takes one a CPU core.
            threshold: objects with a lower score are left out, 0 to 1; None takes the model's own.
            limits: what an image may cost.

        Yields:
            For each input, in order, an answer with the name as its path, or (name, ImageError).
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected 1 or more.")
        threshold = self.config.threshold if threshold is None else threshold
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold is {threshold}, expected a number from 0 to 1.")
        chunk: list[tuple[str | None, Loaded | ImageError]] = []
        for item in self._loaded(inputs, usable_workers(workers), 2 * batch_size, limits):
            chunk.append(item)
            if len(chunk) == batch_size:
                yield from self._answers(chunk, threshold)
                chunk = []
        yield from self._answers(chunk, threshold)

    def answers(
        self,
        samples: ImageFiles,
        *,
        batch_size: int = 16,
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
            DataError: no image can be read.
        """
        loader = self.task.evaluation_loader(
            samples, self.config.preprocessing, batch_size=batch_size, workers=workers, limits=limits,
            on_bad_image=on_bad_image,
        )  # fmt: skip
        done = 0
        with _progress_bar(shown=progress) as bar:
            for images, _, indices in bar.track(loader, len(loader), description="Evaluating"):
                rows = indices.tolist()
                sizes = [tuple(samples.sizes[row].tolist()) for row in rows]  # type: ignore[attr-defined]
                yield from zip(rows, self._answer(images, sizes), strict=True)
                done += len(rows)
        if done == 0:
            raise DataError(f"No image of {samples.root!r} can be evaluated: none can be read.")
        if bad_images is not None:
            bad_images.extend(loader.bad_images)

    def logits(
        self,
        samples: Samples,
        *,
        batch_size: int = 64,
        workers: int | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        on_bad_image: OnBadImage = "fail",
        progress: bool = True,
    ) -> Logits:
        """A classifier's raw outputs for every image of a split: the one way that evaluation gets them.

        Raises:
            ImageError: an image cannot be read and `on_bad_image` is `fail`.
            DataError: no image can be read.
            ModelError: the network gives something that is no number.
        """
        loader = evaluation_loader(
            samples, self.config.preprocessing, batch_size=batch_size, workers=workers, limits=limits,
            on_bad_image=on_bad_image,
        )  # fmt: skip
        result = np.empty((len(samples), len(self.classes)), np.float32)
        labels, indices = np.empty(len(samples), np.int64), np.empty(len(samples), np.int64)
        done = 0
        with _progress_bar(shown=progress) as bar:
            for images, batch_labels, batch_indices in bar.track(loader, len(loader), description="Evaluating"):
                place = slice(done, done + len(batch_labels))
                result[place] = self.forward(images)
                labels[place], indices[place] = batch_labels.numpy(), batch_indices.numpy()
                done = place.stop
        if done == 0:
            raise DataError(f"No image of {samples.root!r} can be evaluated: none can be read.")
        return Logits(result[:done], labels[:done], indices[:done], tuple(loader.bad_images))

    def forward(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Pre-processed images float32 (B, 3, H, W) to logits (B, K), without the temperature.

        Raises:
            ModelError: they are not finite numbers, or not one for each class.
        """
        with torch.inference_mode():
            logits: NDArray[np.float32] = self.model(images.to(self.device)).float().cpu().numpy()
        if logits.shape != (len(images), len(self.classes)):
            raise ModelError(f"The network gives {logits.shape}, expected ({len(images)}, {len(self.classes)}).")
        if not np.isfinite(logits).all():
            raise ModelError(
                f"The network of {self.name!r} gives outputs that are not numbers.",
                "Its training has probably diverged: train again with a lower learning rate (--lr).",
            )
        return logits

    def _loaded(
        self, inputs: Iterable[NamedInput], workers: int, ahead: int, limits: ImageLimits
    ) -> Iterator[tuple[str | None, Loaded | ImageError]]:
        """Inputs ready for the network, in order, at most `ahead` of them waiting."""
        if workers == 0:
            yield from ((name, self._load(name, source, limits)) for name, source in inputs)
            return
        waiting: deque[tuple[str | None, Future[Loaded | ImageError]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            try:
                for name, source in inputs:
                    waiting.append((name, pool.submit(self._load, name, source, limits)))
                    if len(waiting) > ahead:
                        first, future = waiting.popleft()
                        yield first, future.result()
                while waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            finally:  # Ctrl-C, or a reader who has seen enough
                pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, name: str | None, source: Any, limits: ImageLimits) -> Loaded | ImageError:
        try:
            image = open_input(name, source, limits)
            return Loaded(self.config.preprocessing(image), (image.height, image.width))
        except ImageError as error:
            return error

    def _answers(self, chunk: list[tuple[str | None, Loaded | ImageError]], threshold: float) -> Iterator[Answer]:
        good = [loaded for _, loaded in chunk if isinstance(loaded, Loaded)]
        found: Iterator[Any] = iter(())
        if good:
            pixels = torch.from_numpy(np.stack([loaded.pixels for loaded in good]))
            found = iter(self._answer(pixels, [loaded.size for loaded in good]))
        for name, loaded in chunk:
            if isinstance(loaded, ImageError):
                yield _printable(name or "pixels"), loaded
                continue
            answer = replace(next(found), path=None if name is None else _printable(name))
            yield answer.above(threshold) if isinstance(answer, Detections) else answer

    def _answer(self, images: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[Any]:
        """Pre-processed images (B, 3, H, W) and their own (height, width) to answers."""
        if not self.task.heads:
            raw: Any = torch.from_numpy(self.forward(images))
        else:
            with torch.inference_mode():
                raw = self.model(images.to(self.device))
        return self.task.answers(raw, sizes, self.config.preprocessing, self.config.temperature)


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is the GPU if there is one (CUDA, then Apple's), else the CPU; other names are torch's.

    Raises:
        ConfigError: no such device, or not in this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"The device {name!r} cannot be used: {reason}.", "Type: --device auto, or cpu.") from error
    return device


def load(path: str | Path, *, device: str = "auto") -> Predictor:
    """Load a model folder, ready to predict.

    Raises:
        ModelError: it is not a model folder, or damaged.
        ConfigError: no such device.
    """
    model, config = load_model(path)
    return Predictor(model.to(choose_device(device)), config, name=str(path))


def predict(
    model: str | Path | Predictor,
    inputs: Any,
    *,
    batch_size: int = 32,
    device: str = "auto",
    threshold: float | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Any:
    """The answer for one image, or for several: see `Predictor.predict`. A `Predictor` spares loading it each time."""
    predictor = model if isinstance(model, Predictor) else load(model, device=device)
    return predictor.predict(inputs, batch_size=batch_size, threshold=threshold, limits=limits)


def predict_stream(
    model: str | Path | Predictor,
    inputs: Iterable[str | Path],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    device: str = "auto",
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[Answer]:
    """Answer for files, folders, patterns, zip archives and `-` (standard input), one answer after the other.

    See `collect_inputs` for `inputs` and `Predictor.stream` for what comes out. A file that cannot be read does
    not stop the rest.
    """
    predictor = model if isinstance(model, Predictor) else load(model, device=device)
    yield from predictor.stream(collect_inputs(inputs), batch_size=batch_size, workers=workers, limits=limits)


def _is_single(inputs: Any) -> bool:
    if isinstance(inputs, np.ndarray | torch.Tensor):
        return inputs.ndim < 4
    return isinstance(inputs, str | Path | bytes | Image.Image) or hasattr(inputs, "read")


def _name_of(source: Any) -> str | None:
    if isinstance(source, str | Path):
        return str(source)
    return getattr(source, "filename", None) or None


def _printable(name: str) -> str:
    """A file name that is not UTF-8 cannot be printed or stored: such bytes are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _progress_bar(*, shown: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (shown and console.is_terminal))
