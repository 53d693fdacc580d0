"""What `dualtoken predict` does: files in, tables, contact sheets, pictures and videos out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from glob import has_magic
from itertools import groupby, islice, tee
from pathlib import Path
from typing import Any, cast

from PIL import Image

from dualtoken.answers import Kind
from dualtoken.engines import suffixes
from dualtoken.errors import ConfigError, ImageError, printable
from dualtoken.files import alone, atomic_path, refuse_existing, unique, writable_folder
from dualtoken.hub import is_named
from dualtoken.hub.names import holds_model
from dualtoken.images import DEFAULT_LIMITS, ImageLimits, is_image_name, too_large
from dualtoken.outputs import Answer, Classification, Detections
from dualtoken.prediction.inputs import STDIN, NamedInput, Note, collect_inputs, open_input
from dualtoken.prediction.predictor import Predictor
from dualtoken.prediction.tiles import OVERLAP, predict_tiled
from dualtoken.prediction.video import VideoWriter, frames, is_video, video_info
from dualtoken.report import prediction_table, sheet_files
from dualtoken.words import typed

Show = Callable[[list[Answer]], None]
DrawSheet = Callable[[Image.Image, Classification], None]
_QUALITY = 92  # of JPEG pictures
_PAGE = 32  # answers shown at a time


@dataclass(frozen=True)
class Options:
    """How to answer, and what to write.

    Attributes:
        output: table to write: .jsonl, .csv, .parquet, .json (COCO), or a folder with `form` or `--engine ray`.
        form: for boxes and masks: format of the table where the suffix leaves it open: coco, yolo, masks, csv,
            parquet, jsonl.
        pictures: for boxes and masks: folder for pictures and videos with the predictions drawn in.
        sheet: for classes: contact sheets to draw, such as sheet.png, 40 images a page.
        threshold: for objects and several labels: lowest confidence shown, 0 to 1. Left out: the model's own.
        max_objects: for boxes: most objects of an image. Left out: the model's own, 100 where it was not set.
        tile: for boxes and masks: predict large images in tiles of so many pixels.
        overlap: with `--tile`: share of a tile that the next one repeats, 0 to 0.9. Left out: 0.25.
        top: classes listed for each image.
        batch_size, workers, limits: as for `evaluate`.
    """

    output: Path | None = None
    form: str | None = None
    pictures: Path | None = None
    sheet: Path | None = None
    threshold: float | None = None
    max_objects: int | None = None
    tile: int | None = None
    overlap: float | None = None
    top: int = 5
    batch_size: int | None = None
    workers: int | None = None
    limits: ImageLimits = DEFAULT_LIMITS


def split_model(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The model that stands before the inputs, or None where all of `arguments` are inputs.

    What stands before others is a model, unless it can only be an input: the name of an image, archive or video, a
    pattern, or `-`. What stands alone is an input, unless it is a model.

    Raises:
        ConfigError: there is nothing to predict for.
    """
    if not arguments:
        raise ConfigError("INPUT is missing: nothing to predict for.", "Type: dualtoken predict photo.jpg")
    first, *rest = arguments
    if rest:
        return (None, list(arguments)) if _only_an_input(first) else (first, rest)
    if is_named(first) or holds_model(first) or Path(first).suffix in suffixes():
        raise ConfigError(
            f"INPUT is missing: {first!r} is a model.", f"Type: dualtoken predict {typed(first)} photo.jpg"
        )
    return None, [first]


def _only_an_input(name: str) -> bool:
    return not Path(name).is_dir() and (
        name == STDIN
        or is_image_name(name)
        or Path(name).suffix.lower() == ".zip"
        or is_video(name)
        or (has_magic(name) and not Path(name).exists())
    )


def answer_files(
    predictor: Predictor, inputs: Sequence[str], options: Options, show: Show, note: Note | None = None
) -> tuple[int, int]:
    """Answer everything that `inputs` mean, in order; what cannot be read does not stop the rest.

    Where nothing could be answered, nothing is written.

    Args:
        predictor: of any task.
        inputs: as for `collect_inputs`; for boxes and masks videos too.
        options: what to write.
        show: gets the answers, a batch at a time.
        note: gets lines about what was left out.

    Returns:
        How many were answered, and how many could not be read.

    Raises:
        ConfigError: an option that this task has no use for.
        OutputError: a place cannot be written.
    """
    predictor = predictor.limited(options.max_objects)
    kind = predictor.kind
    refuse_useless(options, kind)
    videos = "pictures" in kind.options
    places = (("--output", options.output), ("--pictures", options.pictures), ("--sheet", options.sheet))
    asked = [(flag, place) for flag, place in places if place is not None]
    for flag, place in asked:
        refuse_existing(place, flag)
        if same := [other for other, taken in asked if taken.absolute() == place.absolute() and other != flag]:
            raise ConfigError(f"{flag} and {same[0]} are both {str(place)!r}.", "Give each a place of its own.")
    made = options.pictures is not None and not options.pictures.exists()
    answered = failed = 0
    with suppress(_NothingAnsweredError), ExitStack() as stack:
        for _, place in asked:
            stack.enter_context(alone(place))
        write = None
        if options.output:
            table = prediction_table(options.output, kind, predictor.classes, form=options.form, top=options.top)
            write = stack.enter_context(table)
        sheet = stack.enter_context(sheet_files(options.sheet)) if options.sheet else None
        found = collect_inputs(inputs, videos=videos, note=note)
        answers = _answers(predictor, found, options, _Pictures(kind, options.pictures, sheet), videos=videos)
        while page := list(islice(answers, _PAGE)):
            for answer in page:
                if write:
                    write(answer)
                failed += isinstance(answer, tuple)
            answered += len(page)
            show(page)
        if answered == failed:
            raise _NothingAnsweredError
    if answered == failed and made and options.pictures:
        with suppress(OSError):  # it was not made yet
            options.pictures.rmdir()
    return answered - failed, failed


class _NothingAnsweredError(Exception):
    """Tells tables to leave nothing."""


def refuse_useless(options: Options, kind: Kind) -> None:
    """An option is applied or refused, never passed over.

    Raises:
        ConfigError: one has no meaning for such a model, or beside the others.
    """
    if options.overlap is not None and options.tile is None:
        raise ConfigError("--overlap is that of tiles, and --tile is not given.", "Add --tile N, or leave it out.")
    given = [
        f"--{name}"
        for name in ("sheet", "pictures", "form", "threshold", "tile")
        if getattr(options, name) is not None and name not in kind.options
    ]
    if given:
        hints = {"pictures": "Pictures of boxes and masks: --pictures DIR.",
                 "sheet": "Pictures with their classes: --sheet FILE.png."}  # fmt: skip
        hint = next((text for name, text in hints.items() if name in kind.options), "Leave it out.")
        raise ConfigError(f"{', '.join(given)} has no meaning for a model for {kind.name.replace('_', ' ')}.", hint)


class _Pictures:
    """Where pictures of the answers go: a folder with one an image, contact sheets, or nowhere."""

    def __init__(self, kind: Kind, folder: Path | None, sheet: DrawSheet | None) -> None:
        self.kind = kind
        self.folder = writable_folder(folder) if folder else None
        self.sheet = sheet
        self.wanted = bool(folder or sheet)
        self._taken: dict[str, set[str]] = defaultdict(set)  # by suffix

    def add(self, name: str | None, image: Image.Image, answer: Answer) -> None:
        """Draw one answer on its image."""
        if isinstance(answer, tuple):
            return
        if self.sheet:
            self.sheet(image, answer)
        picture = self.kind.draw(image, answer) if self.folder else None
        if picture:
            with atomic_path(self.place(name, ".jpg")) as temporary:
                picture.save(temporary, "JPEG", quality=_QUALITY)

    def place(self, name: str | None, suffix: str) -> Path:
        """The path of a picture in the folder; where two images are called the same, the second gets `-2`."""
        taken = self._taken[suffix]
        stem = Path(name).stem if name else f"{len(taken) + 1:06d}"
        return cast(Path, self.folder) / f"{unique(stem, taken)}{suffix}"


def _answers(
    predictor: Predictor, inputs: Iterator[NamedInput], options: Options, pictures: _Pictures, *, videos: bool
) -> Iterator[Answer]:
    """Images as they come, and the frames of videos in between."""
    for of_video, group in groupby(inputs, key=lambda item: videos and bool(item[0] and is_video(item[0]))):
        if not of_video:
            yield from _image_answers(predictor, group, options, pictures)
            continue
        for name, source in group:
            if isinstance(source, ImageError):
                yield printable(name or ""), source
                continue
            try:
                yield from _video_answers(predictor, str(name), options, pictures)
            except ImageError as error:
                yield printable(str(name)), error


def _image_answers(
    predictor: Predictor, inputs: Iterator[NamedInput], options: Options, pictures: _Pictures
) -> Iterator[Answer]:
    names, given = tee(inputs)
    found = _tiled(predictor, given, options) if options.tile else predictor.stream_images(
        given, batch_size=options.batch_size, workers=options.workers, threshold=options.threshold,
        limits=options.limits, keep=pictures.wanted,
    )  # fmt: skip
    for answer, image in found:
        name, _ = next(names)
        try:
            if image is not None:
                pictures.add(name, image, answer)
        except MemoryError:
            answer = printable(name or "pixels"), too_large(name or "pixels")
        yield answer


def _tiled(
    predictor: Predictor, inputs: Iterator[NamedInput], options: Options
) -> Iterator[tuple[Answer, Image.Image | None]]:
    """One image after the other; the tiles of one are answered one by one, so that memory stays that of the image."""

    def answer_one(tile: Image.Image) -> Any:
        return predictor.predict(tile, threshold=options.threshold, limits=options.limits)

    overlap = OVERLAP if options.overlap is None else options.overlap
    for name, source in inputs:
        try:
            image = open_input(name, source, options.limits, bands=predictor.config.preprocessing.bands)
            answer = predict_tiled(answer_one, image, options.tile or 1, overlap)
            if isinstance(answer, Detections):
                answer = answer.take(slice(options.max_objects))  # each tile had as many
        except ImageError as error:
            yield (printable(name or "pixels"), error), None
        except (MemoryError, RecursionError):
            yield (printable(name or "pixels"), too_large(name or "pixels")), None
        else:
            yield replace(answer, path=None if name is None else printable(name)), image


def _video_answers(predictor: Predictor, path: str, options: Options, pictures: _Pictures) -> Iterator[Answer]:
    """The frames of a video, by its name and their seconds in it: `street.mp4@00001.480s`, which sort by time."""
    with ExitStack() as stack:
        film = None
        if pictures.folder:
            info = video_info(path, options.limits)
            film = stack.enter_context(VideoWriter(pictures.place(path, ".mp4"), info.fps, info.size))
        named = ((f"{path}@{seconds:09.3f}s", image) for seconds, image in frames(path, options.limits))
        found = predictor.stream_images(
            named, batch_size=options.batch_size, workers=0, threshold=options.threshold, limits=options.limits,
            keep=film is not None,
        )  # fmt: skip
        for answer, image in found:
            if film and image and not isinstance(answer, tuple):
                picture = predictor.kind.draw(image, answer, inside=True) or image
                film.write(picture.resize(image.size))  # small frames are drawn larger
            yield answer
