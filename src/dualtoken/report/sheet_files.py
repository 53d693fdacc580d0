"""Contact sheets of a long stream: pages of images, each written when it is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from dualtoken.errors import OutputError
from dualtoken.files import atomic_path
from dualtoken.outputs import Classification
from dualtoken.report.sheets import SheetItem, contact_sheet

PAGE = 40  # images
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_LARGEST = (256, 256)  # pixels kept of each image until its page is drawn


@contextmanager
def sheet_files(path: str | Path) -> Iterator[Callable[[Image.Image, Classification], None]]:
    """Collect images with their answers; 40 make a page: `sheet.png`, then `sheet-2.png`, `sheet-3.png`, ...

    Raises:
        OutputError: `path` does not end in .png, .jpg or .webp, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"{str(path)!r} is no picture's name, expected {', '.join(_SUFFIXES)}.", "Example: sheet.png")
    items: list[SheetItem] = []
    pages = 0

    def write_page() -> None:
        nonlocal pages
        pages += 1
        target = path if pages == 1 else path.with_stem(f"{path.stem}-{pages}")
        with atomic_path(target) as temporary:
            contact_sheet(items).save(temporary)
        items.clear()

    def add(image: Image.Image, answer: Classification) -> None:
        small = image.copy()
        small.thumbnail(_LARGEST)
        items.append((small, answer, None))
        if len(items) == PAGE:
            write_page()

    yield add
    if items:
        write_page()
