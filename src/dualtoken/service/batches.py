"""A model behind a queue: images that come at the same time go through the network together.

Nothing waits for company that is not on its way: a batch is closed when it is full, when `max_wait` is over, or when
every accepted image is in it or being computed. While all threads of the network are busy, the next batch gathers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from dualtoken.engines import ENGINES
from dualtoken.errors import ConfigError, ImageError
from dualtoken.images import ImageLimits
from dualtoken.prediction import Predictor, open_input
from dualtoken.prediction.ahead import threads_for
from dualtoken.prediction.inputs import InputSource
from dualtoken.prediction.predictor import Loaded

Waiting = tuple[Loaded, "asyncio.Future[Any]"]


@dataclass(frozen=True)
class Settings:
    """What the service may cost.

    Attributes:
        max_batch: images that go through the network at once.
        max_wait: milliseconds that an image waits for others that are on their way.
        max_queue: images accepted at a time; further ones are refused with 429 and `Retry-After`.
        timeout: seconds that a request may take.
        max_bytes: refuse requests with more bytes than this.
        max_pixels: refuse images with more pixels than this.
        workers: threads that read images. Left out: one a CPU core, 8 at most.
        threads: that one run of a network uses. Left out: one where the engine can run several at once, as onnxruntime
            can, else as many as it thinks best.
    """

    max_batch: int = 16
    max_wait: float = 2.0
    max_queue: int = 64
    timeout: float = 30.0
    max_bytes: int = 16 * 2**20
    max_pixels: int = 50_000_000
    workers: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("max_wait", 0), ("max_queue", 1), ("timeout", 0.001)):
            if not least <= getattr(self, name) < 1e6:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {least} or more.")

    @property
    def limits(self) -> ImageLimits:
        """For reading images."""
        return ImageLimits(self.max_bytes, self.max_pixels)


class BusyError(Exception):
    """As many images as are allowed are on their way."""


class Meters:
    """What Prometheus reads, of this process and of nothing else."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "dualtoken", "registry": self.registry}
        ProcessCollector(registry=self.registry)
        self.requests = Counter("requests", "Requests answered.", ["route", "status"], **own)
        self.seconds = Histogram("request_seconds", "From a request's head to its answer's end.", ["route"], **own)
        self.accepted = Gauge("images_accepted", "Images that are read, wait or are computed.", ["model"], **own)
        sizes = (1, 2, 4, 8, 16, 32, 64)
        self.batches = Histogram("batch_images", "Images of a batch.", ["model"], buckets=sizes, **own)
        self.network = Histogram("network_seconds", "The network and its answers, for a batch.", ["model"], **own)


class Served:
    """A model that answers many at once, from `async with` to its end.

    Args:
        name: that clients call it by.
        predictor: what answers.
        settings: what it may cost.
        meters: gets what is counted.
    """

    def __init__(self, name: str, predictor: Predictor, settings: Settings, meters: Meters) -> None:
        self.name, self.predictor, self.settings, self.meters = name, predictor, settings, meters
        self.accepted = 0
        self._running = 0
        self._most = predictor.fitting_batch(settings.max_batch)
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self._readers = ThreadPoolExecutor(threads_for(settings.workers) or 1, "reader")
        export = predictor.export
        several = export is not None and ENGINES[export.engine].parallel
        self._runs = max(1, threads_for(None) // (settings.threads or 1)) if several else 1
        self._network = ThreadPoolExecutor(self._runs, "network")

    async def __aenter__(self) -> Served:
        self._gatherers = [asyncio.create_task(self._gather()) for _ in range(self._runs)]
        self.example = await self.in_thread(self.predictor.warm)
        return self

    async def __aexit__(self, *_: object) -> None:
        for gatherer in self._gatherers:
            gatherer.cancel()
        self._readers.shutdown()
        self._network.shutdown()

    @contextmanager
    def places(self, images: int = 1) -> Iterator[None]:
        """Room for so many images.

        Raises:
            BusyError: there is none now.
        """
        if self.accepted + images > self.settings.max_queue:
            raise BusyError
        gauge = self.meters.accepted.labels(self.name)
        self.accepted += images
        gauge.set(self.accepted)
        try:
            yield
        finally:
            self.accepted -= images
            gauge.set(self.accepted)

    async def answer(
        self, source: InputSource, name: str | None = None, *, threshold: float | None = None, keep: bool = False
    ) -> tuple[Any, Image.Image | None]:
        """The answer for an image, and the image itself where it is kept.

        Raises:
            ImageError: it cannot be read.
            ModelError: the network gives something that is no number.
        """
        bands = self.predictor.config.preprocessing.bands
        opened = partial(open_input, name, source, self.settings.limits, warn=False, bands=bands)
        loaded = await self.in_thread(partial(self.predictor.load, name, opened, keep=keep))
        if isinstance(loaded, ImageError):
            raise loaded
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((loaded, found))
        return self.predictor.finish(await found, name, threshold), loaded.image

    async def in_thread(self, work: Any) -> Any:
        """What `work` gives, done where images are read."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def _gather(self) -> None:
        """Batches, one after the other, for ever."""
        while True:
            batch = [item for item in await self._batch() if not item[1].done()]  # else nobody waits for it any more
            if not batch:
                continue
            self.meters.batches.labels(self.name).observe(len(batch))
            self._running += len(batch)
            work = partial(self._run, [loaded for loaded, _ in batch])
            answers = await asyncio.get_running_loop().run_in_executor(self._network, work)
            self._running -= len(batch)
            for (_, found), answer in zip(batch, answers, strict=True):
                if found.done():
                    continue
                if isinstance(answer, Exception):
                    found.set_exception(answer)
                else:
                    found.set_result(answer)

    async def _batch(self) -> list[Waiting]:
        batch = [await self._queue.get()]
        end = time.monotonic() + self.settings.max_wait / 1000
        while len(batch) < self._most:
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
                continue
            left = end - time.monotonic()
            if left <= 0 or len(batch) + self._running >= self.accepted:
                break
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), left))
            except TimeoutError:
                break
        return batch

    def _run(self, images: Sequence[Loaded]) -> list[Any]:
        with self.meters.network.labels(self.name).time():
            return self._answers(images)

    def _answers(self, images: Sequence[Loaded]) -> list[Any]:
        """An answer for each, or an error: where a batch fails, its images are tried one by one."""
        try:
            return self.predictor.answer(np.stack([one.pixels for one in images]), [one.size for one in images])
        except Exception as error:
            if len(images) == 1:
                return [error]
        return [answer for one in images for answer in self._answers([one])]
