"""`find_data`: from a path to classes, splits and images, with everything odd said in words."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.dtypes import StringDType
from numpy.typing import NDArray

from dualtoken.data.checks import Findings, check
from dualtoken.data.index import ImageData, Samples
from dualtoken.data.layouts import Assignment, NoClassesError, assign, assign_csv
from dualtoken.data.listing import list_archive, list_folder
from dualtoken.errors import ConfigError, DataError, nearest, unknown_name
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.words import counted

OnBadImage = Literal["fail", "skip"]
CheckImages = Literal["auto", "all", "headers"]
FULL_CHECK_UP_TO = 50_000
_SHOWN = 5
_SPLIT_ORDER = ("train", "val", "test", "all")


def find_data(
    source: str | Path,
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    on_bad_image: OnBadImage = "fail",
    check_images: CheckImages = "auto",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
    classes: Sequence[str] | None = None,
) -> ImageData:
    """Find the images, classes and splits of a data set.

    Recognised are class folders `DIR/CLASS/*.jpg`, split folders `DIR/{train,val,test}/CLASS/*.jpg`, both
    also below single folders, a CSV file with the columns path, label and perhaps split, and a zip archive
    of any of these, which is read in place.

    Args:
        source: a folder, a CSV file or a zip archive.
        seed: decides which images make `val` where the source does not say.
        val_fraction: share of each class that makes `val` then, in [0, 1); 0 makes no split.
        on_bad_image: `fail`, or `skip` to leave out and list images that cannot be read.
        check_images: `headers` reads the first bytes of each image, `all` decodes it; `auto` decodes up to
            50,000 images.
        limits: what an image may cost.
        progress: show a bar while images are checked, on a terminal.
        classes: class names of a model. The source may have some of them and no others, and labels are
            indices into them.

    Raises:
        DataError: what was found cannot be used; the message says why.
        ConfigError: an argument has an impossible value.
    """
    _check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
    _check_choice("check_images", check_images, get_args(CheckImages))
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction is {val_fraction}, expected a number from 0 to below 1.")
    found = _recognise(Path(source))
    notes = [*found.listing.notes, *found.notes]
    names = _class_names(found, classes, notes)
    everything = _samples(found, names)
    splits = _split(found, everything, names, seed, val_fraction, notes)
    full = check_images == "all" or (check_images == "auto" and len(everything) <= FULL_CHECK_UP_TO)
    findings = check(everything, full=full, limits=limits, progress=progress)
    bad = _bad_images(everything, findings, on_bad_image)
    notes += _frame_notes(everything, findings)
    good = np.ones(len(everything), bool)
    good[list(findings.bad)] = False
    return ImageData(
        source=str(source),
        classes=names,
        splits=_filled(splits, everything, good, names, classes),
        fingerprint=_fingerprint(found, good),
        bad_images=bad,
        notes=tuple(notes),
        layout=found.layout,
        val_drawn="val" in splits and "val" not in found.splits,
    )


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}, expected one of {', '.join(choices)}.")


def _recognise(path: Path) -> Assignment:
    if path.is_dir():
        return assign(list_folder(path))
    if not path.exists():
        near = nearest(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else None
        hint = f"Did you mean {str(path.parent / near)!r}?" if near else "Give a folder, a CSV file or a zip archive."
        raise DataError(f"There is no {str(path)!r}.", hint)
    if path.suffix.lower() == ".csv":
        return assign_csv(path)
    if path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        return assign(list_archive(path))
    raise DataError(
        f"{str(path)!r} is neither a folder nor a CSV file nor a zip archive.", "Unpack other archives first."
    )


def _class_names(found: Assignment, known: Sequence[str] | None, notes: list[str]) -> tuple[str, ...]:
    """The classes: those of a model if `known`, else those of the training images."""
    by_split = {split: set(np.unique(labels)) for split, labels in _labels_by_split(found).items()}
    present = set().union(*by_split.values())
    reference = set(known) if known is not None else by_split.get("train", present)
    whose = "the model" if known is not None else "train"
    strangers = sorted(present - reference)
    if strangers:
        hints = [unknown_name("class", name, sorted(reference)) for name in strangers[:_SHOWN]]
        raise DataError(
            f"{counted(len(strangers), 'class', 'classes')} of {found.listing.root!r}"
            f" {'is' if len(strangers) == 1 else 'are'} not among the classes of {whose}.",
            "\n".join(hints),
        )
    if known is not None:
        missing = [name for name in known if name not in present]
        notes += [f"no images of {len(missing)} of the model's classes: {_some(missing)}"] if missing else []
        notes += [f"{folder!r} holds no images" for folder in found.empty]
        return tuple(known)
    _refuse_empty(found)
    for split, names in by_split.items():
        missing = sorted(reference - names)
        lacking = counted(len(missing), "class", "classes")
        notes += [f"{split} has no images of {lacking}: {_some(missing)}"] if missing else []
    if len(reference) < 2:
        raise NoClassesError(
            f"{found.listing.root!r} has one class only: {_some(sorted(reference))}.",
            "At least two class folders are needed; the other one may simply hold everything else.",
        )
    return tuple(sorted(reference))


def _labels_by_split(found: Assignment) -> dict[str, NDArray[np.str_]]:
    labels, splits = np.array(found.labels, StringDType()), np.array(found.splits, StringDType())
    return {str(split): labels[splits == split] for split in np.unique(splits)}


def _refuse_empty(found: Assignment) -> None:
    if found.empty:
        raise NoClassesError(
            f"{counted(len(found.empty), 'class folder')} in {found.listing.root!r} without images:"
            f" {_some(found.empty)}.",
            "Fill or remove them: a class without images cannot be learned.",
        )


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + rest


def _samples(found: Assignment, classes: tuple[str, ...]) -> Samples:
    """All images used, as one set of samples."""
    listing, rows = found.listing, np.array(found.rows, np.int64)
    index = {name: label for label, name in enumerate(classes)}
    return Samples(
        root=listing.root,
        names=np.array([_storable(listing.names[row]) for row in found.rows], StringDType()),
        labels=np.array([index[label] for label in found.labels], np.int64),
        members=None if listing.members is None else listing.members[rows],
    )


def _storable(name: str) -> str:
    """A name that is not UTF-8 cannot be stored or printed; so written, it is found missing by the check."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _split(
    found: Assignment,
    samples: Samples,
    classes: tuple[str, ...],
    seed: int,
    val_fraction: float,
    notes: list[str],
) -> dict[str, NDArray[np.int64]]:
    """Name of each split to the indices of its images, as given; a missing `val` is drawn from `train`."""
    given = np.array(found.splits, StringDType())
    splits = {split: np.flatnonzero(given == split) for split in _SPLIT_ORDER if (given == split).any()}
    train = splits.get("train", np.arange(len(samples)) if not splits else None)
    if train is None or "val" in splits:
        return splits
    if val_fraction == 0:
        return splits or {"all": train}
    chosen, single = _draw_val(samples, train, len(classes), seed, val_fraction)
    if single:
        notes.append(f"one image only, which stays in train: {_some([classes[label] for label in single])}")
    notes.append(f"val is {val_fraction:.0%} of each class, drawn with seed {seed}")
    if not len(chosen):
        raise DataError(
            f"No validation images can be drawn from {samples.root!r}: no class has two images.",
            "Add images: at least one class needs two, one to learn from and one to validate with.",
        )
    splits |= {"train": np.setdiff1d(train, chosen), "val": chosen}
    return {split: splits[split] for split in _SPLIT_ORDER if split in splits}


def _draw_val(
    samples: Samples, train: NDArray[np.int64], classes: int, seed: int, fraction: float
) -> tuple[NDArray[np.int64], list[int]]:
    """Indices drawn class by class, at least one and never all; and the labels with one image only."""
    generator = np.random.default_rng(seed)
    chosen, single = [], []
    for label in range(classes):
        members = train[samples.labels[train] == label]
        if len(members) == 1:
            single.append(label)
        elif len(members):
            number = min(max(round(len(members) * fraction), 1), len(members) - 1)
            chosen.append(generator.permutation(members)[:number])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64), single


def _bad_images(samples: Samples, findings: Findings, on_bad_image: OnBadImage) -> tuple[tuple[str, str], ...]:
    bad = tuple((samples.path(index), reason) for index, reason in sorted(findings.bad.items()))
    if bad and on_bad_image == "fail":
        lines = [f"  {reason}" for _, reason in bad[:_SHOWN]]
        lines += [f"  and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        raise DataError(
            "\n".join([f"{len(bad):,} of {counted(len(samples), 'image')} cannot be read:", *lines]),
            "Repair or remove them, or leave them out: --on-bad-image skip.",
        )
    return bad


def _frame_notes(samples: Samples, findings: Findings) -> list[str]:
    several = findings.several_frames
    if not several:
        return []
    number = counted(len(several), "image has", "images have")
    rest = " ..." if several[1:] else ""
    return [f"{number} several frames, the first is used: {samples.path(min(several))!r}{rest}"]


def _filled(
    splits: dict[str, NDArray[np.int64]],
    samples: Samples,
    good: NDArray[np.bool_],
    classes: tuple[str, ...],
    known: Sequence[str] | None,
) -> dict[str, Samples]:
    """The splits without their bad images. The draw came first: a repaired image moves no other one."""
    filled = {name: samples.subset(indices[good[indices]]) for name, indices in splits.items()}
    for name, split in filled.items():
        if len(split) == 0:
            raise DataError(f"The split {name!r} of {samples.root!r} has no image that can be read.")
    if "train" not in filled or known is not None:
        return filled
    lost = np.flatnonzero(filled["train"].counts(len(classes)) == 0)
    if len(lost):
        names = _some([classes[label] for label in lost])
        raise DataError(f"No image for training can be read of these classes: {names}.", "Repair or remove them.")
    return filled


def _fingerprint(found: Assignment, good: NDArray[np.bool_]) -> str:
    digest = hashlib.sha256()
    rows = zip(found.rows, found.labels, found.splits, good.tolist(), strict=True)
    listing = found.listing
    for name, size, label, split in sorted(
        (listing.names[row], listing.sizes[row], label, split) for row, label, split, is_good in rows if is_good
    ):
        digest.update(f"{name}\0{size}\0{label}\0{split}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
