"""Errors that teach: what came, what was expected, what to type next.

Everything a user can get wrong is raised as a `UserError`. The command line prints its message and
hint without a traceback and exits with code 2; from Python it is an ordinary exception.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import re
from collections.abc import Iterable
from types import ModuleType

# Controls of C0 and C1 but line ends and tabs, marks of direction, separators of lines, and halves of surrogate pairs,
# which stand for bytes of a file's name that are not UTF-8.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: object) -> str:
    """`text` with whatever could steer a terminal, or turn the line's direction, written as an escape, as JSON has it.

    >>> shown("a cat\x1b[2J\\nand a dog")
    'a cat\\\\u001b[2J\\nand a dog'
    """
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


def shown_name(name: str) -> str:
    """The same for the name of a file or class, which others give and which is one line.

    >>> shown_name("sum\u202eexe\\n.jpg")
    'sum\\\\u202eexe\\\\u000a.jpg'
    """
    return shown(name).replace("\n", "\\u000a").replace("\t", "\\u0009")


def printable(name: str) -> str:
    r"""The same for a name that need not be UTF-8, and then can be neither printed nor stored: such bytes are \xNN.

    >>> printable("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    return shown_name(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def first_line(error: object) -> str:
    """The first line of what a library says, without its full stop; the kind of the error where it says nothing.

    >>> first_line("No such operator.\\nIn line 3"), first_line(ValueError())
    ('No such operator', 'ValueError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


class UserError(Exception):
    """The user's mistake, or the machine's: `message` says what came and what was expected, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = shown(message), shown(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ImageError(UserError):
    """A file that cannot become pixels: not an image, truncated, or over a limit."""


class DataError(UserError):
    """A data set that cannot be used: no images, one class only, an unknown layout."""


class ConfigError(UserError):
    """A setting with an unknown name or an impossible value."""


class ModelError(UserError):
    """A model name or model folder that cannot be loaded."""


class ExportError(UserError):
    """A model that a format cannot hold, or that answers differently in it."""


class OutputError(UserError):
    """A file or folder that cannot be written."""


class MissingExtraError(UserError):
    """A package that this function needs and that is not installed."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it: handled as Ctrl-C is, with an exit code of its own."""


_NEAR = 0.7  # share of two words that agrees: a mistyped one has more, another one seldom
_LISTED = 30


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word`, or None when nothing is near: of two short words most letters must be the same."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=_NEAR)
    return by_lower[matches[0]] if matches else None


def unknown_name(kind: str, word: str, choices: Iterable[str]) -> str:
    """One sentence for an unknown name: the nearest right one, else the list of all, or of the first where it is long.

    >>> unknown_name("key", "epoch", ["epochs", "seed"])
    "Unknown key 'epoch'. Did you mean 'epochs'?"
    """
    choices = list(choices)
    match = nearest(word, choices)
    if match is not None:
        return f"Unknown {kind} {word!r}. Did you mean {match!r}?"
    rest = f" and {len(choices) - _LISTED} more" if len(choices) > _LISTED else ""
    return f"Unknown {kind} {word!r}. Known: {', '.join(choices[:_LISTED])}{rest}."


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say what to type to get it.

    Raises:
        MissingExtraError: `module` is not installed; `extra` is the extra of dualtoken that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name is None or error.name.split(".")[0] != package:
            raise  # `module` is there, something that it needs is not: not ours to explain
        raise missing_package(package, extra) from None


def missing_package(package: str, extra: str, what: str = "This") -> MissingExtraError:
    """Says what to type for a package that `what` needs."""
    return MissingExtraError(
        f"{what} needs the package {package!r}, which is not installed.", f"Type: pip install 'dualtoken[{extra}]'"
    )


_REASONS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EEXIST: "a file is there, but a folder is needed",
    errno.EISDIR: "a folder is there, but a file is to be written",
    errno.EFBIG: "the file would be larger than is allowed",
    errno.EIO: "the device reports an error",
}


def is_about_the_place(error: OSError) -> bool:
    """Whether the place that is written to is at fault."""
    return error.errno in _REASONS


def cannot_write(path: object, error: OSError) -> OutputError:
    """The `OutputError` that explains why `path` could not be written."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return OutputError(
        f"Cannot write {str(path)!r}: {reason}.",
        "Choose another place with --output, or make room there. Nothing half-written was left behind.",
    )
