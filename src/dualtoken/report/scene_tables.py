"""Found objects and regions as files of other programs: COCO json, YOLO txt, CSV, JSON lines and masks as PNG."""

from __future__ import annotations

import csv
import json
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from rich.markup import escape
from rich.table import Table

from dualtoken.data import IGNORE
from dualtoken.errors import OutputError, cannot_write, unknown_name
from dualtoken.files import atomic_path
from dualtoken.images import is_image_name
from dualtoken.outputs import Answer, Classification, Detections, Segmentation
from dualtoken.report.class_colours import palette

Write = Callable[[Answer], None]

_FORMS = {
    "detection": ("coco", "yolo", "csv", "jsonl"),
    "instance_segmentation": ("coco", "yolo", "masks", "csv", "jsonl"),
    "semantic_segmentation": ("masks", "csv", "jsonl"),
}
_EDGES = ("left", "top", "right", "bottom")
_SUFFIXES = {".json": "coco", ".csv": "csv", ".jsonl": "jsonl", "": None}
_NOT_CLASSES = "These are classes of whole images: dualtoken.report.prediction_table writes them."


def scene_table(
    path: str | Path, task: str, classes: Sequence[str], *, form: str | None = None
) -> AbstractContextManager[Write]:
    """Open a file or folder for what is found in images.

        with scene_table("found.json", "detection", model.classes) as write:
            for answer in answers:
                write(answer)

    Answers are written as they come, so memory stays flat; the file or folder appears under its name when the block
    ends without an error. Images in which nothing was found are there too, and images that could not be read wherever
    a form has a place for them.

    Args:
        path: of a file that ends in .json (COCO), .csv or .jsonl, or of a new folder.
        task: `detection`, `instance_segmentation` or `semantic_segmentation`.
        classes: names of the classes.
        form: what to write, where the suffix does not say it:

            - `coco`: one json with `images`, `categories` (numbered from 1) and `annotations`, each with its score;
              masks as compressed run lengths. pycocotools reads it as a data set, its annotations as results.
            - `yolo`: a folder with `labels/NAME.txt`, a line for each object: class, middle x, middle y, width and
              height as shares of the image, score; and `data.yaml` with the names. Boxes only.
            - `masks`: a folder with `masks/NAME.png`, a class each pixel, and `classes.txt`. Of objects the surest
              has a pixel, 255 is where there is none.
            - `csv`: a row for each object or region; images without any have one too.
            - `jsonl`: a line of JSON for each image, as `to_dict` gives it.

    Raises:
        OutputError: no such form for this task, the folder is there already, or the place cannot be written.
    """
    path = Path(path)
    form = _form(path, task, form)
    if form == "yolo":
        return _yolo(path, classes)
    if form == "masks":
        if len(classes) > IGNORE:
            raise OutputError(f"{len(classes)} classes do not fit into masks of 8 bits, which hold {IGNORE}.")
        return _masks(path, classes)
    if form == "coco":
        return _coco(path, classes)
    return _csv(path, task) if form == "csv" else _json_lines(path)


def describe(answer: Detections | Segmentation, most: int = 5) -> str:
    """What was found, in a few words: `3 person, 1 dog` or `road 41 %, sky 20 %`; the `most` frequent classes."""
    if isinstance(answer, Detections):
        counts = Counter(answer.names()).most_common()
        parts = [f"{number} {name}" for name, number in counts]
    else:
        shares = answer.shares()
        names = [answer.classes[label] for label in answer.present()]
        parts = [f"{name} {100 * shares[name]:.0f} %" for name in names]
    more = [f"and {len(parts) - most} more"] if len(parts) > most else []
    return ", ".join(parts[:most] + more) or "nothing"


def screen_scene_table(answers: Sequence[Answer]) -> Table:
    """Answers as a table for a rich console; errors stand in their rows."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    table.add_column("Image", overflow="fold")
    table.add_column("Found", overflow="fold")
    for answer in answers:
        if isinstance(answer, Detections | Segmentation):
            table.add_row(escape(answer.path or "-"), escape(describe(answer)))
        elif isinstance(answer, Classification):
            raise TypeError(_NOT_CLASSES)
        else:
            table.add_row(escape(answer[0]), f"[red]{escape(answer[1].message)}[/red]")
    return table


def mask_image(mask: NDArray[np.uint8]) -> Image.Image:
    """A mask of classes as a picture with palette: the values are the classes, the colours those of `draw`."""
    image = Image.fromarray(mask).convert("P")
    image.putpalette(palette())
    return image


def _form(path: Path, task: str, form: str | None) -> str:
    if task not in _FORMS:
        raise OutputError(unknown_name("task", task, _FORMS))
    known = _FORMS[task]
    if form is None:
        form = _SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise OutputError(
            f"{str(path)!r} does not say what to write: its suffix is none of .json, .csv, .jsonl.",
            f"Add one of these, or choose for a folder: {', '.join(known)}.",
        )
    if form not in known:
        raise OutputError(
            f"{form!r} cannot be written for {task.replace('_', ' ')}.", f"There it is one of {', '.join(known)}."
        )
    return form


def _split(answer: Answer) -> tuple[str | None, Detections | Segmentation | str]:
    """The image's name, and what was found or why it could not be read."""
    if isinstance(answer, Detections | Segmentation):
        return answer.path, answer
    if isinstance(answer, Classification):
        raise TypeError(_NOT_CLASSES)
    return answer[0], str(answer[1])


@contextmanager
def _json_lines(path: Path) -> Iterator[Write]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(answer: Answer) -> None:
            name, found = _split(answer)
            content = {"path": name, "error": found} if isinstance(found, str) else found.to_dict()
            print(json.dumps(content, ensure_ascii=False, allow_nan=False), file=file)

        yield write


@contextmanager
def _csv(path: Path, task: str) -> Iterator[Write]:
    regions = task == "semantic_segmentation"
    columns = ["path", "label", "score", *(["share"] if regions else _EDGES), "error"]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()

        def write(answer: Answer) -> None:
            name, found = _split(answer)
            table.writerows({"path": name} | row for row in _csv_rows(found))

        yield write


def _csv_rows(found: Detections | Segmentation | str) -> list[dict[str, object]]:
    if isinstance(found, str):
        return [{"error": found.partition("\n")[0]}]
    rows: list[dict[str, object]]
    if isinstance(found, Segmentation):
        rows = [
            {
                "label": region["label"],
                "score": None if region["score"] is None else f"{region['score']:.6f}",
                "share": f"{region['share']:.6f}",
            }
            for region in found.to_dict()["regions"]
        ]
        return rows
    rows = [
        {"label": label, "score": f"{score:.6f}", **dict(zip(_EDGES, (f"{edge:.2f}" for edge in box), strict=True))}
        for label, score, box in zip(found.names(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    ]
    return rows or [{}]


@contextmanager
def _coco(path: Path, classes: Sequence[str]) -> Iterator[Write]:
    """`annotations` go to the file as they come, `images` and `errors` to others until these are complete."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8") as file,
        _spool() as images,
        _spool() as errors,
    ):
        categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        file.write(f'{{"categories": {_json(categories)},\n"annotations": [')
        annotations, pictures, failed = _Listing(file), _Listing(images), _Listing(errors)

        def write(answer: Answer) -> None:
            name, found = _split(answer)
            if isinstance(found, str):
                failed.add({"file_name": name, "error": found})
                return
            height, width = found.size
            number = pictures.length + 1
            pictures.add({"id": number, "file_name": name, "height": height, "width": width})
            for annotation in _annotations(_as_detections(found)):
                annotations.add({"id": annotations.length + 1, "image_id": number, **annotation})

        yield write
        for head, part in (("images", images), ("errors", errors)):
            file.write(f'],\n"{head}": [')
            part.seek(0)
            shutil.copyfileobj(part, file)
        file.write("]}\n")


class _Listing:
    """A JSON list that is written entry by entry, without its brackets."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.length = file, 0

    def add(self, content: dict[str, Any]) -> None:
        self.file.write(("," if self.length else "") + "\n" + _json(content))
        self.length += 1


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _spool() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _annotations(found: Detections) -> Iterator[dict[str, Any]]:
    for index, (box, score, label) in enumerate(
        zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    ):
        left, top, right, bottom = box
        sides = (right - left, bottom - top)
        area = sides[0] * sides[1] if found.masks is None else float(found.masks[index].sum())
        content = {
            "category_id": label + 1, "bbox": [round(value, 3) for value in (left, top, *sides)],
            "score": round(score, 6), "area": round(area, 2), "iscrowd": 0,
        }  # fmt: skip
        yield content if found.masks is None else content | {"segmentation": found.runs(index)}


@contextmanager
def _yolo(path: Path, classes: Sequence[str]) -> Iterator[Write]:
    with _new_folder(path, "labels") as folder:
        content = yaml.safe_dump({"names": dict(enumerate(classes))}, allow_unicode=True, sort_keys=False)
        (folder / "data.yaml").write_text(content, encoding="utf-8")
        names = _Names()

        def write(answer: Answer) -> None:
            name, found = _split(answer)
            if not isinstance(found, str):
                target = folder / "labels" / f"{names.next(name)}.txt"
                target.write_text("".join(_yolo_lines(_as_detections(found))), encoding="utf-8")

        yield write


def _yolo_lines(found: Detections) -> Iterator[str]:
    height, width = found.size
    for label, box, score in zip(found.labels.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True):
        left, top, right, bottom = box
        middle = ((left + right) / 2 / width, (top + bottom) / 2 / height)
        shares = (*middle, (right - left) / width, (bottom - top) / height)
        yield f"{label} {' '.join(f'{share:.7f}' for share in shares)} {score:.6f}\n"


@contextmanager
def _masks(path: Path, classes: Sequence[str]) -> Iterator[Write]:
    with _new_folder(path, "masks") as folder:
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        names = _Names()

        def write(answer: Answer) -> None:
            name, found = _split(answer)
            if not isinstance(found, str):
                mask = found.mask if isinstance(found, Segmentation) else _painted(found)
                mask_image(mask).save(folder / "masks" / f"{names.next(name)}.png", optimize=False)

        yield write


def _painted(found: Detections) -> NDArray[np.uint8]:
    """The class of the surest object at each pixel, `IGNORE` where there is none."""
    mask = np.full(found.size, IGNORE, np.uint8)
    if found.masks is None or found.corners is None:
        return mask
    for index in reversed(range(len(found))):
        part, (left, top) = found.masks[index], found.corners[index].tolist()
        mask[top : top + part.shape[0], left : left + part.shape[1]][part] = found.labels[index]
    return mask


def _as_detections(found: Detections | Segmentation) -> Detections:
    if isinstance(found, Segmentation):
        raise TypeError("this table holds objects, but a mask of regions was given.")
    return found


class _Names:
    """File names for images, without their suffix; where two folders have the same, the second gets `-2`."""

    def __init__(self) -> None:
        self.given: set[str] = set()
        self.images = 0

    def next(self, path: str | None) -> str:
        self.images += 1
        name = Path(path).name if path else f"{self.images:06d}"
        stem = Path(name).stem if is_image_name(name) else name  # a frame of a video has no suffix
        name, number = stem, 1
        while name.lower() in self.given:
            number += 1
            name = f"{stem}-{number}"
        self.given.add(name.lower())
        return name


@contextmanager
def _new_folder(path: Path, inner: str) -> Iterator[Path]:
    """A hidden folder beside `path` that becomes `path` at the end; on any error nothing is left."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{str(path)!r} is there already and is not empty.", "Choose another name, or remove it.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        (temporary / inner).mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
