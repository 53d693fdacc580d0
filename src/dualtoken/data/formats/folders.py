"""Class folders: `DIR/CLASS/*.jpg`, or `DIR/{train,val,test}/CLASS/*.jpg`, both also below single folders."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Any

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.formats.masks import role_rest
from dualtoken.data.plans import ClassPlan, LabelPlan, NoClassesError
from dualtoken.data.tree import SPLIT_NAMES, Tree, split_named
from dualtoken.errors import DataError
from dualtoken.words import counted

_LABELS = (".json", ".xml", ".txt", ".csv", ".npy", ".mat", ".geojson", ".yaml")


def find(tree: Tree) -> ClassPlan | None:
    """What the names of folders say: split folders first, then class folders.

    Raises:
        NoClassesError: there are images, but not in class folders.
        DataError: two folders are for one split.
    """
    if tree.given or not tree.images:
        return None
    folders = Folders(tree)
    base = folders.descend()
    splits = folders.split_folders(base)
    return _by_splits(tree, folders, base, splits) if splits else _by_classes(tree, folders, base)


def find_linked(tree: Tree) -> LabelPlan | None:
    """The same, where one image may stand in several class folders by links: it then has the class of each."""
    plan = find(tree)
    if plan is None:
        return None
    notes = [*plan.notes, *(f"{folder!r} holds no images" for folder in plan.empty)]
    several = LabelPlan(tree=tree, layout=f"{plan.layout}, images linked", notes=notes, plain=False)
    split_of = {index: split for split, indices in plan.splits.items() for index in indices}
    places: dict[Any, int] = {}
    for index, (name, label) in enumerate(zip(plan.images, plan.labels, strict=True)):
        split = split_of.get(index, "")
        key = (split, _file(tree, name) if tree.linked else name)
        if key not in places:
            places[key] = several.use(name, [split])
            several.labels.append(set())
        own = several.labels[places[key]]
        several.plain |= bool(own) and label not in own
        own.add(label)
    return several


def _file(tree: Tree, name: str) -> Any:
    """What two links to one file have in common; the name of a file that is not there."""
    with suppress(OSError):
        status = os.stat(tree.path(name))  # noqa: PTH116
        return status.st_dev, status.st_ino
    return name


class Folders:
    """The folders of a tree: which lie in which, and which hold images themselves."""

    def __init__(self, tree: Tree) -> None:
        self.images = Counter(map(posixpath.dirname, tree.images))
        self.children: dict[str, set[str]] = defaultdict(set)
        for folder in {*tree.folders, *self.images}:
            while folder:
                parent = posixpath.dirname(folder)
                self.children[parent].add(folder)
                folder = parent
        self.holders: set[str] = set()  # folders with an image in them or below
        for folder in self.images:
            while folder not in self.holders:
                self.holders.add(folder)
                folder = posixpath.dirname(folder)

    def descend(self) -> str:
        """Through folders that hold one folder and nothing else, down to the splits or classes."""
        base = ""
        while not self.images[base] and len(self.children[base]) == 1:
            (child,) = self.children[base]
            if self.images[child] or not self.children[child] or _split_of(child):
                break
            base = child
        return base

    def split_folders(self, base: str) -> dict[str, str]:
        """Split folders in `base` that have class folders, to the names of their splits."""
        return {
            child: split
            for child in sorted(self.children[base])
            if (split := _split_of(child)) and any(sub in self.holders for sub in self.children[child])
        }


def _split_of(folder: str) -> str | None:
    return SPLIT_NAMES.get(posixpath.basename(folder).lower())


def _by_splits(tree: Tree, folders: Folders, base: str, splits: dict[str, str]) -> ClassPlan:
    if len(set(splits.values())) < len(splits):
        raise DataError(f"{tree.root!r} has two folders for one split: {', '.join(splits)}.", "Rename one.")
    plan = ClassPlan(tree=tree, layout=f"class folders in {', '.join(posixpath.basename(s) for s in splits)}")
    _add_classes(plan, folders, splits)
    others = sorted((folders.children[base] - set(splits)) & folders.holders)
    plan.notes += [f"{folder!r} beside the splits is not used" for folder in others]
    return plan


def _by_classes(tree: Tree, folders: Folders, base: str) -> ClassPlan:
    children = folders.children[base]
    if not children:
        raise NoClassesError(f"{tree.root!r} holds {counted(len(tree.images), 'image')} but no class folders.", hint())
    if all(split_named(posixpath.basename(child)) for child in children):
        raise NoClassesError(
            f"In {tree.root!r} the images lie in {', '.join(sorted(children))} without class folders.", hint()
        )
    parts = {posixpath.basename(child).lower() for child in children}
    pictures = {part for part in parts if role_rest(part, mask=False) == ""}
    if pictures and any(role_rest(part, mask=True) is not None for part in parts - pictures):
        raise NoClassesError(
            f"{tree.root!r} has folders {', '.join(sorted(parts))}: boxes or masks, but no classes of images.", hint()
        )
    _refuse_labelled(tree)
    plan = ClassPlan(tree=tree, layout="class folders")
    _add_classes(plan, folders, {base: ""})
    return plan


def _refuse_labelled(tree: Tree) -> None:
    """Refuse images that have a file of their own beside them: labels, though none that a reader knows."""
    beside = [
        name for name in sorted(set(tree.with_suffix(*_LABELS)) - set(tree.images))
        if posixpath.splitext(name)[0] in tree.image_stems
    ]  # fmt: skip
    if 2 * len(beside) > len(tree.images):
        raise NoClassesError(
            f"{tree.root!r} has {counted(len(beside), 'file')} of the names of its images, such as {beside[0]!r}:"
            " labels, it seems, of a format that is not known.",
            hint(),
        )


def _add_classes(plan: ClassPlan, folders: Folders, bases: dict[str, str]) -> None:
    """Use all images in class folders of `bases`, which are folders to names of splits."""
    stray: Counter[str] = Counter()
    for base in bases:
        plan.empty += sorted(folders.children[base] - folders.holders)
    prefixes = [(f"{base}/" if base else "", split) for base, split in bases.items()]
    for name in plan.tree.images:
        for prefix, split in prefixes:
            if name.startswith(prefix):
                label, _, rest = name[len(prefix) :].partition("/")
                if rest:
                    plan.use(name, [split])
                    # The same accent may be stored in two ways, and macOS changes one into the other.
                    plan.labels.append(unicodedata.normalize("NFC", label))
                else:
                    stray[prefix or "."] += 1
    plan.notes += [
        f"{counted(n, f'image directly in {folder!r} is', f'images directly in {folder!r} are')} in no class: not used"
        for folder, n in stray.items()
    ]


def hint() -> str:
    """What is looked for."""
    return (
        "Expected DIR/CLASS/*.jpg, or DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, "
        "or a CSV file with the columns path,label[,split]."
    )


FORMATS["linked_folders"] = Format("labels", find_linked, "class folders that share images by links", rank=85)
FORMATS["folders"] = Format("classes", find, "folders that are called like classes: DIR/CLASS/*.jpg", rank=90)
