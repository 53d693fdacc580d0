"""`find_data`: from a path to classes, splits and images, whichever format the labels come in.

The files are listed once, each format is asked once whether it is its own, label files are read once. Then every image
is looked at, and every label against its image.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dualtoken.bands import Bands
from dualtoken.data.band_values import with_counted_bands
from dualtoken.data.dataset import ImageData
from dualtoken.data.foreign import refuse_foreign
from dualtoken.data.formats import FORMATS, Format, by_rank
from dualtoken.data.frames import Frames, check_frames
from dualtoken.data.plans import HINT, SPLIT_ORDER, NoClassesError, ObjectPlan, Plan, some
from dualtoken.data.reading import TARGETS, Asked, OnBadImage, OnBadLabel, Reading, refuse
from dualtoken.data.samples import ImageFiles, LabelSamples, Samples
from dualtoken.data.shards import are_shards
from dualtoken.data.tree import Tree, open_tree, split_named, stem_of
from dualtoken.errors import ConfigError, DataError
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.words import counted

CheckImages = Literal["auto", "all", "headers"]
FULL_CHECK_UP_TO = 50_000
_LISTS = (".txt", ".csv", ".json", ".jsonl", ".lst", ".tsv", ".yaml", ".xml")
_OF_SPLITS = frozenset({"split", "splits", "fold", "folds", "train_val_split", "dataset_split", "partition"})
_DRAWS = 100  # of a val split, until both sides have something to learn from


@dataclass(frozen=True)
class Need:
    """Which labels a task learns from.

    Attributes:
        target: a key of `TARGETS`.
        outlines: whether objects must have outlines.
        by_itself: whether such labels are for this task where nobody says which.
    """

    target: str
    outlines: bool = False
    by_itself: bool = True


NEEDS: dict[str, Need] = {
    "classification": Need("classes"),
    "multilabel": Need("labels"),
    "detection": Need("objects"),
    "instance_segmentation": Need("objects", outlines=True, by_itself=False),
    "semantic_segmentation": Need("masks"),
}


def find_data(
    source: str | Path | Plan,
    *,
    task: str = "auto",
    labels: str = "auto",
    seed: int = 0,
    val_fraction: float = 0.1,
    on_bad_image: OnBadImage = "fail",
    on_bad_label: OnBadLabel = "fail",
    check_images: CheckImages = "auto",
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: bool = True,
    classes: Sequence[str] | None = None,
    most: int | None = None,
    bands: Bands | None = None,
) -> ImageData:
    """Find the images of a data set with their classes, objects or masks.

    Recognised are class folders, CSV files and the label formats of `FORMATS`, in a folder or a zip archive that is
    read in place, and shards at any address; see docs/data.md for the layouts. Every image is checked, and every label
    against its image; images of shards were when they were packed.

    Args:
        source: a folder, a zip archive, a label file (.csv, .json, .yaml), shards (a folder, tars, an address such as
            s3://...), or what `plan_data` gave.
        task: a key of `NEEDS`, which decides where several formats are there; `auto` takes what the labels are for:
            boxes and outlines are for detection, masks alone for semantic segmentation, class folders and tables for
            classification.
        labels: the format to take, a key of `FORMATS`; `auto` recognises it.
        seed: decides which images make `val` where the source does not say.
        val_fraction: share of the images, or of each class, that makes `val` then, in [0, 1); 0 makes no split.
        on_bad_image: `fail`, or `skip` to leave out and list images that are wrong, or whose labels are.
        on_bad_label: what an annotation that cannot be used costs: `fail` its image, as `on_bad_image` says; `drop`
            itself alone; `clip` as `drop`, but what leaves its image is cut at the edge.
        check_images: `headers` reads the first bytes of each image, `all` decodes it; `auto` decodes up to
            50,000 images.
        limits: what an image may cost.
        progress: show a bar while images are checked, on a terminal.
        classes: class names of a model. The source may have some of them and no others, and labels are indices into
            them.
        most: keep so many images of each split, drawn with `seed`: to try things out.
        bands: which bands of the images are meant; None for red, green and blue.

    Returns:
        Splits are `Samples`, `LabelSamples`, `ObjectSamples` or `MaskSamples`, as the task is.

    Raises:
        DataError: what was found cannot be used; the message names file and line.
        ConfigError: an argument has an impossible value.
    """
    _check("on_bad_image", on_bad_image, get_args(OnBadImage))
    _check("on_bad_label", on_bad_label, get_args(OnBadLabel))
    _check("check_images", check_images, get_args(CheckImages))
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction is {val_fraction}, expected a number from 0 to below 1.")
    plan = source if isinstance(source, Plan) else plan_data(source, task=task, labels=labels)
    if not plan.images:
        refuse(plan.problems)
        raise DataError(f"{plan.tree.root!r} holds no images with labels ({plan.layout}).", HINT)
    notes = [*plan.tree.notes, *plan.notes]
    plan.notes = []
    full = check_images == "all" or (check_images == "auto" and len(plan.images) <= FULL_CHECK_UP_TO)
    names, members = plan.tree.arrays(plan.images)
    files = ImageFiles(plan.tree.root, names, members)
    files = files if bands is None else with_counted_bands(files, bands, limits)

    def look() -> Frames:
        if plan.looked_at is not None and check_images != "all":
            return Frames(plan.looked_at, plan.looked_at, np.zeros(len(files), bool))
        frames = check_frames(files, full=full, limits=limits, progress=progress)
        plan.problems += [(files.path(index), reason) for index, reason in sorted(frames.bad.items())]
        notes.extend(frames.notes(files))
        return frames

    form, need = FORMATS[plan.format], NEEDS.get(plan.task)
    asked = Asked(on_bad_image, on_bad_label, limits, progress, full, bool(need and need.outlines), classes)
    try:
        reading = TARGETS[form.target](plan, files, look, asked)
    except NoClassesError as error:
        raise _no_classes(plan.tree, error, [] if plan.tree.given else list(_others(plan.tree))) from None
    if on_bad_image == "fail":
        refuse(plan.problems)
    reading.samples = replace(reading.samples, bands=files.bands)
    notes += [bands.words()] if bands and bands.stored else []
    whole = _Whole(str(plan.tree.given or plan.tree.root), plan, reading, classes is not None, (*notes, *plan.notes))
    return whole.drawn(seed, val_fraction, most)


def _check(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}, expected one of {', '.join(choices)}.")


# ---------------------------------------------------------------- which format


def plan_data(source: str | Path, *, task: str = "auto", labels: str = "auto") -> Plan:
    """What the label files of a data set say, and what it is for; no image is opened.

    Args:
        source, task, labels: as of `find_data`, which takes the result in place of the source.

    Raises:
        DataError: the source is not there, or has no labels for `task`.
        ConfigError: there is no such task or format.
    """
    _check("task", task, ("auto", *NEEDS))
    _check("labels", labels, ("auto", *FORMATS))
    wanted, path = _wanted(task, labels), Path(source)
    label_file = not are_shards(source) and _is_label_file(path)
    plan = _of_file(path, task, labels, wanted) if label_file else _of_tree(source, task, labels, wanted)
    _require_learnable(plan, task)
    return plan


def _wanted(task: str, labels: str) -> dict[str, Format]:
    """The formats that may be taken, the first choice first.

    Raises:
        DataError: `labels` are not for `task`.
    """
    forms = by_rank()
    target = None if task == "auto" else NEEDS[task].target
    outlines = task != "auto" and NEEDS[task].outlines
    fitting = {n: f for n, f in forms.items() if target in (None, f.target) and (f.outlines or not outlines)}
    if labels == "auto":
        return fitting
    if labels not in fitting:
        raise _cannot_learn(task, labels, fitting)
    classes = forms[labels].target == "classes"  # `folders` has always meant tables as well
    return {name: form for name, form in fitting.items() if name == labels or (classes and form.target == "classes")}


def _cannot_learn(task: str, labels: str, fitting: Sequence[str] | dict[str, Format]) -> DataError:
    return DataError(f"{task} cannot learn from {labels!r}.", f"It takes {', '.join(fitting)}.")


def _is_label_file(path: Path) -> bool:
    return path.is_file() and any(path.suffix.lower() in form.suffixes for form in FORMATS.values())


def _of_file(path: Path, task: str, labels: str, wanted: dict[str, Format]) -> Plan:
    """The plan of a label file that was named itself."""
    forms = sorted(by_rank().items(), key=lambda item: item[0] not in wanted)
    readers = {name: form for name, form in forms if path.suffix.lower() in form.suffixes}
    error: DataError | None = None
    for name, form in readers.items():
        try:
            plan = form.find(form.around(path))
        except DataError as reason:
            error = error or reason
            continue
        if plan is not None and (plan.plain or (task, labels) != ("auto", "auto")):
            if name not in wanted:
                raise error or _cannot_learn(task, name, wanted)
            return _named(plan, name, task)
    raise error or DataError(f"{str(path)!r} is no label file of a known kind.", _looked_for(readers))


def _of_tree(source: str | Path, task: str, labels: str, wanted: dict[str, Format]) -> Plan:
    tree = open_tree(source, ", ".join(sorted({s for form in FORMATS.values() for s in form.suffixes})))
    if tree.index is not None:
        return _of_shards(tree, tree.index.kind, task, wanted)
    found: dict[str, Plan] = {}
    refused: NoClassesError | None = None
    for name, form in wanted.items():
        if found and form.of_whole_images:
            break  # class folders are what is left where there is nothing else
        try:
            plan = form.find(tree)
        except NoClassesError as error:
            refused = error
            continue
        except DataError:
            if found:  # it would not be taken anyway
                continue
            raise
        if plan is not None and (plan.plain or (task, labels) != ("auto", "auto")):
            found[name] = plan
    if all(FORMATS[name].of_whole_images for name in found):
        refuse_foreign(tree)
    if task != "auto" and NEEDS[task].outlines and len(found) > 1:
        outlined = [name for name, plan in found.items() if isinstance(plan, ObjectPlan) and plan.table.has_outlines]
        found = {name: found[name] for name in sorted(found, key=lambda name: name not in outlined)}
    if not found:
        raise _nothing(tree, task, labels, wanted, refused)
    name, *others = found
    plan = _named(found[name], name, task)
    same = [other for other in others if FORMATS[other].target == FORMATS[name].target]
    plan.notes += [f"labels of several kinds: {name} is taken, another with --labels {same[0]}"] if same else []
    return plan


def _of_shards(tree: Tree, kind: str, task: str, wanted: dict[str, Format]) -> Plan:
    """The plan of shards, which have labels of one kind."""
    if not kind:
        raise NoClassesError(
            f"The tars in {tree.root!r} hold no labels: no .cls, .json or .mask.png is beside an image.",
            "Which files are labels: docs/shards.md.",
        )
    name = f"shards_{kind}"
    if name not in wanted:
        raise DataError(f"{tree.root!r} has labels of the kind {name}, expected {', '.join(wanted)}.")
    plan = FORMATS[name].find(tree)
    assert plan is not None
    return _named(plan, name, task)


def _named(plan: Plan, name: str, task: str) -> Plan:
    """The plan with its format and its task."""
    target = FORMATS[name].target
    by_itself = next((key for key, need in NEEDS.items() if need.target == target and need.by_itself), "")
    plan.format, plan.task = name, by_itself if task == "auto" else task
    return plan


def _require_learnable(plan: Plan, task: str) -> None:
    """Refuse boxes alone where a task takes outlines."""
    if task != "auto" and NEEDS[task].outlines and isinstance(plan, ObjectPlan) and not plan.table.has_outlines:
        raise DataError(
            f"The labels in {plan.tree.root!r} ({plan.format}) have no outline anywhere, which {task} needs.",
            "They are for detection.",
        )


def kinds_of(source: str | Path) -> tuple[str, ...]:
    """Which formats of objects and masks are in a folder or archive, or which a label file has."""
    path = Path(source)
    return (plan_data(path).format,) if _is_label_file(path) else tuple(_others(open_tree(path)))


def _others(tree: Tree) -> dict[str, Plan]:
    found = {}
    for name, form in by_rank().items():
        if not form.of_whole_images:
            with suppress(DataError):
                if (plan := form.find(tree)) is not None:
                    found[name] = plan
    return found


def _looked_for(forms: dict[str, Format]) -> str:
    return "Looked for:" + "".join(f"\n  {text}" for text in dict.fromkeys(form.looked_for for form in forms.values()))


def _nothing(
    tree: Tree, task: str, labels: str, wanted: dict[str, Format], refused: NoClassesError | None
) -> DataError:
    """That nothing was found, with what is there instead."""
    others = list(_others(tree))
    told = "".join(f"\n  {reason}" for reason in _reasons(tree))
    kinds = ", ".join(others)
    if labels != "auto" and not FORMATS[labels].of_whole_images:
        return DataError(
            f"{tree.root!r} has no labels of the kind {labels!r}; found: {kinds or 'none'}.{told}", _looked_for(wanted)
        )
    if task != "auto" and NEEDS[task].target != "classes":
        has = f"has labels of the kind {kinds}" if others else "has no labels of a known kind"
        return DataError(f"{tree.root!r} {has}; {task} takes {', '.join(wanted)}.{told}", _looked_for(wanted))
    hint = _looked_for(wanted) if tree.names else "Give each class a folder of its images, such as photos/cat/1.jpg."
    return _no_classes(tree, refused or NoClassesError(f"{tree.root!r} holds no images.", hint), others)


def _no_classes(tree: Tree, error: NoClassesError, others: Sequence[str]) -> NoClassesError:
    """That there are no classes, with the other labels that are there, or why there are none either."""
    if others:
        target = FORMATS[others[0]].target
        meant = next(key for key, need in NEEDS.items() if need.target == target)
        return NoClassesError(
            f"{tree.root!r} has labels of the kind {', '.join(others)}, and no images in class folders, which"
            " classification learns from.",
            f"These labels are for {meant.replace('_', ' ')}: dualtoken train {tree.root} --task {meant} --output RUN",
        )
    reasons = _reasons(tree)
    if not reasons:
        return error
    return NoClassesError("\n".join(reasons) + f"\nSo there are no boxes, and no classes: {error.message}", error.hint)


def _reasons(tree: Tree) -> list[str]:
    """Why files that look like labels are none."""
    if tree.given:
        return []
    return [reason for form in by_rank().values() if form.why_not for reason in form.why_not(tree)]


# ---------------------------------------------------------------- splits


@dataclass(frozen=True, eq=False)
class _Whole:
    """All images of a data set, read; splits are drawn from them."""

    source: str
    plan: Plan
    reading: Reading
    known: bool
    notes: tuple[str, ...]

    def drawn(self, seed: int, fraction: float, most: int | None) -> ImageData:
        """The data set with its `val` drawn by `seed`, where the source names none."""
        plan, reading = self.plan, self.reading
        notes: list[str] = []
        splits = draw_splits(plan.splits, len(plan.images), seed, fraction, notes, reading)
        if "val" in splits and "val" not in plan.splits and (named := naming_splits(plan.tree, plan.splits)):
            notes.append(f"though val is drawn, {some(named)} seem{'s' if len(named) == 1 else ''} to name a split")
        notes += _overlap_notes(plan.images, splits)
        if reading.ignored is not None:
            for split, indices in splits.items():
                without, pixels = reading.ignored[indices[reading.good[indices]]].sum(0).tolist()
                told = (
                    f"{split}: {without / max(1, pixels):.1%} of the pixels carry no class, and neither train nor count"
                )
                notes += [told] if without else []
        filled = self._filled(splits)
        if most is not None:
            filled = {name: _fewer(samples, most, seed) for name, samples in filled.items()}
            notes.append(
                f"{counted(most, 'image')} of each split {'is' if most == 1 else 'are'} used, drawn with seed {seed}"
            )
        return ImageData(
            source=self.source,
            classes=reading.classes,
            splits=filled,
            fingerprint=reading.fingerprint(plan),
            bad_images=tuple(plan.problems),
            notes=(*self.notes, *notes),
            layout=plan.layout,
            val_drawn="val" in splits and not plan.splits.get("val"),
            task=plan.task,
            bad_labels=tuple(reading.dropped),
            redraw=partial(_Whole.drawn, self),
        )

    def _filled(self, splits: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
        """The splits without their bad images. The draw was among all: a repaired image moves no other one."""
        filled = {}
        for split, indices in splits.items():
            kept = indices[self.reading.good[indices]]
            if not len(kept):
                raise DataError(f"The split {split!r} of {self.plan.tree.root!r} has no image that can be used.", HINT)
            filled[split] = self.reading.samples.subset(kept)
        train, classes = filled.get("train"), self.reading.classes
        if isinstance(train, Samples) and not self.known:
            lost = np.flatnonzero(train.counts(len(classes)) == 0)
            if len(lost):
                names = some([classes[label] for label in lost])
                raise DataError(
                    f"No image for training can be read of these classes: {names}.", "Repair or remove them."
                )
        return filled


def naming_splits(tree: Tree, used: Container[str]) -> list[str]:
    """Folders and files whose names are those of splits other than the `used` ones, or of lists of splits."""
    if tree.index is not None:  # it tells the splits
        return []
    files = (name for name in tree.with_suffix(*_LISTS) if name not in tree.images)
    named = {name: split_named(stem_of(name)) or stem_of(name).lower() for name in (*sorted(tree.folders), *files)}
    return [name for name, split in named.items() if split in ({"val", "test"} | _OF_SPLITS) and split not in used]


def draw_splits(
    given: dict[str, list[int]], count: int, seed: int, fraction: float, notes: list[str], reading: Reading
) -> dict[str, NDArray[np.int64]]:
    """Name of each split to the indices of its images; a missing `val` is drawn from `train`, and a note says so.

    Raises:
        DataError: `val` cannot be drawn.
    """
    splits = {split: np.array(given[split], np.int64) for split in SPLIT_ORDER if given.get(split)}
    train = splits.get("train", np.arange(count) if not splits else None)
    if train is None or "val" in splits:
        return splits
    if fraction == 0:
        return splits or {"all": train}
    generator = np.random.default_rng(seed)
    if reading.strata is not None:
        chosen = _draw_from_classes(train, reading, fraction, generator, notes)
        if isinstance(reading.samples, LabelSamples):  # a class may lose all its images with those of others
            for has in reading.samples.labels.T:  # (N,)
                if has[chosen].any() and not has[np.setdiff1d(train, chosen)].any():
                    chosen = chosen[chosen != chosen[has[chosen]][0]]
    else:
        chosen = _draw(train, reading, fraction, generator, notes)
    of = "the images" if reading.strata is None else "each class"
    notes.append(f"val is {fraction:.0%} of {of}, drawn with seed {seed}")
    splits |= {"train": np.setdiff1d(train, chosen), "val": chosen}
    return {split: splits[split] for split in SPLIT_ORDER if split in splits}


def _draw(
    train: NDArray[np.int64], reading: Reading, fraction: float, generator: np.random.Generator, notes: list[str]
) -> NDArray[np.int64]:
    """Indices drawn among all alike; drawn again where one side would have nothing to learn from."""
    if len(train) < 2:
        raise DataError(
            "There is one image only, but training needs two: one to learn from, another one to validate with.",
            "Add images.",
        )
    number = min(max(round(len(train) * fraction), 1), len(train) - 1)
    truth = reading.good if reading.truth is None else reading.truth & reading.good
    for draw in range(_DRAWS):
        chosen = np.sort(generator.permutation(train)[:number])
        labelled = int(truth[chosen].sum())
        if 0 < labelled < truth[train].sum() or truth[train].sum() < 2:
            notes += [f"val was drawn {draw + 1} times, until an image with a label was in it"] if draw else []
            return chosen
    return chosen


def _draw_from_classes(
    train: NDArray[np.int64], reading: Reading, fraction: float, generator: np.random.Generator, notes: list[str]
) -> NDArray[np.int64]:
    """Indices drawn class by class, at least one and never all."""
    assert reading.strata is not None
    chosen, single = [], []
    order = np.argsort(reading.strata[train], kind="stable")
    ends = np.searchsorted(reading.strata[train][order], np.arange(len(reading.classes) + 1), side="right")
    for name, members in zip((*reading.classes, "no label"), np.split(train[order], ends[:-1]), strict=True):
        if len(members) == 1:
            single.append(name)
        elif len(members):
            number = min(max(round(len(members) * fraction), 1), len(members) - 1)
            chosen.append(generator.permutation(members)[:number])
    notes += [f"one image only, which stays in train: {some(single)}"] if single else []
    if not chosen:
        raise DataError(
            f"No validation images can be drawn from {reading.samples.root!r}: no class has two images.",
            "Add images: at least one class needs two, one to learn from and one to validate with.",
        )
    return np.sort(np.concatenate(chosen))


def _overlap_notes(images: Sequence[str], splits: dict[str, NDArray[np.int64]]) -> list[str]:
    names = {split: {images[index] for index in indices} for split, indices in splits.items()}
    notes = []
    for split in ("val", "test"):
        common = len(names.get("train", set()) & names.get(split, set()))
        if common:
            what = counted(common, f"image of {split} is", f"images of {split} are")
            notes.append(f"{what} in train too: its figures say little about new images")
    return notes


def _fewer(samples: Any, most: int, seed: int) -> Any:
    """`most` images of a split. Splits of equal images, as some data sets name them, keep equal ones."""
    order = np.random.default_rng(seed).permutation(len(samples))
    return samples.subset(np.sort(order[:most]))
