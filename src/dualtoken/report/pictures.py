"""Pictures of what was found in an image: boxes, masks and regions with their names, in pillow and numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dualtoken.data import IGNORE, Objects
from dualtoken.outputs import Detections, Segmentation
from dualtoken.report import fonts
from dualtoken.report.class_colours import INK, UNLABELLED, WHITE, Colour, class_colour, text_colour
from dualtoken.report.legends import Entry, fitted, with_legend
from dualtoken.report.tags import place_tags

LegendPlace = Literal["below", "inside", "none"]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_SMALLEST = 400  # pixels of the longer side: smaller images are enlarged, or no name could be read
_MANY = 20  # objects: their tags are written smaller
_NAMED = 200  # objects that may have tags: looking for a place costs time with every box, and there is no more room
_OBJECT, _REGION = 0.4, 0.5  # how much of a colour covers the image
_DARK = (0, 0, 0, 80)


def draw(
    image: Image.Image,
    answer: Detections | Segmentation,
    *,
    truth: Objects | NDArray[np.uint8] | None = None,
    legend: LegendPlace = "below",
) -> Image.Image:
    """Draw what was found into its image.

    Objects have a box in their class's colour, a mask where there is one, and a tag with name and score. Names that
    would only hide each other are left out, the least sure first; then a legend tells the colours. Regions are
    coloured, and the legend tells their share of the image. Images under 400 pixels are enlarged by a whole factor.

    Args:
        image: RGB, of the answer's size.
        answer: what was found.
        truth: drawn too: objects as dashed white boxes, the pixels of wrong regions hatched.
        legend: `below` the image, `inside` it, which keeps its size, as a video must, or `none`.

    Returns:
        An RGB image.

    Raises:
        ValueError: the image or the truth has not the size of the answer.
    """
    _check_size(image, answer.size)
    if isinstance(answer, Segmentation):
        if isinstance(truth, Objects):
            raise ValueError("the ground truth has objects, but the prediction is a mask.")
        return _draw_regions(image, answer.mask, answer.classes, truth, legend)
    if not isinstance(truth, Objects | None):
        raise ValueError("the ground truth is a mask, but the prediction has objects.")
    known = () if truth is None else _true_shapes(truth, answer.classes, dashed=True)
    return _draw_shapes(image, _found_shapes(answer), known, legend)


def draw_truth(
    image: Image.Image,
    truth: Objects | NDArray[np.uint8],
    classes: Sequence[str],
    *,
    legend: LegendPlace = "below",
) -> Image.Image:
    """Draw the labels of an image as `draw` draws an answer; crowds are dashed, unlabelled pixels grey."""
    if isinstance(truth, Objects):
        _check_size(image, truth.size)
        return _draw_shapes(image, _true_shapes(truth, classes), (), legend)
    _check_size(image, truth.shape)
    return _draw_regions(image, truth, classes, None, legend)


def side_by_side(
    image: Image.Image,
    truth: Objects | NDArray[np.uint8],
    answer: Detections | Segmentation,
    *,
    longest: int = 1200,
    captions: tuple[str, str] = ("Ground truth", "Prediction"),
) -> Image.Image:
    """The truth beside the answer, each with a caption; a wide image has them one below the other.

    Args:
        image: RGB.
        truth, answer: of the image.
        longest: a picture whose longer side is larger is made smaller.
        captions: of the two.
    """
    pictures = [draw_truth(image, truth, answer.classes), draw(image, answer)]
    for picture in pictures:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=None)
    size = max(13, round(max(pictures[0].size) / 36))
    font, gap = fonts.font_for(captions, size), size
    head = round(1.7 * size)
    below = image.width > 2 * image.height
    widths, heights = [p.width for p in pictures], [p.height + head for p in pictures]
    whole = (max(widths), sum(heights) + gap) if below else (sum(widths) + gap, max(heights))
    sheet = Image.new("RGB", whole, WHITE)
    pen = ImageDraw.Draw(sheet)
    left = top = 0
    for picture, caption in zip(pictures, captions, strict=True):
        pen.text((left + size // 6, top + head / 2), fonts.drawable(caption), INK, font, anchor="lm")
        sheet.paste(picture, (left, top + head))
        left, top = (left, top + picture.height + head + gap) if below else (left + picture.width + gap, top)
    return sheet


class _Shape(NamedTuple):
    """An object as it is drawn: `score` None for a true one, `mask` with its left and top pixel or None."""

    box: tuple[float, float, float, float]
    label: int
    name: str
    score: float | None
    mask: Mask | None
    corner: tuple[int, int]
    dashed: bool = False


class _Style(NamedTuple):
    """Sizes that follow the picture: the factor that it is enlarged by, line width and font size in pixels."""

    factor: int
    line: int
    text: int


def _style(image: Image.Image) -> _Style:
    factor = max(1, math.ceil(_SMALLEST / max(image.size)))
    mean = factor * math.sqrt(image.width * image.height)
    return _Style(factor, max(2, round(mean / 260)), max(12, round(mean / 42)))


def _check_size(image: Image.Image, size: tuple[int, ...]) -> None:
    if (image.height, image.width) != tuple(size):
        raise ValueError(
            f"the image is {image.width} x {image.height}, but what is to be drawn belongs to one of {size[1]} x"
            f" {size[0]} (width x height)."
        )


def _found_shapes(answer: Detections) -> list[_Shape]:
    masks = [None] * len(answer) if answer.masks is None else answer.masks
    corners = [(0, 0)] * len(answer) if answer.corners is None else answer.corners.tolist()
    return [
        _Shape(tuple(box), label, answer.classes[label], score, mask, tuple(corner))
        for box, label, score, mask, corner in zip(
            answer.boxes.tolist(), answer.labels.tolist(), answer.scores.tolist(), masks, corners, strict=True
        )
    ]


def _true_shapes(objects: Objects, classes: Sequence[str], *, dashed: bool = False) -> list[_Shape]:
    """One mask in memory at a time, and of it only the part that is not empty."""
    shapes = []
    for index, (box, label) in enumerate(zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True)):
        mask, corner = None, (0, 0)
        if objects.runs[index] or objects.outlines[index]:
            mask, corner = _true_mask(objects, index)
        crowd = bool(objects.crowd[index])
        name = f"{classes[label]} (crowd)" if crowd else classes[label]
        shapes.append(_Shape(tuple(box), label, name, None, mask, corner, dashed or crowd))
    return shapes


def _true_mask(objects: Objects, index: int) -> tuple[Mask, tuple[int, int]]:
    one = slice(index, index + 1)
    arrays = (objects.boxes[one], objects.labels[one], objects.crowd[one], objects.areas[one])
    whole = Objects(objects.size, *arrays, objects.outlines[one], objects.runs[one]).masks()[0]
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    if len(rows) == 0:
        return whole[:0, :0], (0, 0)
    return whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (int(columns[0]), int(rows[0]))


def _draw_shapes(
    image: Image.Image, shapes: Sequence[_Shape], known: Sequence[_Shape], legend: LegendPlace
) -> Image.Image:
    style = _style(image)
    shapes, known = [[_enlarged(shape, style.factor) for shape in group] for group in (shapes, known)]
    pixels = np.array(_enlarged_image(image, style.factor))
    # Small objects lie on top.
    large_first = sorted(shapes, key=lambda shape: (shape.box[0] - shape.box[2]) * (shape.box[3] - shape.box[1]))
    for shape in large_first:
        _paint_mask(pixels, shape, style)
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture, "RGBA")
    for shape in large_first:
        _draw_box(pen, picture.size, shape, class_colour(shape.label), style)
    for shape in known:
        _draw_box(pen, picture.size, shape, WHITE, style)
    untold = _draw_tags(pen, picture.size, shapes, style)
    if not untold or legend == "none":
        return picture
    return with_legend(picture, _object_entries(shapes), style.text, inside=legend == "inside")


def _enlarged(shape: _Shape, factor: int) -> _Shape:
    if factor == 1:
        return shape
    left, top, right, bottom = (edge * factor for edge in shape.box)
    mask = None if shape.mask is None else shape.mask.repeat(factor, axis=0).repeat(factor, axis=1)
    corner = (shape.corner[0] * factor, shape.corner[1] * factor)
    return shape._replace(box=(left, top, right, bottom), mask=mask, corner=corner)


def _enlarged_image(image: Image.Image, factor: int) -> Image.Image:
    image = image.convert("RGB")
    size = (image.width * factor, image.height * factor)
    return image if factor == 1 else image.resize(size, Image.Resampling.BICUBIC)


def _paint_mask(pixels: Pixels, shape: _Shape, style: _Style) -> None:
    if shape.mask is None or shape.mask.size == 0:
        return
    left, top = shape.corner
    rows, columns = shape.mask.shape
    part = pixels[top : top + rows, left : left + columns]
    colour = np.array(class_colour(shape.label), np.float32)
    _blend(part, shape.mask, colour, _OBJECT)
    _blend(part, shape.mask & ~_shrunk(shape.mask, style.line), colour, 0.95)


def _blend(pixels: Pixels, where: Mask, colour: NDArray[np.float32], strength: float) -> None:
    pixels[where] = (pixels[where] * np.float32(1 - strength) + colour * np.float32(strength)).astype(np.uint8)


def _shrunk(mask: Mask, by: int) -> Mask:
    """Where all pixels within `by` columns and rows belong to the mask; outside of the array none does."""
    for axis in (0, 1):
        padded = np.pad(mask, [(by + 1, by) if axis == own else (0, 0) for own in (0, 1)])
        sums = padded.cumsum(axis=axis, dtype=np.int32)
        length = mask.shape[axis]
        ends = np.take(sums, range(2 * by + 1, 2 * by + 1 + length), axis)
        mask = ends - np.take(sums, range(length), axis) == 2 * by + 1
    return mask


def _draw_box(pen: ImageDraw.ImageDraw, size: tuple[int, int], shape: _Shape, colour: Colour, style: _Style) -> None:
    """A box whose line stays inside the picture, between two thin dark ones that show it on any ground."""
    width, height = size
    left, top, right, bottom = (round(edge) for edge in shape.box)
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    right, bottom = max(min(right, width) - 1, left), max(min(bottom, height) - 1, top)
    line = style.line if shape.mask is None else max(1, style.line // 2)
    edge = max(1, line // 4)
    if shape.dashed:
        _draw_dashed(pen, (left, top, right, bottom), colour, line)
        return
    pen.rectangle((left - edge, top - edge, right + edge, bottom + edge), outline=_DARK, width=edge)
    if min(right - left, bottom - top) > 2 * (line + edge):
        inner = (left + line, top + line, right - line, bottom - line)
        pen.rectangle(inner, outline=_DARK, width=edge)
    pen.rectangle((left, top, right, bottom), outline=(*colour, 255), width=line)


def _draw_dashed(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: Colour, line: int) -> None:
    left, top, right, bottom = box
    dash = 4 * line
    pen.rectangle(box, outline=_DARK, width=line)
    for start in range(left, right + 1, 2 * dash):
        end = min(start + dash, right)
        pen.rectangle((start, top, end, min(top + line - 1, bottom)), fill=(*colour, 255))
        pen.rectangle((start, max(bottom - line + 1, top), end, bottom), fill=(*colour, 255))
    for start in range(top, bottom + 1, 2 * dash):
        end = min(start + dash, bottom)
        pen.rectangle((left, start, min(left + line - 1, right), end), fill=(*colour, 255))
        pen.rectangle((max(right - line + 1, left), start, right, end), fill=(*colour, 255))


def _draw_tags(pen: ImageDraw.ImageDraw, size: tuple[int, int], shapes: Sequence[_Shape], style: _Style) -> bool:
    """Whether an object had to stay without its name."""
    if not shapes:
        return False
    letters = style.text if len(shapes) <= _MANY else max(11, round(0.85 * style.text))
    font = fonts.font_for((shape.name for shape in shapes), letters)
    side, height = max(2, letters // 3), round(1.35 * letters)
    room = min(size[0] - 2 * side, max(0.45 * size[0], 160))
    texts = [_tag_texts(shape, font, room) for shape in shapes[:_NAMED]]
    sizes = [[(math.ceil(font.getlength(text)) + 2 * side, height) for text in group] for group in texts]
    tags = place_tags(np.array([shape.box for shape in shapes], np.float32), sizes, size)
    for tag in reversed(tags):  # the most confident on top
        colour = class_colour(shapes[tag.item].label)
        width = sizes[tag.item][tag.text][0]
        corners = (tag.left, tag.top, tag.left + width - 1, tag.top + height - 1)
        pen.rounded_rectangle(corners, radius=height // 6, fill=(*colour, 235))
        middle = (tag.left + side, tag.top + height / 2)
        pen.text(middle, texts[tag.item][tag.text], text_colour(colour), font, anchor="lm")
    return len(tags) < len(shapes)


def _tag_texts(shape: _Shape, font: ImageFont.FreeTypeFont, room: float) -> list[str]:
    """What a tag may say, the best first."""
    if shape.score is None:
        return [fitted(shape.name, font, room)]
    score = f" {100 * shape.score:.0f} %"
    rest = room - font.getlength(score)
    if rest < room / 2:  # a strip of an image
        return [fitted(shape.name, font, room)]
    name = fitted(shape.name, font, rest)
    return [name + score, name]


def _object_entries(shapes: Sequence[_Shape]) -> list[Entry]:
    """How many of each class, the most frequent first."""
    numbers: dict[tuple[int, str], int] = {}
    for shape in shapes:
        numbers[shape.label, shape.name] = numbers.get((shape.label, shape.name), 0) + 1
    ordered = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    return [Entry(class_colour(label), f"{name} {number}") for (label, name), number in ordered]


def _draw_regions(
    image: Image.Image, mask: Pixels, classes: Sequence[str], truth: Pixels | None, legend: LegendPlace
) -> Image.Image:
    style = _style(image)
    colours = np.array([*map(class_colour, range(255)), UNLABELLED], np.float32)
    large = mask.repeat(style.factor, axis=0).repeat(style.factor, axis=1)
    pixels = np.array(_enlarged_image(image, style.factor))
    for start in range(0, len(pixels), 256):  # floats of a whole large image would take gigabytes
        rows = slice(start, start + 256)
        pixels[rows] = (pixels[rows] * (1 - _REGION) + colours[large[rows]] * _REGION).astype(np.uint8)
    edges = _edges(large, max(1, style.line // 2))
    pixels[edges] = WHITE
    entries = _region_entries(mask, classes, by_share=legend == "below")
    if truth is not None:
        if truth.shape != mask.shape:
            raise ValueError(f"the ground truth has shape {truth.shape}, the prediction {mask.shape}.")
        wrong = (mask != truth) & (truth != IGNORE)
        _hatch(pixels, wrong.repeat(style.factor, axis=0).repeat(style.factor, axis=1), style)
        share = wrong.sum() / max(np.count_nonzero(truth != IGNORE), 1)
        entries.append(Entry(WHITE, f"wrong {_percent(float(share))}", hatched=True))
    picture = Image.fromarray(pixels)
    return picture if legend == "none" else with_legend(picture, entries, style.text, inside=legend == "inside")


def _edges(mask: Pixels, line: int) -> Mask:
    """Where two regions meet, `line` pixels wide."""
    edges = np.zeros(mask.shape, np.bool_)
    for shift in range(1, line + 1):
        edges[shift:] |= mask[shift:] != mask[:-shift]
        edges[:, shift:] |= mask[:, shift:] != mask[:, :-shift]
    return edges


def _hatch(pixels: Pixels, where: Mask, style: _Style) -> None:
    rows, columns = np.nonzero(where)
    stripe = (rows + columns) % (5 * style.line)
    for colour, band in ((WHITE, stripe < style.line), (INK, (stripe >= style.line) & (stripe < 2 * style.line))):
        pixels[rows[band], columns[band]] = colour


def _region_entries(mask: Pixels, classes: Sequence[str], *, by_share: bool) -> list[Entry]:
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    present = np.flatnonzero(counts[:IGNORE])
    if by_share:
        present = present[np.argsort(-counts[present], kind="stable")]
    entries = [
        Entry(class_colour(label), f"{classes[label]} {_percent(counts[label] / mask.size)}")
        for label in present.tolist()
    ]
    if counts[IGNORE]:
        entries.append(Entry(UNLABELLED, f"unlabelled {_percent(counts[IGNORE] / mask.size)}"))
    return entries


def _percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
