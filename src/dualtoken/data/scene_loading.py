"""Scenes to batches: images with their objects or masks, through the loader and sampler of `loading.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dualtoken.data.loading import Draw, EpochSampler, ImageLoader, OnBadImage, seeded
from dualtoken.data.scene_transforms import Scene, ScenePreprocessing, SceneTransform, Target, ToInput
from dualtoken.data.scenes import MaskSamples, ObjectSamples
from dualtoken.errors import ConfigError, ImageError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.preprocess import Preprocessing

_TRIES = 8  # for another scene that can be read


class SceneItem(NamedTuple):
    """One scene: the network's input (3, H, W), its target and its row in the samples."""

    image: Tensor
    target: Target
    row: int


class PackedTargets(NamedTuple):
    """The objects of a batch, one tensor a key: each tensor that a worker sends costs a file handle.

    Attributes:
        columns: key to the values of all images, one after the other.
        counts: objects of each image.
    """

    columns: dict[str, Tensor]
    counts: list[int]

    @classmethod
    def of(cls, targets: Sequence[dict[str, Tensor]]) -> PackedTargets:
        """From the target of each image."""
        keys = targets[0] if targets else ()
        columns = {key: torch.cat([target[key] for target in targets]) for key in keys}
        return cls(columns, [len(target.get("labels", ())) for target in targets])

    def unpacked(self) -> list[dict[str, Tensor]]:
        """The target of each image again, as views."""
        parts = {key: column.split(self.counts) for key, column in self.columns.items()}
        return [{key: part[image] for key, part in parts.items()} for image in range(len(self.counts))]


class SceneBatch(NamedTuple):
    """What a worker sends: images (B, 3, H, W), targets or masks (B, H, W), rows int64 (B,), and what failed."""

    images: Tensor
    targets: PackedTargets | Tensor
    indices: Tensor
    errors: tuple[tuple[str, ImageError], ...]


class SceneDataset(Dataset[SceneItem]):
    """Images with their objects or masks, transformed together.

    As `ImageDataset`: an index alone, or an (index, seed) pair that seeds everything random, the choice of other
    scenes for mosaics included.

    Args:
        samples: with objects or with masks.
        transform: of a scene, such as `scene_training_transform` makes.
        masks: give the objects' masks too, rasterised now.
        limits: what an image may cost.
    """

    def __init__(
        self,
        samples: ObjectSamples | MaskSamples,
        transform: ToInput,
        *,
        masks: bool = False,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        self.samples, self.transform, self.masks, self.limits = samples, transform, masks, limits

    def __len__(self) -> int:
        return len(self.samples)

    def scene(self, index: int) -> Scene:
        """An image with what is known about it.

        Raises:
            ImageError: the image or its mask cannot be read, or has no longer the size that it was found with.
        """
        image = self.samples.open(index, self.limits)
        height, width = self.samples.sizes[index].tolist()
        if image.size != (width, height):
            raise ImageError(
                f"{self.samples.path(index)!r} is {image.width} x {image.height} (width x height),"
                f" but its labels are for {width} x {height}.",
                "It was changed since the data set was read: start again.",
            )
        if isinstance(self.samples, MaskSamples):
            return Scene(image, mask=self.samples.open_mask(index, self.limits))
        return Scene(image, objects=self.samples.objects(index), wants_masks=self.masks)

    def __getitem__(self, key: int | Draw) -> SceneItem:
        """One scene.

        Raises:
            ImageError: the image or its mask cannot be read.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        scene = self.scene(index)
        draw_other = self._other(np.random.default_rng(index if seed is None else seed))
        with nullcontext() if seed is None else seeded(seed):
            return SceneItem(*self.transform(scene, draw_other), index)

    def __getitems__(self, keys: Sequence[int | Draw]) -> SceneBatch:
        """A batch; scenes that cannot be read are in its `errors` and nowhere else."""
        items, errors = [], []
        for key in keys:
            try:
                items.append(self[key])
            except ImageError as error:
                index = key[0] if isinstance(key, tuple) else key
                errors.append((self.samples.path(index), error))
        images = torch.stack([item.image for item in items]) if items else torch.empty(0)
        indices = torch.tensor([item.row for item in items], dtype=torch.int64)
        return SceneBatch(images, _together([item.target for item in items]), indices, tuple(errors))

    def _other(self, generator: np.random.Generator) -> Callable[[], Scene]:
        """Draws other scenes of the data set; one that cannot be read is passed over: its own turn tells of it."""

        def draw() -> Scene:
            for _ in range(_TRIES - 1):
                try:
                    return self.scene(int(generator.integers(len(self))))
                except ImageError:
                    continue
            return self.scene(int(generator.integers(len(self))))

        return draw


class SceneLoader(ImageLoader):
    """An `ImageLoader` whose targets are a list of dicts for objects, and uint8 (B, H, W) for masks."""

    def __iter__(self) -> Iterator[tuple[Tensor, Any, Tensor]]:  # type: ignore[override]
        for images, targets, indices in super().__iter__():
            yield images, targets.unpacked() if isinstance(targets, PackedTargets) else targets, indices


def scene_training_loader(
    samples: ObjectSamples | MaskSamples,
    transform: ToInput,
    *,
    batch_size: int,
    masks: bool = False,
    workers: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    start_batch: int = 0,
    drop_last: bool = True,
    rank: int = 0,
    world_size: int = 1,
    limits: ImageLimits = DEFAULT_LIMITS,
    on_bad_image: OnBadImage = "fail",
    pin_memory: bool = False,
) -> SceneLoader:
    """Shuffled, augmented batches of (images, targets, rows); arguments as in `training_loader`.

    Targets are a list of dicts for objects (with `masks` if asked for), and uint8 (B, H, W) for masks.

    Raises:
        ConfigError: `transform` pastes objects, but there is none with an outline.
    """
    _check_outlines(samples, transform)
    sampler = EpochSampler(len(samples), batch_size, seed=seed, drop_last=drop_last, rank=rank, world_size=world_size)
    sampler.set_epoch(epoch, start_batch)
    return SceneLoader(
        SceneDataset(samples, transform, masks=masks, limits=limits),
        on_bad_image=on_bad_image,
        workers=workers,
        batch_sampler=sampler,
        persistent_workers=True,
        pin_memory=pin_memory,
    )


def scene_evaluation_loader(
    samples: ObjectSamples | MaskSamples,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    workers: int | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    on_bad_image: OnBadImage = "fail",
    pin_memory: bool = False,
    persistent_workers: bool = False,
) -> SceneLoader:
    """Every image once, in order; the target of objects is {}, of masks uint8 (B, H, W)."""
    return SceneLoader(
        SceneDataset(samples, ScenePreprocessing(preprocessing), limits=limits),
        on_bad_image=on_bad_image,
        workers=workers,
        batch_size=batch_size,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers,
    )


def _together(targets: list[Target]) -> PackedTargets | Tensor:
    if targets and isinstance(targets[0], Tensor):
        return torch.stack(cast(list[Tensor], targets))
    return PackedTargets.of(cast(Sequence[dict[str, Tensor]], targets))


def _check_outlines(samples: ObjectSamples | MaskSamples, transform: ToInput) -> None:
    if not isinstance(transform, SceneTransform) or not transform.copy_paste:
        return
    if isinstance(samples, MaskSamples):
        reason = "masks of regions have no single objects"
    elif not len(samples.points) and not np.strings.str_len(samples.runs).any():
        reason = "the objects of these images have boxes alone"
    else:
        return
    raise ConfigError(
        f"copy_paste is {transform.copy_paste}, but it pastes along outlines, and {reason}.",
        "Leave it at 0; mosaic is the way to mix such images.",
    )
