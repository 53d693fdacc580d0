"""Batches with what the teachers say of them: asked once and kept on disk, or asked anew.

Teachers and student see the same pixels, mixed images included. What is kept lies in memory-mapped files that belong
to teachers, images and crops by their digests; a run that goes on finds it again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from timm.data import Mixup
from torch import Tensor

from dualtoken.data.loading import ImageLoader
from dualtoken.files import write_json
from dualtoken.training.pool import PoolSampler
from dualtoken.training.teachers import MAP_SIDES, Taught, Teacher, normalised, scaled

Targets = dict[str, Tensor]


class Kept:
    """What one teacher said of each view, as float16 on disk: logits (N, classes), features (N, width) and, if they
    are learned, the maps of each level (N, width of the level, side, side).

    Args:
        folder: where it is kept.
        teacher: whose it is.
        places: N, the number of views.
        about: digest of images and crops.
        maps: whether these are kept.
    """

    def __init__(self, folder: Path, teacher: Teacher, places: int, about: str, *, maps: bool = False) -> None:
        key = hashlib.sha256(f"{teacher.key} {about}".encode()).hexdigest()[:16]
        self.folder = folder / key
        self.folder.mkdir(parents=True, exist_ok=True)
        shapes = self._shapes(teacher, maps=maps)
        self.parts = {name: self._open(name, (places, *shape), np.float16) for name, shape in shapes.items()}
        self.known = self._open("known_levels" if maps else "known", (places,), np.uint8)
        write_json(self.folder / "about.json", {"teacher": teacher.name, "views": places, "digest": about})

    def _open(self, name: str, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        path = self.folder / f"{name}.bin"
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        if not path.is_file() or path.stat().st_size != size:
            with path.open("wb") as file:
                file.truncate(size)  # sparse: takes no room before it is written to
        return np.memmap(path, kind, "r+", shape=shape)

    def ask(self, teacher: Teacher, pixels: Tensor, places: NDArray[np.int64]) -> Taught:
        """What the teacher says of each view; it is asked only about those that are new."""
        new = self.known[places] == 0
        if new.any():
            said = teacher(pixels[torch.from_numpy(new)])
            shown = {"logits": said.logits, "features": said.features} | {f"maps.{k}": v for k, v in said.maps.items()}
            for name, part in self.parts.items():
                part[places[new]] = cast(Tensor, shown[name]).cpu().numpy()
            self.known[places[new]] = 1  # after the rest: a view is known only once all of it is there
        found = {name: torch.from_numpy(part[places].astype(np.float32)) for name, part in self.parts.items()}
        maps = {name.removeprefix("maps."): one for name, one in found.items() if name.startswith("maps.")}
        return Taught(found.get("logits"), found.get("features"), maps)

    @staticmethod
    def _shapes(teacher: Teacher, *, maps: bool) -> dict[str, tuple[int, ...]]:
        widths = teacher.map_widths if maps else {}
        shapes: dict[str, tuple[int, ...]] = {"logits": (len(teacher.classes),), "features": (teacher.width,)}
        shapes |= {f"maps.{level}": (width, *2 * (MAP_SIDES[level],)) for level, width in widths.items()}
        return {name: shape for name, shape in shapes.items() if shape[0]}

    @classmethod
    def bytes_needed(cls, teachers: Sequence[Teacher], places: int, *, maps: bool = False) -> int:
        """Room on disk for all views."""
        parts = [shape for teacher in teachers for shape in cls._shapes(teacher, maps=maps).values()]
        return (2 * sum(map(math.prod, parts)) + len(teachers)) * places


class TaughtLoader:
    """Batches (images float32 (B, 3, h, h), targets, places) of a loader of views.

    Targets are `set` and `label` int64 (B,), `probabilities` (B, classes): the mean of the teachers' own, where they
    have logits; and of each teacher that has some `features.I` (B, width) and, where they are learned,
    `maps.LEVEL.I` (B, width of the level, side, side), all standardised channel by channel by `standards`.

    Args:
        views: loader of pixels.
        teachers: all of them are asked.
        kept: one for each teacher, or none.
        batch_size: images in a batch.
        sizes: side of the student's input in each epoch, the last one from then on.
        mean, std: of the student's input.
        temperature: the teachers' logits are divided by it.
        mixer: mixes the images of a batch before anyone sees them.
        maps: whether maps are learned.
    """

    def __init__(
        self,
        views: ImageLoader,
        teachers: Sequence[Teacher],
        kept: Sequence[Kept],
        *,
        batch_size: int,
        sizes: Sequence[int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        temperature: float = 1.0,
        mixer: Mixup | None = None,
        maps: bool = False,
    ) -> None:
        self.views, self.teachers, self.kept, self.sizes = views, teachers, kept, tuple(sizes)
        self.batch_size, self.maps = batch_size, maps
        self.mean, self.std, self.temperature, self.mixer = mean, std, temperature, mixer
        self.standards: dict[str, Tensor] = {}
        self.epoch = 0

    def standardise(self, images: int, fabric: Fabric) -> None:
        """Measure mean and standard deviation of each channel of what the teachers show, over the first `images`.

        Several processes measure together.
        """
        sums: dict[str, Tensor] = {}
        self.standards, seen = {}, 0
        for pixels, targets, _ in self:
            for name, value in targets.items():
                if name.startswith(("features.", "maps.")):
                    shown = value.double().transpose(0, 1).flatten(1)  # (channels, rest)
                    counted = torch.full((len(shown),), shown.shape[1], dtype=torch.float64)
                    sums[name] = sums.get(name, 0) + torch.stack([shown.sum(1), shown.square().sum(1), counted])
            seen += len(pixels) * fabric.world_size
            if seen >= images:
                break
        for name in sorted(sums):
            total, squares, count = cast(Tensor, fabric.all_reduce(sums[name], reduce_op="sum"))
            mean = total / count
            std = (squares / count - mean.square()).clamp_min(0).sqrt().clamp_min(1e-3)
            self.standards |= {f"{name}.mean": mean.float(), f"{name}.std": std.float()}

    @property
    def batch_sampler(self) -> Any:
        """Which views come when: a `PoolSampler`, or a list of batches."""
        return self.views.batch_sampler

    @property
    def dataset(self) -> Any:
        """The views."""
        return self.views.dataset

    @property
    def bad_images(self) -> tuple[tuple[str, str], ...]:
        """(path, reason) of the images left out so far."""
        return self.views.bad_images

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose what the next iteration gives."""
        self.epoch = epoch
        if isinstance(self.batch_sampler, PoolSampler):
            self.batch_sampler.set_epoch(epoch, start_batch)

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[tuple[Tensor, Targets, Tensor]]:
        size = self.sizes[min(self.epoch, len(self.sizes) - 1)]
        for pixels, labels, places in self.views:
            if self.mixer is not None:
                pixels = self._mixed(pixels)
            targets = self._taught(pixels, places.numpy()) | {"set": labels[:, 0], "label": labels[:, 1]}
            yield normalised(scaled(pixels, size), self.mean, self.std), targets, places

    def _mixed(self, pixels: Tensor) -> Tensor:
        even = len(pixels) - len(pixels) % 2
        if not even or self.mixer is None:
            return pixels
        mixed, _ = self.mixer(pixels[:even].float(), torch.zeros(even, dtype=torch.int64))
        return torch.cat([mixed.round().clamp(0, 255).to(torch.uint8), pixels[even:]])

    def _taught(self, pixels: Tensor, places: NDArray[np.int64]) -> Targets:
        said = [
            self.kept[number].ask(teacher, pixels, places) if self.kept else teacher(pixels)
            for number, teacher in enumerate(self.teachers)
        ]
        shares = [(one.logits / self.temperature).softmax(1) for one in said if one.logits is not None]
        targets = {"probabilities": torch.stack(shares).mean(0)} if shares else {}
        for number, one in enumerate(said):
            if one.features is not None:
                targets[f"features.{number}"] = self._standard(f"features.{number}", one.features)
            if self.maps:
                names = {f"maps.{level}.{number}": maps for level, maps in one.maps.items()}
                targets |= {name: self._standard(name, maps) for name, maps in names.items()}
        return targets

    def _standard(self, name: str, shown: Tensor) -> Tensor:
        if not self.standards:
            return shown
        mean, std = (self.standards[f"{name}.{part}"].view(-1, *[1] * (shown.ndim - 2)) for part in ("mean", "std"))
        return (shown - mean) / std


def crop_digest(fingerprints: Sequence[str], **settings: Any) -> str:
    """What a view is: a digest of the images and of everything that decides their crops."""
    return hashlib.sha256(json.dumps([list(fingerprints), settings], sort_keys=True).encode()).hexdigest()
