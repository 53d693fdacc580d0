"""Predictions as files, written as they come (JSON lines, CSV, parquet, COCO, YOLO, masks), and on the screen.

What a row says of an answer is its kind's to say (`answers.Kind`); here is how it is written. A further form is an
entry of `FORMS`, and its name in the `forms` of the kinds that it suits.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dualtoken.data import IGNORE
from dualtoken.errors import ImageError, OutputError, require, shown, unknown_name
from dualtoken.files import atomic_folder, atomic_path, refuse_existing, unique
from dualtoken.images import is_image_name
from dualtoken.outputs import Answer, Detections, Segmentation
from dualtoken.report.class_colours import palette

Write = Callable[[Answer], None]
_PARQUET_ROWS = 10_000


class Told(Protocol):
    """What a kind of answers says for tables; an `answers.Kind` is one."""

    @property
    def name(self) -> str: ...
    @property
    def forms(self) -> tuple[str, ...]: ...
    @property
    def screen_columns(self) -> tuple[str, ...]: ...

    def columns(self, top: int) -> list[str]: ...

    def cells(self, answer: Any, top: int) -> list[dict[str, Any]]: ...

    def screen_cells(self, answer: Any, top: int) -> tuple[str, ...]: ...


class Form(NamedTuple):
    """A form of a table: the suffix that means it, "" for a folder, and what opens it."""

    suffix: str
    open: Callable[[Path, Told, Sequence[str], int], AbstractContextManager[Write]]


def prediction_table(
    path: str | Path, kind: Told, classes: Sequence[str] = (), *, form: str | None = None, top: int = 5
) -> AbstractContextManager[Write]:
    """Open a file or folder for predictions.

        with prediction_table("found.json", model.kind, model.classes) as write:
            for answer in answers:
                write(answer)

    Answers are written as they come, so memory stays flat; the file or folder appears under its name when the block
    ends without an error. Images in which nothing was found are there too, and images that could not be read wherever
    a form has a place for them.

    Args:
        path: of a file that ends in .json (COCO), .csv, .jsonl or .parquet, or of a new folder.
        kind: of the answers.
        classes: names of the model's classes.
        form: what to write, where the suffix does not say it; each kind has some of these:

            - `csv`, `parquet`: a row for each image, object or region; images without any have one too.
            - `jsonl`: a line of JSON for each image, as `to_dict` gives it.
            - `label_list`: a json list of `{"file": ..., "labels": [...], "scores": [...]}`, as a data set is read.
            - `coco`: one json with `images`, `categories` (numbered from 1) and `annotations`, each with its score;
              masks as compressed run lengths. pycocotools reads it as a data set, its annotations as results.
            - `yolo`: a folder with `labels/NAME.txt`, a line for each object: class, middle x, middle y, width and
              height as shares of the image, score; and `data.yaml` with the names. Boxes only.
            - `masks`: a folder with `masks/NAME.png`, a class each pixel, and `classes.txt`. Of objects the one with
              the highest score has a pixel, 255 is where there is none.
        top: how many classes a row lists, where an image has one of them.

    Raises:
        OutputError: no such form for this kind, the folder is there already, or the place cannot be written.
        MissingExtraError: parquet needs pyarrow.
    """
    path = Path(path)
    return FORMS[_form(path, kind, form)].open(path, kind, classes, top)


def to_json_line(answer: Answer, top: int = 5) -> str:
    """One answer as one line of JSON, without its line break; `top` classes where an image has one of them."""
    _, found, error = _split(answer)
    return _json({"path": answer[0], "error": str(error)} if error else found.to_dict(top))


def screen_table(answers: Sequence[Answer], kind: Told, *, top: int = 3) -> Table:
    """Answers as a table for a rich console, without those that are errors."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    table.add_column("Image", overflow="fold")
    for column in kind.screen_columns if top > 1 else kind.screen_columns[:2]:
        table.add_column(column, overflow="fold", justify="right" if column == "Confidence" else "left")
    for answer in answers:
        name, found, error = _split(answer)
        if error is None:
            table.add_row(*[_plain(name or "-"), *map(_plain, kind.screen_cells(found, top))][: len(table.columns)])
    return table


def print_table(answers: Sequence[Answer], kind: Told, *, top: int = 3, console: Console | None = None) -> None:
    """Print `screen_table` on the terminal, and below it why some images could not be read."""
    console, errors = console or Console(), [error for *_, error in map(_split, answers) if error]
    if len(errors) < len(answers):
        console.print(screen_table(answers, kind, top=top))
    for error in errors:
        console.print(f"[red]{_plain(error.message)}[/red]", soft_wrap=True)


def mask_image(mask: NDArray[np.uint8]) -> Image.Image:
    """A mask of classes as a picture with palette: the values are the classes, the colours those of `draw`."""
    image = Image.fromarray(mask).convert("P")
    image.putpalette(palette())
    return image


def _plain(text: str) -> str:
    """A text from outside as a console may show it: neither markup nor an escape of the terminal."""
    return escape(shown(text))


def _split(answer: Answer) -> tuple[str | None, Any, ImageError | None]:
    """The image's name, and its answer or why it could not be read."""
    return (answer[0], None, answer[1]) if isinstance(answer, tuple) else (answer.path, answer, None)


def _form(path: Path, kind: Told, form: str | None) -> str:
    suffixes = {FORMS[name].suffix: name for name in kind.forms if FORMS[name].suffix}
    task = kind.name.replace("_", " ")
    if form is not None and form not in kind.forms:
        raise OutputError(f"{form!r} cannot be written for {task}.", f"There it is one of {', '.join(kind.forms)}.")
    if form is None:
        every = {known.suffix: name for name, known in FORMS.items() if known.suffix}
        suffix = path.suffix.lower()
        form = suffixes.get(suffix)
        if form is None and suffix in every:
            raise OutputError(
                f"{every[suffix]!r}, for which the suffix {suffix} stands, cannot be written for {task}.",
                f"There it is one of {', '.join(kind.forms)}.",
            )
    if form is None:
        folders = [name for name in kind.forms if not FORMS[name].suffix]
        hint = unknown_name("suffix", path.suffix, suffixes) if path.suffix else f"Add one of {', '.join(suffixes)}."
        hint += f" Or choose for a folder: --form {' or '.join(folders)}." if folders else ""
        raise OutputError(f"{str(path)!r} does not say what to write.", hint)
    return form


@contextmanager
def _json_lines(path: Path, kind: Told, classes: Sequence[str], top: int) -> Iterator[Write]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield lambda answer: print(to_json_line(answer, top), file=file)


@contextmanager
def _csv(path: Path, kind: Told, classes: Sequence[str], top: int) -> Iterator[Write]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["path", *kind.columns(top), "error"], lineterminator="\n")
        table.writeheader()

        def write(answer: Answer) -> None:
            for row in _rows(answer, kind, top):
                table.writerow({key: f"{cell:.6f}" if isinstance(cell, float) else cell for key, cell in row.items()})

        yield write


@contextmanager
def _parquet(path: Path, kind: Told, classes: Sequence[str], top: int) -> Iterator[Write]:
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    columns = ["path", *kind.columns(top), "error"]
    types = [(name, arrow.string() if name in ("path", "error") or "label" in name else arrow.float32())
             for name in columns]  # fmt: skip
    schema, rows = arrow.schema(types), list[dict[str, Any]]()
    numbers = [name for name, kind in types if kind == arrow.float32()]
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as table:

        def write(answer: Answer) -> None:
            rows.extend(_rows(answer, kind, top))
            if len(rows) >= _PARQUET_ROWS:
                flush()

        def flush() -> None:
            for row in rows:  # some cells are numbers in words, such as 12.50
                row |= {name: float(row[name]) for name in numbers if row.get(name) is not None}
            table.write_table(arrow.Table.from_pylist(rows, schema))
            rows.clear()

        yield write
        if rows:
            flush()


def _rows(answer: Answer, kind: Told, top: int) -> list[dict[str, Any]]:
    name, found, error = _split(answer)
    if error:
        return [{"path": name, "error": error.message}]
    return [{"path": name} | row for row in kind.cells(found, top) or [{}]]


@contextmanager
def _coco(path: Path, kind: Told, classes: Sequence[str], top: int) -> Iterator[Write]:
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
            name, found, error = _split(answer)
            if error:
                failed.add({"file_name": name, "error": str(error)})
                return
            height, width = found.size
            number = pictures.length + 1
            pictures.add({"id": number, "file_name": name, "height": height, "width": width})
            for annotation in _annotations(found):
                annotations.add({"id": annotations.length + 1, "image_id": number, **annotation})

        yield write
        for head, part in (("images", images), ("errors", errors)):
            file.write(f'],\n"{head}": [')
            part.seek(0)
            shutil.copyfileobj(part, file)
        file.write("]}\n")


@contextmanager
def _label_list(path: Path, kind: Told, classes: Sequence[str], top: int) -> Iterator[Write]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        entries = _Listing(file)

        def write(answer: Answer) -> None:
            name, found, error = _split(answer)
            labels = {} if error else dict(found.labels)
            rest = {"error": str(error)} if error else {"scores": [round(score, 6) for score in labels.values()]}
            entries.add({"file": name, "labels": [*labels]} | rest)

        yield write
        file.write("\n]\n")


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
def _yolo(path: Path, kind: Told, classes: Sequence[str], top: int) -> Iterator[Write]:
    refuse_existing(path, "--output")
    with atomic_folder(path) as folder:
        (folder / "labels").mkdir()
        content = yaml.safe_dump({"names": dict(enumerate(classes))}, allow_unicode=True, sort_keys=False)
        (folder / "data.yaml").write_text(content, encoding="utf-8")
        taken: set[str] = set()

        def write(answer: Answer) -> None:
            name, found, error = _split(answer)
            if not error:
                target = folder / "labels" / f"{_file_name(name, taken)}.txt"
                target.write_text("".join(_yolo_lines(found)), encoding="utf-8")

        yield write


def _yolo_lines(found: Detections) -> Iterator[str]:
    height, width = found.size
    for label, box, score in zip(found.labels.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True):
        left, top, right, bottom = box
        middle = ((left + right) / 2 / width, (top + bottom) / 2 / height)
        shares = (*middle, (right - left) / width, (bottom - top) / height)
        yield f"{label} {' '.join(f'{share:.7f}' for share in shares)} {score:.6f}\n"


@contextmanager
def _masks(path: Path, kind: Told, classes: Sequence[str], top: int) -> Iterator[Write]:
    if len(classes) > IGNORE:
        raise OutputError(f"{len(classes)} classes do not fit into masks of 8 bits, which hold {IGNORE}.")
    refuse_existing(path, "--output")
    with atomic_folder(path) as folder:
        (folder / "masks").mkdir()
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        taken: set[str] = set()

        def write(answer: Answer) -> None:
            name, found, error = _split(answer)
            if not error:
                mask = found.mask if isinstance(found, Segmentation) else _painted(found)
                mask_image(mask).save(folder / "masks" / f"{_file_name(name, taken)}.png", optimize=False)

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


def _file_name(path: str | None, taken: set[str]) -> str:
    """For an image's file, without its suffix; where two folders have the same, the second gets `-2`."""
    name = Path(path).name if path else f"{len(taken) + 1:06d}"
    return unique(Path(name).stem if is_image_name(name) else name, taken)  # a frame of a video has no suffix


FORMS: dict[str, Form] = {
    "jsonl": Form(".jsonl", _json_lines),
    "csv": Form(".csv", _csv),
    "parquet": Form(".parquet", _parquet),
    "label_list": Form(".json", _label_list),
    "coco": Form(".json", _coco),
    "yolo": Form("", _yolo),
    "masks": Form("", _masks),
}
