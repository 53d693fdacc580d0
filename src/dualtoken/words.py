"""Small pieces of sentences: how many of what, in words that fit the number, and names as they are typed."""

from __future__ import annotations

import os
import shlex
import subprocess


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun; `many` where that is more than `one` with an s.

    >>> counted(1, "image"), counted(2000, "image"), counted(0, "class", "classes")
    ('1 image', '2,000 images', '0 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def typed(name: object) -> str:
    """The name of a file or folder as it is typed in a shell: in quotes where it must be.

    >>> typed("runs/photos"), typed("my photos/model.onnx")
    ('runs/photos', "'my photos/model.onnx'")
    """
    return subprocess.list2cmdline([str(name)]) if os.name == "nt" else shlex.quote(str(name))
