"""`pack`: a data set as shards, tars in WebDataset's form with an index, to be read from anywhere."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.data.dataset import ImageData, write_left_out
from dualtoken.data.finding import find_data
from dualtoken.data.frames import check_frames
from dualtoken.data.hugging_face import Rows, rows_of, suffix_of
from dualtoken.data.mask_values import mask_facts
from dualtoken.data.reading import OnBadImage, OnBadLabel
from dualtoken.data.samples import ImageFiles, LabelSamples, MaskSamples, Objects, ObjectSamples, Samples
from dualtoken.data.shards import CLASS, LABELS, MASK, write_index
from dualtoken.errors import ConfigError
from dualtoken.files import alone, atomic_folder, refuse_existing, unique
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
    source: str | Path | Any,
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
        source: a data set, as for training; or one of Hugging Face's `datasets`, a folder of it. In Python also a
            `Dataset` or `IterableDataset`, or a dictionary of them by split.
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
    how: dict[str, Any] = {
        "task": task, "labels": labels, "val_fraction": 0, "on_bad_image": on_bad_image, "on_bad_label": on_bad_label,
        "limits": limits, "progress": progress,
    }  # fmt: skip
    with alone(output), atomic_folder(output) as folder:
        writer = _Writer(folder, shard_mb * 10**6)
        if rows := rows_of(source, seed):
            data = _pack_rows(rows, writer, how)
        else:
            data = find_data(source, **how)
            _pack_data(data, writer, seed, limits)
        write_left_out(folder, data.bad_images, data.bad_labels)
    return Packed(output, writer.images, writer.shards, writer.size, data.notes)


def _pack_data(data: ImageData, writer: _Writer, seed: int, limits: ImageLimits) -> None:
    """Write a data set that was looked at."""
    keys: set[str] = set()
    columns: list[dict[str, Any]] = []
    for split, samples in data.splits.items():
        order = np.random.default_rng(seed).permutation(len(samples))
        own = [unique(_key(name), keys) for name in map(str, samples.names)]
        shuffled = (_sample(samples, index, own[index], data.classes, limits) for index in order.tolist())
        rows = writer.write("" if split == "all" else split, shuffled)
        sizes = check_frames(samples, full=False, limits=limits, progress=False).sizes.tolist()
        columns += [rows[place] | _size(sizes[index]) for index, place in enumerate(np.argsort(order).tolist())]
    writer.finish(_KINDS[type(next(iter(data.splits.values())))], data.classes, columns)


def _pack_rows(rows: Rows, writer: _Writer, how: dict[str, Any]) -> ImageData:
    """Write rows as they come, and look at them then, in the shards; those left out are in no row of the index."""
    columns: list[dict[str, Any]] = []
    for split, own in rows.splits.items():
        samples = (
            _Sample(f"{number:09d}", row.image, suffix_of(row.image), [(rows.suffix, row.label.encode())],
                    {"label": row.label}) for number, row in enumerate(own)
        )  # fmt: skip
        columns += writer.write(split, samples)
    writer.finish(rows.kind, rows.classes, columns)
    data, sizes = find_data(writer.folder, **how), dict[str, list[int]]()
    for good in data.splits.values():
        frames = check_frames(good, full=False, limits=how["limits"], progress=False)
        sizes |= dict(zip(good.names.tolist(), frames.sizes.tolist(), strict=True))
    writer.finish(rows.kind, rows.classes, [row | _size(sizes[row["name"]]) for row in columns if row["name"] in sizes])
    return data


def _size(size: list[int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


# ---------------------------------------------------------------- samples


class _Sample(NamedTuple):
    """The files of one image, and what its row of the index holds besides their places."""

    key: str
    image: bytes
    suffix: str
    others: list[tuple[str, bytes]]
    known: dict[str, Any]


def _sample(samples: ImageFiles, index: int, key: str, classes: Sequence[str], limits: ImageLimits) -> _Sample:
    source = samples.source(index, limits)
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    suffix = posixpath.splitext(str(samples.names[index]))[1].lower()
    if isinstance(samples, MaskSamples):
        mask = io.BytesIO()
        Image.fromarray(samples.open_mask(index, limits)).save(mask, "PNG")
        facts = mask_facts(mask.getvalue(), key, limits, coloured=False)
        known = {"mask_values": facts.values.tolist(), "mask_counts": facts.counts.tolist()}
        return _Sample(key, content, suffix, [(MASK, mask.getvalue())], known)
    kind, label = _label(samples, index, classes)
    return _Sample(key, content, suffix, [(kind, label.encode())], {"label": label})


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


# ---------------------------------------------------------------- tars


class _Writer:
    """Writes tars of about `most` bytes, and their index."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.images = self.shards = self.size = 0

    def write(self, split: str, samples: Iterator[_Sample]) -> list[dict[str, Any]]:
        """The tars of a split, whose name is empty where nothing is split; the rows of the index, as samples came."""
        rows: list[dict[str, Any]] = []
        sample, number = next(samples, None), 0
        while sample is not None:
            path = self.folder / f"{split or 'images'}-{number:05d}.tar"
            with path.open("wb") as file, _Tar(file, path.name) as tar:
                while sample is not None and file.tell() < self.most:
                    rows.append(tar.write(sample) | {"split": split})
                    sample = next(samples, None)
            self.shards, self.size, number = self.shards + 1, self.size + path.stat().st_size, number + 1
        return rows

    def finish(self, kind: str, classes: Sequence[str], rows: list[dict[str, Any]]) -> None:
        """Write the index, and the names of the classes beside it."""
        self.images = len(rows)
        write_index(self.folder, kind, classes, {key: [row[key] for row in rows] for key in (rows or [{}])[0]})
        (self.folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


class _Tar:
    """A tar that says where each file's content begins. It names no time and no owner, so that it is the same again."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name, self.tar = name, tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, *_: object) -> None:
        self.tar.close()

    def write(self, sample: _Sample) -> dict[str, Any]:
        """Write the files of a sample; its row of the index."""
        row = self._add(sample.key + sample.suffix, sample.image)
        for suffix, content in sample.others:
            place = self._add(f"{sample.key}.{suffix}", content)
            if suffix == MASK:
                row |= {"mask": place.pop("name")} | {f"mask_{key}": value for key, value in place.items()}
        return row | sample.known

    def _add(self, name: str, content: bytes) -> dict[str, Any]:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self.tar.addfile(info, io.BytesIO(content))
        blocks = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        place = {"offset": self.tar.offset - blocks, "size": len(content), "crc": zlib.crc32(content)}
        return {"name": f"{self.name}/{name}"} | place
