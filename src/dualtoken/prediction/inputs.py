"""What can be predicted: paths, folders, globs, archives, standard input, images, arrays and tensors.

Collecting gives names and sources, one after the other; nothing is opened before its turn, so that a
million files need no more memory than a hundred.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.bands import Bands
from dualtoken.data import image_folders, masks_among, open_tree, read_member
from dualtoken.data.shards import are_shards
from dualtoken.errors import DataError, ImageError
from dualtoken.images import ARRAY, DEFAULT_LIMITS, ImageLimits, Source, is_image_name, open_image
from dualtoken.prediction.video import is_video
from dualtoken.words import counted

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = "NDArray[Any] | torch.Tensor"
# The image, how to get its bytes, or why there is none: told when its turn comes, so that the rest goes on.
InputSource: TypeAlias = "Source | Pixels | Callable[[ImageLimits], bytes] | ImageError"
NamedInput: TypeAlias = "tuple[str | None, InputSource]"
Wanted: TypeAlias = "Callable[[str], bool]"
Note: TypeAlias = "Callable[[str], None]"

STDIN = "-"
_HEADER, _JPEG = 16, b"\xff\xd8\xff"


def collect_inputs(
    inputs: Iterable[str | Path],
    stdin: BinaryIO | None = None,
    *,
    videos: bool = False,
    note: Note | None = None,
) -> Iterator[NamedInput]:
    """Names and sources of all images that `inputs` mean, in order, found one at a time.

    In folders and archives, masks beside their images, such as `masks/1.png` beside `images/1.jpg`, are left out.

    Args:
        inputs: files, folders (with their sub-folders), zip archives, shards, patterns such as `photos/**/*.jpg`, and
            `-` for standard input: the bytes of one image, or a list of any of these, one a line.
        stdin: read instead of the process's standard input.
        videos: give videos in folders too, by their names.
        note: gets one line for each folder or archive of which something was left out.

    Yields:
        (name, source) for `open_input` and `Predictor.stream`. What cannot be found is an `ImageError` in the
        place of its source.
    """

    def wanted(name: str) -> bool:
        return is_image_name(name) or (videos and is_video(name))

    for given in inputs:
        name = os.fspath(given)
        if name == STDIN:
            yield from _standard_input(stdin or sys.stdin.buffer, wanted, note)
        else:
            yield from _collect(name, wanted, note)


def open_input(
    name: str | None,
    source: InputSource,
    limits: ImageLimits = DEFAULT_LIMITS,
    warn: bool = True,
    bands: Bands | None = None,
) -> Image.Image:
    """One input as an upright RGB image, or as the `bands` of a model, through `open_image`.

    Arrays are (height, width) or (height, width, channels), tensors (channels, height, width), with 1, 3 or 4
    channels; uint8 from 0 to 255, or floating point from 0 to 1, rounded to 8 bits. For bands they have all bands
    that a file has, with its values.

    Raises:
        ImageError: it cannot be read, or the array has another shape, type or range.
    """
    if isinstance(source, ImageError):
        raise source
    if isinstance(source, np.ndarray) or is_tensor(source):
        pixels = cast("Pixels", source)
        source = _array_of(pixels) if bands else _from_pixels(pixels, name or "the array")
    elif callable(source):
        source = source(limits)
    elif isinstance(source, str | Path) and Path(source).is_dir():
        hint = "For folders, patterns and archives: dualtoken.prediction.predict_stream(model, [FOLDER])."
        raise ImageError(f"{str(source)!r} is a folder, not an image.", hint)
    return open_image(cast("Source", source), name=name, limits=limits, warn=warn, bands=bands)


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor of torch's; where torch is not imported there can be none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _collect(name: str, wanted: Wanted, note: Note | None) -> Iterator[NamedInput]:
    path = Path(name)
    if are_shards(name) and not wanted(name):
        yield from _or_error(name, _archive(name, note), f"The shards {name!r} hold no images.")
    elif path.is_dir():
        yield from _or_error(name, _folder(name, wanted, note), f"The folder {name!r} holds no images.")
    elif path.suffix.lower() == ".zip" and path.is_file():
        yield from _or_error(name, _archive(name, note), f"The archive {name!r} holds no images.")
    elif glob.has_magic(name) and not os.path.lexists(name):
        yield from _or_error(name, _pattern(name, wanted, note), f"Nothing matches the pattern {name!r}.")
    else:
        yield name, name


def _or_error(name: str, found: Iterator[NamedInput], nothing: str) -> Iterator[NamedInput]:
    """`found`, or where there is nothing one error that says so."""
    empty = True
    for item in found:
        empty = False
        yield item
    if empty:
        yield name, ImageError(nothing, "Check the path; in folders, images are recognised by their suffix.")


def _folder(root: str, wanted: Wanted, note: Note | None) -> Iterator[NamedInput]:
    """Images below `root`, each folder's sorted. Links are followed, and each folder is read once."""
    seen: set[tuple[int, int]] = set()
    left_out = 0
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        files = sorted(filter(wanted, files)) or sorted(file for file in files if file.endswith(ARRAY))
        masks = _masks(Path(root), Path(folder).relative_to(root).as_posix(), files)
        left_out += len(masks)
        for file in files:
            if file not in masks:
                path = os.path.join(folder, file)  # noqa: PTH118
                yield path, path
    _tell(note, left_out, root)


def _masks(root: Path, folder: str, files: list[str]) -> set[str]:
    """Those of a folder's files that are masks of images beside it."""
    try:
        beside = [f"{place}/{name}" for place in image_folders(root, folder) for name in os.listdir(root / place)]  # noqa: PTH208
    except OSError:  # what cannot be listed is told where it is read
        return set()
    names = [f"{folder}/{file}" for file in filter(is_image_name, files)]
    found = masks_among(names, filter(is_image_name, beside))
    return {name.rpartition("/")[2] for name in found}


def _tell(note: Note | None, masks: int, root: str) -> None:
    if note and masks:
        note(f"{counted(masks, 'mask')} beside {'its image' if masks == 1 else 'their images'} in {root!r} left out")


def _archive(path: str, note: Note | None) -> Iterator[NamedInput]:
    try:
        tree = open_tree(path)
    except DataError as error:
        yield path, ImageError(error.message, error.hint)
        return
    assert tree.members is not None
    masks = masks_among(tree.images, tree.images) if tree.index is None else set(tree.names[len(tree.index) :])
    for name in tree.images:
        if name not in masks:
            full = tree.path(name)
            yield full, partial(read_member, tree.root, name, tree.members[tree.rows[name]])
    _tell(note, len(masks), path)


def _pattern(pattern: str, wanted: Wanted, note: Note | None) -> Iterator[NamedInput]:
    """Images that match, and those in folders that match; with `**` a folder's images match by themselves."""
    for name in sorted(glob.iglob(pattern, recursive=True)):  # noqa: PTH207
        if os.path.isdir(name):  # noqa: PTH112
            if "**" not in pattern:
                yield from _folder(name, wanted, note)
        elif wanted(name):
            yield name, name


def _standard_input(stdin: BinaryIO, wanted: Wanted, note: Note | None) -> Iterator[NamedInput]:
    start = stdin.read(_HEADER)
    # No path has a zero byte. Every image has one in its header, but PNM's, which begins with P and a digit, and some
    # JPEGs', which begin as no text does.
    if b"\0" in start or start[:3] == _JPEG or (start[:1] == b"P" and start[1:2].isdigit() and start[2:3].isspace()):
        yield "stdin", start + stdin.read()
        return
    for line in chain((start + stdin.readline()).splitlines(), stdin):
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            yield from _collect(name, wanted, note)


def _array_of(pixels: Pixels) -> NDArray[Any]:
    """(height, width) or (height, width, channels)."""
    if not is_tensor(pixels):
        return cast("NDArray[Any]", pixels)
    tensor = cast("torch.Tensor", pixels).detach().cpu()
    array: NDArray[Any] = (tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor).numpy()
    return array


def _from_pixels(pixels: Pixels, name: str) -> Image.Image:
    array = _array_of(pixels)
    layout = "(channels, height, width)" if is_tensor(pixels) else "(height, width, channels)"
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageError(
            f"{name} has shape {tuple(pixels.shape)}, expected {layout} with 1, 3 or 4 channels.",
            "An array is (height, width, channels), a tensor (channels, height, width).",
        )
    return Image.fromarray(_to_uint8(array, name))


def _to_uint8(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.size == 0:
        raise ImageError(f"{name} has no pixels.")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"{name} holds {array.dtype}, expected uint8, or floating point from 0 to 1.")
    if not (array.min() >= 0 and array.max() <= 1):  # so written, NaN is refused too
        raise ImageError(
            f"{name} holds numbers from {array.min():g} to {array.max():g}, expected 0 to 1.",
            "Give pixels as they are: normalising is done here, as the model was trained.",
        )
    return (array * 255).round().astype(np.uint8)
