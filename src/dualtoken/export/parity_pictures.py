"""The pictures that two engines are compared on: the user's, the model's own, or invented ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.bands import Bands
from dualtoken.errors import DataError, ImageError
from dualtoken.images import ARRAY
from dualtoken.prediction.inputs import NamedInput, collect_inputs, open_input

MOST = 16  # of a folder with more, spread over it
SAMPLES = "samples"  # folder in a model folder
_SEARCHED = 20_000  # names of a larger folder are not all read
_SIZES = ((240, 320), (320, 240), (96, 96), (150, 400), (640, 480), (33, 57), (200, 200), (480, 360))


@dataclass(frozen=True)
class Pictures:
    """Pictures with their names, and where they come from, in words."""

    inputs: Sequence[NamedInput]
    origin: str


@contextmanager
def pictures_for(
    images: str | Path | Sequence[str | Path] | None,
    folder: Path | None,
    data: str | None = None,
    *,
    grey: bool = False,
    bands: Bands | None = None,
) -> Iterator[Pictures]:
    """Yield the pictures; invented ones exist as files while the context is open.

    Args:
        images: files, folders, patterns or archives, given by the user.
        folder: the model's, whose `samples` are taken if `images` is None.
        data: what the model was trained on, taken if it is still there and there are no samples.
        grey: add a plain grey picture, on which nothing should be found.
        bands: what the model sees of an image's bands: invented pictures have as many, with values of its window.

    Raises:
        DataError: there are none.
        ImageError: one cannot be found.
    """
    with TemporaryDirectory(prefix="dualtoken-pictures-") as place:
        if images is not None:
            given = [images] if isinstance(images, str | Path) else list(images)
            found = Pictures(_spread(given), ", ".join(str(name) for name in given[:3]) + ", ..." * (len(given) > 3))
        else:
            own = [path for path in (folder and folder / SAMPLES, data and Path(data)) if path]
            invented = "invented pictures: give your own with --images"
            found = _first(own) or Pictures(_spread(_invent(Path(place), bands)), invented)
        if grey:
            found = Pictures([*found.inputs, _grey(Path(place), bands)], f"{found.origin}; and a plain grey one")
        yield found


def _first(places: Sequence[Path]) -> Pictures | None:
    """Those of the first place that is there, a folder or a zip, and has some."""
    for place in places:
        if not (place.is_dir() or (place.suffix == ".zip" and place.is_file())):
            continue
        with suppress(ImageError):
            return Pictures(_spread([place]), str(place))
    return None


def _spread(given: Sequence[str | Path]) -> list[NamedInput]:
    """`MOST` of all that is found, evenly spread, the first included."""
    found = list(islice(collect_inputs(given), _SEARCHED))
    for name, source in found:
        if isinstance(source, ImageError) or (isinstance(source, str) and not Path(source).exists()):
            open_input(name, source)  # raises what is wrong
    if not found:
        raise DataError("There are no pictures to compare the two on.", "Give some: --images FILE or FOLDER")
    step = max(1.0, len(found) / MOST)
    return [found[int(number * step)] for number in range(min(len(found), MOST))]


def _invent(folder: Path, bands: Bands | None) -> list[Path]:
    """Shapes on a gradient with noise, of several sizes, some small, tall or wide; always the same."""
    files, depth = [], bands.stored if bands else 3
    for number, (height, width) in enumerate(_SIZES):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[:height, :width]
        pixels = (
            rng.uniform(0, 255, depth) * (x / width)[..., None] + rng.uniform(0, 255, depth) * (y / height)[..., None]
        )
        for _ in range(1 + 2 * number):
            middle, radius = rng.uniform(0, (height, width)), rng.uniform(0.05, 0.3) * min(height, width)
            far = (
                np.maximum(abs(y - middle[0]), abs(x - middle[1]))
                if number % 2
                else np.hypot(y - middle[0], x - middle[1])
            )
            pixels[far < radius] = rng.uniform(0, 255, depth)
        pixels += rng.normal(0, 4 * number, pixels.shape)
        files.append(_saved(pixels, folder / f"invented-{number}", bands))
    return files


def _grey(folder: Path, bands: Bands | None) -> NamedInput:
    colour = np.full(bands.stored, 128.0) if bands else np.array([124.0, 116.0, 104.0])
    path = str(_saved(np.broadcast_to(colour, (240, 320, len(colour))), folder / "grey", bands))
    return path, path


def _saved(pixels: NDArray[np.float64], path: Path, bands: Bands | None) -> Path:
    """Pixels from 0 to 255 as a PNG; or for bands as an array whose values fill the window."""
    if bands is None:
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path := path.with_suffix(".png"))
        return path
    values = pixels.copy()
    low, high = np.array(bands.low), np.array(bands.high)
    values[..., list(bands.channels)] = low + values[..., list(bands.channels)].clip(0, 255) / 255 * (high - low)
    np.save(path := path.with_suffix(ARRAY), values)
    return path
