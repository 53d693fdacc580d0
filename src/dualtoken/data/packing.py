"""`pack`: a data set as shards, tars in WebDataset's form with an index, to be read from anywhere."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.data.dataset import ImageData, write_left_out
from dualtoken.data.finding import find_data
from dualtoken.data.frames import check_frames
from dualtoken.data.mask_values import mask_facts
from dualtoken.data.reading import OnBadImage, OnBadLabel
from dualtoken.data.samples import ImageFiles, LabelSamples, MaskSamples, Objects, ObjectSamples, Samples
from dualtoken.data.shards import CLASS, LABELS, MASK, write_index
from dualtoken.errors import ConfigError
from dualtoken.files import atomic_folder, refuse_existing, unique
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.words import counted

SHARD_MB = 256
_KINDS = {Samples: "classes", LabelSamples: "labels", ObjectSamples: "objects", MaskSamples: "masks"}


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        output: the new folder.
        images, shards, size: how many of all splits, and the bytes of all tars.
        notes: what a person should know of the data.
    """

    output: Path
    images: int
    shards: int
    size: int
    notes: tuple[str, ...]

    def summary(self) -> str:
        """How much was written, in a few words."""
        size = f"{self.size / 1e6:,.1f} MB"
        return f"{counted(self.images, 'image')} in {counted(self.shards, 'shard')}, {size}"


def pack(
    source: str | Path,
    output: str | Path,
    *,
    task: str = "auto",
    labels: str = "auto",
    shard_mb: int = SHARD_MB,
    seed: int = 0,
    on_bad_image: OnBadImage = "fail",
    on_bad_label: OnBadLabel = "fail",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
) -> Packed:
    """Write a data set as shards: tars with an index, for disks and networks that are slow with many small files.

    Images stay byte for byte and splits as they are given; none is drawn. Within a split the images are shuffled, so
    that who reads a shard from one end to the other sees all classes. The index keeps the order of the data set: a run
    on the shards draws the same images as one on the data set itself.

    Args:
        source: a data set, as for training
        output: folder to make: the tars, index.parquet and classes.txt
        task: what the images are for, where the labels leave it open
        labels: label format to read where DATA has several
        shard_mb: megabytes (10^6 bytes) of a tar, about
        seed: shuffles the images
        on_bad_image: stop at an image that cannot be read, or skip: leave it out and list it
        on_bad_label: what a bad box costs: `fail` its image, `drop` itself; `clip` cuts it at the image's edge
        limits, progress: as for `find_data`.

    Raises:
        DataError: the source cannot be used.
        OutputError: the folder is not empty or cannot be written.
    """
    if shard_mb < 1:
        raise ConfigError(f"shard_mb is {shard_mb}, expected 1 or more.")
    output = Path(output)
    refuse_existing(output, "OUT")
    data = find_data(
        source, task=task, labels=labels, val_fraction=0, on_bad_image=on_bad_image, on_bad_label=on_bad_label,
        limits=limits, progress=progress,
    )  # fmt: skip
    with atomic_folder(output) as folder:
        writer = _Writer(folder, data, shard_mb * 10**6, limits)
        for split, samples in data.splits.items():
            writer.write(split, samples, np.random.default_rng(seed).permutation(len(samples)).tolist(), progress)
        kind = _KINDS[type(next(iter(data.splits.values())))]
        write_index(folder, kind, data.classes, writer.columns)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in data.classes), encoding="utf-8")
        write_left_out(folder, data.bad_images, data.bad_labels)
    return Packed(output, len(writer.columns["name"]), writer.shards, writer.size, data.notes)


class _Writer:
    """Writes tars, and remembers the columns of the index, in the order of the data set."""

    def __init__(self, folder: Path, data: ImageData, most: int, limits: ImageLimits) -> None:
        self.folder, self.classes, self.most, self.limits = folder, data.classes, most, limits
        self.columns: dict[str, list[Any]] = {}
        self.shards = self.size = 0
        self.keys: set[str] = set()

    def write(self, split: str, samples: ImageFiles, order: list[int], progress: bool) -> None:
        """All images of a split, in `order`."""
        sizes = check_frames(samples, full=False, limits=self.limits, progress=progress).sizes.tolist()
        keys = [unique(_key(name), self.keys) for name in map(str, samples.names)]
        rows: dict[int, dict[str, Any]] = {}
        word, split, number = ("images", "", 0) if split == "all" else (split, split, 0)
        while len(rows) < len(order):
            path = self.folder / f"{word}-{number:05d}.tar"
            with path.open("wb") as file, _Tar(file, path.name) as tar:
                while len(rows) < len(order) and file.tell() < self.most:
                    index = order[len(rows)]
                    height, width = sizes[index]
                    known = {"split": split, "height": height, "width": width}
                    rows[index] = known | self._sample(tar, keys[index], samples, index)
            self.shards, self.size, number = self.shards + 1, self.size + path.stat().st_size, number + 1
        for index in range(len(order)):
            for column, value in rows.pop(index).items():
                self.columns.setdefault(column, []).append(value)

    def _sample(self, tar: _Tar, key: str, samples: ImageFiles, index: int) -> dict[str, Any]:
        """Write the files of one sample; its row."""
        source = samples.source(index, self.limits)
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        name, offset, size, crc = tar.add(key + posixpath.splitext(str(samples.names[index]))[1].lower(), content)
        row: dict[str, Any] = {"name": name, "offset": offset, "size": size, "crc": crc}
        if not isinstance(samples, MaskSamples):
            suffix, label = _label(samples, index, self.classes)
            tar.add(f"{key}.{suffix}", label.encode())
            return row | {"label": label}
        mask = io.BytesIO()
        Image.fromarray(samples.open_mask(index, self.limits)).save(mask, "PNG")
        facts = mask_facts(mask.getvalue(), key, self.limits, coloured=False)
        name, offset, size, crc = tar.add(f"{key}.{MASK}", mask.getvalue())
        row |= {"mask": name, "mask_offset": offset, "mask_size": size, "mask_crc": crc}
        return row | {"mask_values": facts.values.tolist(), "mask_counts": facts.counts.tolist()}


class _Tar:
    """A tar that says where each file's content begins. It names no time and no owner, so that it is the same again."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name, self.tar = name, tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, *_: object) -> None:
        self.tar.close()

    def add(self, name: str, content: bytes) -> tuple[str, int, int, int]:
        """Write a file; its name with that of the tar, where it begins, its bytes and its checksum."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self.tar.addfile(info, io.BytesIO(content))
        blocks = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return f"{self.name}/{name}", self.tar.offset - blocks, len(content), zlib.crc32(content)


def _key(name: str) -> str:
    """The path without its suffix; dots would end the key."""
    return posixpath.splitext(name)[0].strip("/").replace(".", "_")


def _label(samples: ImageFiles, index: int, classes: Sequence[str]) -> tuple[str, str]:
    """The suffix and the text of an image's labels."""
    if isinstance(samples, ObjectSamples):
        return LABELS, json.dumps(_objects(samples.objects(index), classes), ensure_ascii=False)
    if isinstance(samples, LabelSamples):
        own = [classes[label] for label in np.flatnonzero(samples.labels[index]).tolist()]
        return LABELS, json.dumps({"labels": own}, ensure_ascii=False)
    assert isinstance(samples, Samples)
    return CLASS, str(int(samples.labels[index]))


def _objects(objects: Objects, classes: Sequence[str]) -> dict[str, Any]:
    """`height`, `width` and `objects`; a crowd, outline or run lengths only where there are."""
    rows = zip(objects.labels.tolist(), _short(objects.boxes), _short(objects.areas), objects.crowd.tolist(),
               objects.outlines, objects.runs, strict=True)  # fmt: skip
    told = [
        {"class": classes[label], "box": box, "area": area}
        | ({"crowd": True} if crowd else {})
        | ({"outline": [_short(ring.ravel()) for ring in rings]} if rings else {})
        | ({"runs": runs} if runs else {})
        for label, box, area, crowd, rings, runs in rows
    ]
    return {"height": objects.size[0], "width": objects.size[1], "objects": told}


def _short(values: NDArray[np.float32]) -> list[Any]:
    """The shortest numbers that are these again in 32 bits: 10.2, not 10.199999809."""
    found: list[Any] = values.astype(str).astype(np.float64).tolist()
    return found
