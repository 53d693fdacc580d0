"""One reader for each syntax that others write files in: JSON, YAML, CSV, XML, and plain lists of names.

What a file costs is bounded by its own size: nesting, aliases, digits and lengths are limited before anything is made
of them, and whatever a parser stumbles over becomes an error that names the file and the place. What the values mean
is judged by who asked for them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from xml.etree import ElementTree
from xml.parsers import expat

from dualtoken.errors import DataError, UserError

CONFIG_BYTES = 16 * 2**20  # of files that people write, and of configs
MOST_DEPTH = 64  # of lists in lists; ours have six
MOST_YAML_NODES = 1_000_000  # with each alias counted as what it stands for
MOST_SCALAR = 65_536  # characters of one value in YAML: numbers to base 60 take quadratic time
MOST_BITS = 1024  # of a whole number; longer ones cannot become floats
MOST_LINE = 65_536  # characters of a name in a list
_LOOKED_THROUGH = 16 * 2**20  # JSON up to so many bytes is looked through value by value: COCO's own is larger
T = TypeVar("T")
_BLANK = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: str | Path, *, most: int = CONFIG_BYTES, error: type[UserError] = DataError) -> str:
    """The content of a text file: see `decoded`.

    Args:
        path: of an ordinary file; a pipe, which would wait for its writer, is refused.
        most: bytes that it may have.
        error: what is raised.

    Raises:
        UserError: of the kind `error`: it cannot be read, is too large or no UTF-8.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{str(path)!r} is not a file.")
        if status.st_size > most:
            raise error(f"{str(path)!r} has {status.st_size:,} bytes, expected at most {most:,}.")
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise error(f"There is no file {str(path)!r}.") from None
    except (OSError, ValueError) as reason:  # ValueError: a name with a null byte
        raise error(f"{str(path)!r} cannot be read: {getattr(reason, 'strerror', None) or reason}.") from None
    return decoded(content, str(path), error=error)


def decoded(content: bytes, where: str, *, error: type[UserError] = DataError) -> str:
    """Bytes as UTF-8, with or without a byte order mark; no text has null bytes.

    Raises:
        UserError: of the kind `error`, with the line.
    """
    try:
        text = content.decode("utf-8-sig")
        wrong = content.find(b"\0")
    except UnicodeDecodeError as reason:
        wrong = reason.start
    if wrong < 0:
        return text
    raise error(f"{where!r} is not UTF-8 in line {content[:wrong].count(10) + 1}.", "Save it as UTF-8.")


# ---------------------------------------------------------------- JSON and YAML


def parse_json(text: str, where: str, *, error: type[UserError] = DataError) -> Any:
    """The value of a JSON text; NaN and Infinity, which are no JSON, are refused.

    Args:
        text: its content.
        where: the file, as messages call it.
        error: what is raised.

    Raises:
        UserError: of the kind `error`, with the line where there is one.
    """

    def refuse(constant: str) -> NoReturn:
        raise error(f"{where!r} holds {constant}, which is no number of JSON's.")

    try:
        value = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as reason:
        raise error(f"{where!r} is no JSON in line {reason.lineno}: {reason.msg}.", "Save it again.") from None
    except RecursionError:
        raise error(f"{where!r} is nested too deeply: expected at most {MOST_DEPTH} levels.") from None
    except ValueError:  # more digits than Python reads
        raise error(f"{where!r} holds a number with thousands of digits.") from None
    if len(text) <= _LOOKED_THROUGH or _SURROGATE.search(text):
        _look_through(value, where, error)
    return value


def json_items(
    text: str, where: str, lists: Container[str], *, error: type[UserError] = DataError
) -> Iterator[tuple[str, bool, int, Any]]:
    """A JSON object piece by piece, so that the whole of a large one is never in memory as Python's objects.

    Of each key comes (key, whether its value is a list, -1, None); then of those in `lists` each element as
    (key, True, where it begins in the text, element). Other values are read and passed over, and so is a text that is
    no object. NaN and Infinity are read: whose they are must be told.

    Raises:
        UserError: of the kind `error`, with the line where there is one.
    """
    scan, blank = json.JSONDecoder().scan_once, _BLANK.match  # type: ignore[attr-defined]
    try:
        place = blank(text, 0).end()  # type: ignore[union-attr]
        if text[place : place + 1] != "{":
            _, place = scan(text, place)
        elif text[place := blank(text, place + 1).end()] != "}":  # type: ignore[union-attr]
            while True:
                key, place = scan(text, place)
                place = _expect(text, place, ":")
                is_list = text[place] == "["
                yield str(key), is_list, -1, None
                if is_list and key in lists:
                    place = blank(text, place + 1).end()  # type: ignore[union-attr]
                    while text[place] != "]":
                        value, end = scan(text, place)
                        yield str(key), True, place, value
                        place = blank(text, end).end()  # type: ignore[union-attr]
                        if text[place] != "]":
                            place = _expect(text, place, ",")
                    place += 1
                else:
                    _, place = scan(text, place)
                place = blank(text, place).end()  # type: ignore[union-attr]
                if text[place] == "}":
                    break
                place = _expect(text, place, ",")
            place += 1
        else:
            place += 1
        if blank(text, place).end() < len(text):  # type: ignore[union-attr]
            raise json.JSONDecodeError("Extra data", text, place)
    except json.JSONDecodeError as reason:
        raise error(f"{where!r} is no JSON in line {reason.lineno}: {reason.msg}.", "Save it again.") from None
    except (StopIteration, IndexError):
        line = text.count("\n", 0, place) + 1
        raise error(f"{where!r} is no JSON in line {line}: it ends, or a value is missing.", "Save it again.") from None
    except RecursionError:
        raise error(f"{where!r} is nested too deeply: expected at most {MOST_DEPTH} levels.") from None
    except ValueError:  # more digits than Python reads
        raise error(f"{where!r} holds a number with thousands of digits.") from None


def _expect(text: str, place: int, sign: str) -> int:
    """The place of what follows `sign`, which must be the next one."""
    place = _BLANK.match(text, place).end()  # type: ignore[union-attr]
    if text[place] != sign:
        raise json.JSONDecodeError(f"Expecting {sign!r}", text, place)
    return _BLANK.match(text, place + 1).end()  # type: ignore[union-attr]


def parse_yaml(text: str, where: str, *, error: type[UserError] = DataError) -> Any:
    """The value of a YAML text; tags that would make objects of Python's are refused.

    Raises:
        UserError: of the kind `error`, with the line where there is one.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if len(text) > CONFIG_BYTES:
        raise error(f"{where!r} has {len(text):,} characters, expected at most {CONFIG_BYTES:,}.")
    try:
        _count_nodes(yaml.parse(text, Loader=loader), where, error)
        value = yaml.load(text, Loader=loader)
    except UserError:
        raise
    except yaml.YAMLError as reason:
        mark = getattr(reason, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise error(f"{where!r} is no YAML{line}: {getattr(reason, 'problem', None) or reason}.") from None
    except Exception as reason:  # a tag promises what the text behind it is not: each fails in its own way
        raise error(f"{where!r} holds a value that cannot be read: {reason}.") from None
    _look_through(value, where, error)
    return value


def _count_nodes(events: Iterator[Any], where: str, error: type[UserError]) -> None:
    """Refuse YAML that is deep or would grow, by its events: before any of it is built."""
    import yaml

    finished: dict[str, int] = {}  # nodes of what an anchor names
    opened: list[tuple[str | None, int]] = [(None, 0)]  # anchor, and nodes so far, of each level
    for event in events:
        line = f"{where!r}, line {event.start_mark.line + 1}"
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, 1))
            if len(opened) > MOST_DEPTH:
                raise error(f"{line}: nested too deeply, expected at most {MOST_DEPTH} levels.")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
            if len(event.value) > MOST_SCALAR:
                raise error(f"{line}: a value of {len(event.value):,} characters, expected at most {MOST_SCALAR:,}.")
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, finished.get(event.anchor or "", 1)
            if any(name == event.anchor for name, _ in opened):
                raise error(f"{line}: *{event.anchor} holds itself.")
        if not size:
            continue
        if anchor is not None:
            finished[anchor] = size
        above, before = opened[-1]
        opened[-1] = above, before + size
        if before + size > MOST_YAML_NODES:
            raise error(f"{line}: its aliases stand for more than {MOST_YAML_NODES:,} values.", "Write it out.")


def _look_through(value: Any, where: str, error: type[UserError]) -> None:
    """Refuse values that break whoever handles them: deep, with endless digits, or texts that no file can hold."""
    seen: set[int] = set()
    level = [value]
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict | list | tuple | set):
                if id(item) in seen:  # behind an alias: once is enough
                    continue
                seen.add(id(item))
                below += [*item, *item.values()] if isinstance(item, dict) else item
            elif isinstance(item, str):
                if not item.isascii() and not item.isprintable() and any("\ud800" <= char <= "\udfff" for char in item):
                    raise error(f"{where!r} holds the text {item[:80]!r}, which is no Unicode.")
            elif isinstance(item, int) and item.bit_length() > MOST_BITS:
                raise error(f"{where!r} holds a whole number of {item.bit_length() * 0.30103:.0f} digits.")
        level = below
        if not level:
            return
    raise error(f"{where!r} is nested too deeply: expected at most {MOST_DEPTH} levels.")


def judged(content: Any, schema: type[T], where: str, *, error: type[UserError] = DataError) -> T:
    """JSON's values as an instance of `schema`, strictly: no text for a number, no number for a truth value.

    Args:
        content: what `parse_json` gave.
        schema: a class of pydantic's or a dataclass, whose fields say what may be there.
        where: the file, as messages call it.
        error: what is raised.

    Raises:
        UserError: of the kind `error`: it names the first place that is not as it should be.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(schema).validate_json(json.dumps(content), strict=True)
    except ValidationError as reason:
        first = reason.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise error(f"{where!r} has no {place!r}.") from None
        if first["type"] == "extra_forbidden":
            raise error(f"{where!r} has an unknown key {place!r}.") from None
        own = first.get("ctx", {}).get("error")  # what a schema's own check says
        if own is not None:
            raise error(f"{where!r}{f', {place}' if place else ''}: {own}.") from None
        said = first["msg"].removeprefix("Input should be ")
        raise error(f"{where!r}: {place or 'all'} is {_short(first['input'])}, expected {said}.") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---------------------------------------------------------------- CSV, XML and lists of names


def csv_rows(
    text: str, where: str, *, delimiter: str = ",", error: type[UserError] = DataError
) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, fields) of each row, the header too; fields are stripped of blanks around them.

    Raises:
        UserError: of the kind `error`, with the line: a field of more than 128 KiB, or quotes that are never closed.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for fields in reader:
            yield reader.line_num, [field.strip() for field in fields]
    except csv.Error as reason:
        raise error(
            f"{where!r}, line {reader.line_num}: {reason}.", "Is a quote never closed? Save it again as CSV."
        ) from None


class XmlElement(ElementTree.Element):
    """An element of an XML text that knows the line in which it begins."""

    line: int = 0

    def said(self, path: str) -> str:
        """The text of the element at `path` below this one, without blanks around it; "" where there is none."""
        return (self.findtext(path) or "").strip()


def parse_xml(content: bytes, where: str, *, error: type[UserError] = DataError) -> XmlElement:
    """The root of an XML text. A document type, which entities could make grow without end, is refused.

    Raises:
        UserError: of the kind `error`, with the line.
    """
    parser, builder, depth = expat.ParserCreate(), ElementTree.TreeBuilder(element_factory=XmlElement), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MOST_DEPTH:
            raise error(f"{where!r}, line {parser.CurrentLineNumber}: nested deeper than {MOST_DEPTH} levels.")
        element = builder.start(tag, attributes)
        assert isinstance(element, XmlElement)
        element.line = parser.CurrentLineNumber

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> NoReturn:
        raise error(f"{where!r}, line {parser.CurrentLineNumber}: a document type, which such files do not have.")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as reason:
        raise error(f"{where!r}, line {reason.lineno}: {expat.ErrorString(reason.code)}.") from None
    except (ValueError, LookupError):  # a name of an encoding that there is not
        raise error(f"{where!r} is in an encoding that cannot be read.", "Save it as UTF-8.") from None
    root = builder.close()
    assert isinstance(root, XmlElement)
    return root


def name_lines(text: str, where: str, *, error: type[UserError] = DataError) -> list[tuple[int, str]]:
    """(number, content) of each line that is not empty, as lists of classes and of images are written.

    Raises:
        UserError: of the kind `error`: a line that is far too long for a name.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    for number, line in lines:
        if len(line) > MOST_LINE:
            raise error(f"{where!r}, line {number}: {len(line):,} characters, expected a name.")
    return [(number, line) for number, line in lines if line]
