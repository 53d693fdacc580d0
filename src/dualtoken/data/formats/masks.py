"""Masks: beside each image a picture of the same name whose values or colours are classes.

Known are `images/` beside `masks/` (or `annotations/`, `labels/`, `SegmentationClass/`), with train and val below or
above them. `classes.txt` names the classes: a name a line (value 0 first), `value, name`, or `name r g b` for coloured
masks.
"""

from __future__ import annotations

import colorsys
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.data.formats import FORMATS, Format
from dualtoken.data.formats.voc import image_sets
from dualtoken.data.plans import ClassKey, MaskPlan, refuse_doubles
from dualtoken.data.samples import IGNORE
from dualtoken.data.tree import SPLIT_NAMES, Tree, splits_of_folders, stem_of
from dualtoken.errors import DataError
from dualtoken.readers import parse_json
from dualtoken.words import counted

if TYPE_CHECKING:
    from dualtoken.data.conversion import Writer

_IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "input", "inputs"})
_MASK_FOLDERS = frozenset(
    {"masks", "mask", "annotations", "annotation", "annot", "ann", "anns", "labels", "label", "segmentationclass",
     "segmentation", "segmentations", "seg", "ground_truth", "groundtruth", "gt", "gtfine", "targets"}
)  # fmt: skip
_MASK_ENDINGS = (
    "", "_mask", "_masks", "_segmentation", "_seg", "_label", "_labels", "_gt", "_annotation", "-mask", "_L",
    "_gtFine_labelIds",
)  # fmt: skip
_ANNOTATED = re.compile(r"(train|val|valid|test)[_-]?(?:annot|annotations|labels?|masks?)")
_OBJECT_MASKS = frozenset({"segmentationobject"})  # of VOC: they number objects, and train nothing
_CLASS_FILES = (
    "labelmap.txt", "classes.txt", "classes.csv", "_classes.csv", "class_dict.csv", "labels.txt", "label_colors.txt",
    "classes.json",
)  # fmt: skip
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
_IGNORED_NAMES = frozenset({"ignore", "ignored", "void"})
_MAX_CLASSES = 254  # a mask in memory has 8 bits, and one value says ignore

_NUMBER = r"\s*(\d{1,3})\s*"
_SEPARATOR = r"[\s,;\t]"
_NAME_THEN_COLOUR = re.compile(rf"(.+?){_SEPARATOR}+{_NUMBER}{_SEPARATOR}{_NUMBER}{_SEPARATOR}{_NUMBER}")
_COLOUR_THEN_NAME = re.compile(rf"{_NUMBER}{_SEPARATOR}{_NUMBER}{_SEPARATOR}{_NUMBER}{_SEPARATOR}\s*(.+)")
_CVAT_LINE = re.compile(r"(.+?):(\d{1,3},\d{1,3},\d{1,3}):.*")
_VALUE_THEN_NAME = re.compile(r"\s*(\d{1,5})\s*[,;:\t]\s*(.+)")
_HEADER = re.compile(r"\s*(name|class|label|pixel value|value|id|r)\s*[,;\t].*", re.IGNORECASE)
_SHADES = 0.618  # the golden section spreads hues evenly, however many there are


def find(tree: Tree) -> MaskPlan | None:
    """What the names say; raises `DataError` where the class file is wrong."""
    pairs, images_alone, masks_alone = _pairs(tree)
    if not pairs:
        return None
    lists = image_sets(tree, "segmentation")
    if lists:  # VOC: only a part of the images have masks, and lists say which
        listed = {stem for stems in lists.values() for stem in stems}
        pairs = [pair for pair in pairs if stem_of(pair[0]) in listed]
        images_alone = [name for name in images_alone if stem_of(name) in listed]
        masks_alone = []
    folders = sorted({posixpath.dirname(mask) for _, mask in pairs})
    names = [image for image, _ in pairs]
    splits = _listed_splits(names, lists) if lists else splits_of_folders(names)
    plan = MaskPlan(
        tree=tree, layout=f"masks in {_words(folders)}", images=names, splits=splits,
        masks=[mask for _, mask in pairs], key=_class_key(tree),
    )  # fmt: skip
    partly = any("segmentationclass" in folder.lower() for folder in folders)
    if images_alone and partly:
        plan.notes.append(f"{counted(len(images_alone), 'image')} without a mask: not used")
    else:
        plan.problems += [(tree.path(name), f"{tree.path(name)!r} has no mask.") for name in images_alone]
    plan.problems += [(tree.path(name), f"{tree.path(name)!r} is a mask without its image.") for name in masks_alone]
    return plan


def masks_among(names: Iterable[str], images: Iterable[str]) -> set[str]:
    """Those of `names` that are masks of `images`: files of the same name in a folder for masks.

    JPEGs are none, since masks do not survive them.
    """
    known = {(_place(name, _IMAGE_FOLDERS), stem_of(name)) for name in images}
    found = set()
    for name in names:
        place = _place(name, _MASK_FOLDERS | _OBJECT_MASKS)
        if place is not None and not name.lower().endswith(_LOSSY):
            stems = [stem_of(name).removesuffix(end) for end in _MASK_ENDINGS]
            found |= {name} if any((place, stem) in known for stem in stems) else set()
    return found


def image_folders(root: Path, folder: str) -> Iterator[str]:
    """Folders that would hold the images of masks in `folder`; all relative to `root`, with `/` between the parts."""
    place = _place(f"{folder}/", _MASK_FOLDERS | _OBJECT_MASKS)
    if place is None:
        return
    before, _, after = place.partition("*")
    for name in sorted(os.listdir(root / before)):  # noqa: PTH208
        if name.lower() in _IMAGE_FOLDERS and (root / (beside := f"{before}{name}{after}")).is_dir():
            yield beside


def _pairs(tree: Tree) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Pairs, and the images and masks that stay alone although their folder has pairs."""
    masks = {(place, stem_of(name)): name for name in tree.images for place in _places(name, mask=True)}
    beside = _beside(tree)
    taken, pairs, used_places = set(masks.values()) | set(beside.values()), list[tuple[str, str]](), set[str]()
    images = [name for name in tree.images if name not in taken and not _is_object_mask(name)]
    alone: dict[str, list[str]] = {}
    for name in images:
        places = list(_places(name, mask=False))
        found = [
            (place, masks[place, stem + end])
            for place in places
            for stem in dict.fromkeys((stem_of(name), _bare(name)))
            for end in _MASK_ENDINGS
            if (place, stem + end) in masks
        ]
        mask = found[0][1] if found else beside.get(name)
        if mask is not None:
            pairs.append((name, mask))
            used_places |= {found[0][0]} if found else {posixpath.dirname(name)}
        for place in (*places, posixpath.dirname(name)) if mask is None else ():
            alone.setdefault(place, []).append(name)
    used = {mask for _, mask in pairs}
    alone_images = sorted({name for place in used_places for name in alone.get(place, [])})
    alone_masks = [name for (place, _), name in masks.items() if place in used_places and name not in used]
    return pairs, alone_images, alone_masks


def _beside(tree: Tree) -> dict[str, str]:
    """Image to mask of pairs in one folder, told by the ending alone; none unless most images there have one."""
    by_name = {posixpath.splitext(name)[0]: name for name in tree.images}
    found = {
        by_name[stem.removesuffix(end)]: name
        for stem, name in by_name.items()
        for end in _MASK_ENDINGS[1:]
        if stem.endswith(end) and stem.removesuffix(end) in by_name and not name.lower().endswith(_LOSSY)
    }
    return found if 4 * len(found) >= len(tree.images) else {}


def _places(name: str, *, mask: bool) -> Iterator[str]:
    """Folders that a file shares with its partner: its own, with a star for a part that says image or mask.

    `img_dir/train` and `ann_dir/train` are `*/train`; `train_images` and `train_masks` are `*train`, and so are `train`
    and `trainannot`.
    """
    parts = posixpath.dirname(name).split("/")
    for index in range(len(parts) - 1, -1, -1):
        rest = role_rest(parts[index], mask=mask)
        if rest is not None:
            yield "/".join([*parts[:index], f"*{rest}", *parts[index + 1 :]])


def role_rest(part: str, *, mask: bool) -> str | None:
    """What the name of a folder says beside image or mask, such as its split; None where it does not say that."""
    part = part.lower()
    if part in (_MASK_FOLDERS if mask else _IMAGE_FOLDERS):
        return ""
    if match := _ANNOTATED.fullmatch(part):
        return match[1] if mask else None
    words = [word for word in re.split(r"[ _-]", part) if word != "dir"]
    kind = _MASK_FOLDERS if mask else _IMAGE_FOLDERS
    rest = [word for word in words if word not in kind]
    if len(rest) < len(words) and len(rest) <= 1 and all(word in SPLIT_NAMES for word in rest):
        return "".join(rest)
    return part if not mask and part in SPLIT_NAMES else None


def _bare(name: str) -> str:
    """The stem of an image without what says that it is one."""
    return stem_of(name).removesuffix("_leftImg8bit").removesuffix("_image")


def _is_object_mask(name: str) -> bool:
    return any(part.lower() in _OBJECT_MASKS for part in posixpath.dirname(name).split("/"))


def _place(name: str, folders: frozenset[str]) -> str | None:
    """The folder of `name` with a star for the last part that is one of `folders`; None where none is."""
    parts = posixpath.dirname(name).split("/")
    for index in range(len(parts) - 1, -1, -1):
        if parts[index].lower() in folders:
            return "/".join([*parts[:index], "*", *parts[index + 1 :]])
    return None


def _words(folders: Sequence[str]) -> str:
    return ", ".join(f"{folder}/" for folder in folders[:3]) + (" ..." if len(folders) > 3 else "")


def _listed_splits(images: Sequence[str], lists: dict[str, set[str]]) -> dict[str, list[int]]:
    stems = [stem_of(name) for name in images]
    found = {split: [i for i, stem in enumerate(stems) if stem in listed] for split, listed in lists.items() if split}
    return {split: indices for split, indices in found.items() if indices}


# ---------------------------------------------------------------- class files


def _class_key(tree: Tree) -> ClassKey | None:
    found = [name for name in tree.names if posixpath.basename(name).lower() in _CLASS_FILES]
    found = [name for name in found if "labels" not in posixpath.dirname(name).lower().split("/")] or found
    if not found:
        return None
    order = {name: place for place, name in enumerate(_CLASS_FILES)}
    name = min(found, key=lambda name: (name.count("/"), order[posixpath.basename(name).lower()]))
    text, where = tree.text(name), tree.path(name)
    return (
        _json_key(parse_json(text, where), where) if name.lower().endswith(".json") else parse_class_file(text, where)
    )


def _json_key(content: object, where: str) -> ClassKey:
    """The classes of a json: a list of names, or of objects with a name and a colour; or names to colours or values."""
    lines: list[str] = []
    if isinstance(content, dict) and isinstance(content.get("classes"), list):
        content = content["classes"]
    for number, item in enumerate(
        content.items() if isinstance(content, dict) else content if isinstance(content, list) else ()
    ):
        name, value = item if isinstance(item, tuple) else (item, None)
        if isinstance(name, dict):
            value = next(
                (name[key] for key in ("color", "colour", "color_rgb", "rgb", "id", "value") if key in name), None
            )
            name = name.get("name") or name.get("title") or ""
        if str(name).isdecimal() and isinstance(value, str):
            name, value = value, int(name)
        if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
            value = [int(value[place : place + 2], 16) for place in (1, 3, 5)]
        if isinstance(value, list):
            lines.append(f"{name} {' '.join(map(str, value))}")
        else:
            lines.append(f"{number if value is None else value}, {name}")
    return parse_class_file("\n".join(lines), where)


def parse_class_file(text: str, where: str) -> ClassKey:
    """The classes of a class file: a name a line, `value, name`, `name r g b` or `r g b name`.

    A class called void or ignore is none: its pixels neither train nor count.

    Raises:
        DataError: its lines are not of one kind, or a class, value or colour stands there twice.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, _of_cvat(line)) for number, line in lines if line and not line.startswith("#")]
    if lines and _HEADER.fullmatch(lines[0][1]) and not any(c.isdigit() for c in lines[0][1]):
        lines = lines[1:]
    if not lines:
        raise DataError(f"{where!r} names no classes.", "Write a class name a line; the first is value 0.")
    names, values = _parsed_lines(lines, where)
    if len(np.unique(values, axis=0)) < len(values):
        raise DataError(f"{where!r}: two classes have the same value or colour.", "Give each its own.")
    kept = [name for name in names if name.lower() not in _IGNORED_NAMES]
    if values.ndim == 2:  # colours have no order: what lies behind all others comes first
        kept.sort(key=lambda name: name.lower() != "background")
    refuse_doubles(kept, repr(where))
    if not 2 <= len(kept) <= _MAX_CLASSES:
        raise DataError(f"{where!r} names {counted(len(kept), 'class', 'classes')}, expected 2 to {_MAX_CLASSES}.")
    index = np.array([kept.index(name) if name in kept else IGNORE for name in names], np.uint8)
    return ClassKey(tuple(kept), values, index, where)


def _of_cvat(line: str) -> str:
    """CVAT's `Cat:48,112,32::` as `Cat 48 112 32`."""
    match = _CVAT_LINE.fullmatch(line)
    return f"{match[1]} {match[2].replace(',', ' ')}" if match else line


def _parsed_lines(lines: list[tuple[int, str]], where: str) -> tuple[list[str], NDArray[np.int64]]:
    for pattern, parts in (
        (_NAME_THEN_COLOUR, lambda m: (m[1], [m[2], m[3], m[4]])),
        (_COLOUR_THEN_NAME, lambda m: (m[4], [m[1], m[2], m[3]])),
        (_VALUE_THEN_NAME, lambda m: (m[2], m[1])),
    ):
        matches = [pattern.fullmatch(line) for _, line in lines]
        if all(matches):
            found = [parts(match) for match in matches]
            values = np.array([value for _, value in found]).astype(np.int64)
            if values.ndim == 2 and values.max() > 255:
                number, line = lines[int(values.max(1).argmax())]
                raise DataError(f"{where!r}, line {number}: a colour has parts from 0 to 255, found {line!r}.")
            return [name.strip(" ,;\t\"'") for name, _ in found], values
        if pattern is not _VALUE_THEN_NAME and 2 * sum(map(bool, matches)) > len(lines):
            number, line = lines[matches.index(None)]
            raise DataError(f"{where!r}, line {number}: {line!r}, expected a name and a colour as in the other lines.")
    return [line for _, line in lines], np.arange(len(lines))


# ---------------------------------------------------------------- writing


def write(writer: Writer, folder: Path) -> None:
    """`masks/SPLIT/`, `images/SPLIT/` and `classes.txt`."""
    classes = writer.mask_classes()
    for split, samples in writer.splits():
        target = folder / "masks" / split
        target.mkdir(parents=True, exist_ok=True)
        for name, mask in writer.masks(samples, folder / "images" / split):
            save_mask(mask, target / f"{posixpath.splitext(name)[0]}.png")
    writer.text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))


def save_mask(mask: NDArray[np.uint8], path: Path) -> None:
    """A PNG with a colour for each class: the first black, `IGNORE` white, the others well apart."""
    image = Image.fromarray(mask)
    colours = [colorsys.hsv_to_rgb(number * _SHADES % 1, 0.75, 0.9) for number in range(256)]
    flat = [round(255 * part) for colour in colours for part in colour]
    image.putpalette([0, 0, 0, *flat[3 : 3 * IGNORE], 255, 255, 255])
    image.save(path)


FORMATS["masks"] = Format(
    "masks", find, "PNGs in masks/ of the names of those in images/", rank=60, write=write, outlines=True,
    holds=frozenset({"runs", "outlines"}),
)  # fmt: skip
