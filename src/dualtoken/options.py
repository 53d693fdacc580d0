"""A public function's own signature as the options of a verb: names, types, defaults and words stand there alone.

Keyword arguments become options, positional ones arguments. `limits` becomes the limits themselves; `progress` follows
`--json`. What was not given is not passed on, so that the function's own default holds.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from dualtoken import static
from dualtoken.errors import ConfigError, Terminated, unknown_name
from dualtoken.machine import speaks
from dualtoken.static import Parameter

# Bold is legible on every ground; typer's bright yellow, green and cyan are not on a white one.
_STYLES = dict.fromkeys(("OPTION", "SWITCH", "USAGE", "COMMANDS_TABLE_FIRST_COLUMN"), "bold") | dict.fromkeys(
    ("TYPES", "METAVAR", "NEGATIVE_OPTION"), "dim"
)
# Exit codes; the last ones are 128 and the number of SIGINT or SIGTERM.
DONE, WITH_FAILURES, USER_MISTAKE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
_PYTHON = re.compile(r"\s*In Python .*?\.(?=\s|$)")  # what a docstring says to those who write it
Words = Mapping[str, Callable[[], Iterable[str]]]  # by name of a parameter
Bounds = Mapping[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        function: MODULE:NAME of what it calls.
        example: a command or several, with `; ` between.
        like: another function, whose docstring is asked where the own one says nothing.
        flags: by name of a parameter what it is called on the command line: `--flag`, or the word for an argument.
        many: arguments that may be given more than once.
        required, optional: parameters that must be given, or need not, unlike in Python.
        hidden: parameters that are only for Python.
        more: parameters from elsewhere, such as the fields of a config.
        opens: parameters that say what is opened, which takes seconds and is said first.
        json: whether `--json` prints the result for programs; a parameter `progress` is then False.
        call: what is done with the function and what was given.
        show: says the result; what it returns is the exit code.
    """

    function: str
    example: str
    like: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    many: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    more: Callable[[], list[Parameter]] = list
    opens: tuple[str, ...] = ()
    json: bool = True
    call: Callable[[Callable[..., Any], dict[str, Any]], Any] = lambda function, given: function(**given)
    show: Callable[[Any, bool, dict[str, Any]], int | None] | None = None

    @property
    def home(self) -> tuple[str, str]:
        """Module and name of the function."""
        module, _, name = self.function.partition(":")
        return module, name


class LegibleCommand(TyperCommand):
    """A command whose help is legible on black and on white."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        legible()
        super().format_help(ctx, formatter)


def legible() -> None:
    """Make typer's help legible on black and on white."""
    from typer import rich_utils

    for name, style in _STYLES.items():
        setattr(rich_utils, f"STYLE_{name}", style)


def command(name: str, verb: Verb, choices: Words, suggestions: Words, bounds: Bounds) -> Any:
    """The verb for typer.

    Args:
        choices: what a parameter may be.
        suggestions: what the shell offers for one that may be something else too.
        bounds: least and greatest number that it may be.
    """
    about, parts = static.signature(*verb.home)
    taken = {part.name for part in (*parts, *verb.more())}
    found = static.definition(*verb.home)
    module = found[0] if found else verb.home[0]  # where it is defined: what names in its annotations mean
    options = [_option(part, verb, module, choices, suggestions, bounds) for part in _shown(verb, parts)]
    if verb.json:
        told = typer.Option("--json", help="Print JSON for programs, and nothing else.")
        options.append(_parameter("json_", Annotated[bool, told], False))

    def run(**given: Any) -> None:
        as_json = given.pop("json_", False)
        given = {key: value for key, value in given.items() if value is not None and value != []}
        if "limits" in taken and (own := {key: given.pop(key) for key in _limits() if key in given}):
            given["limits"] = importlib.import_module("dualtoken.images").ImageLimits(**own)
        called = dict(given) | ({"progress": not as_json} if "progress" in taken else {})

        def function(**own: Any) -> Any:
            if not as_json:
                opening(own.get(name) for name in verb.opens)
            module, name = verb.home
            return getattr(importlib.import_module(module), name)(**own)

        try:
            result = verb.call(function, called)
        except Terminated as stop:  # typer knows Ctrl-C alone
            raise typer.Exit(TERMINATED) from stop
        if speaks() and (code := (verb.show or show)(result, as_json, given)):
            raise typer.Exit(code)

    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {part.name: part.annotation for part in options}
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    examples = "\n\n".join(f"Example: {example}" for example in verb.example.split("; "))
    names = {"help_option_names": ["-h", "--help"]}
    app.command(name, cls=LegibleCommand, help=about, epilog=examples, context_settings=names)(run)
    return typer.main.get_command(app)


def opening(what: Iterable[Any]) -> None:
    """Say what is being opened, so that nobody waits before an empty screen."""
    names = [str(one) for each in what if each for one in (each if isinstance(each, list) else [each])]
    if names:
        typer.echo(f"Opening  {', '.join(dict.fromkeys(names))} ...", err=True)


def tell(error: str, *, bold: bool = False) -> None:
    """Say on stderr what went wrong: in red on a terminal, unless NO_COLOR is set (no-color.org)."""
    typer.secho(error, fg="red", bold=bold, err=True, color=False if os.environ.get("NO_COLOR") else None)


def ended(done: int, failed: int) -> int:
    """The exit code: that nothing was done is the user's mistake."""
    return DONE if not failed else WITH_FAILURES if done else USER_MISTAKE


def show(result: Any, as_json: bool, given: Mapping[str, Any]) -> int | None:
    """Print a result: as JSON, or in words; a number is an exit code."""
    if isinstance(result, int):
        return result
    if as_json:
        print_json(result.to_dict())
    elif result is not None:
        typer.echo(result.summary())
    return None


def print_json(content: Any) -> None:
    """For programs."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _shown(verb: Verb, parts: Iterable[Parameter]) -> Iterator[Parameter]:
    """What a user may give, with the words of `like` where a function has none of its own."""
    known: dict[str, str] = {}
    if verb.like:
        module, _, name = verb.like.partition(":")
        known = {part.name: part.about for part in static.signature(module, name)[1]}
    for part in (*parts, *verb.more()):
        if part.name == "limits":
            yield from _limits().values()
        elif part.name not in (*verb.hidden, "progress"):
            default = None if part.name in verb.required else "None" if part.name in verb.optional else part.default
            told = "" if part.about.startswith("as for") else part.about
            yield replace(part, default=default, about=told or known.get(part.name, ""))


def _limits() -> dict[str, Parameter]:
    return {part.name: part for part in static.signature("dualtoken.images", "ImageLimits")[1]}


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(
    part: Parameter, verb: Verb, module: str, choices: Words, suggestions: Words, bounds: Bounds
) -> inspect.Parameter:
    """A function's parameter as typer's, an option or an argument."""
    words = list(choices[part.name]()) if part.name in choices else literals(part, module)
    flag = f"--{part.name.replace('_', '-')}" if part.keyword or part.name == "output" else part.name.upper()
    name = verb.flags.get(part.name, flag)
    kind, how = _kind(part, name, module, words, part.name in verb.many)
    if kind in (int, float) and part.name in bounds:
        how["min"], how["max"] = bounds[part.name]
    if part.name in suggestions:
        how["autocompletion"] = suggestions[part.name]
    about = _PYTHON.sub("", part.about)
    about = about[:1].upper() + about[1:] + ("" if about.endswith(".") else ".")
    if words and "parser" in how:
        about += f" One of: {', '.join(words)}."
    default: Any = inspect.Parameter.empty if part.default is None else False if kind is bool else None
    annotation: Any = kind if part.default is None else kind | None
    if name.startswith("-"):
        told = "" if kind is bool else _default(part, module)
        info = typer.Option(name, help=f"{about} {told}".rstrip(), show_default=False, **how)
    else:
        info = typer.Argument(help=about, show_default=False, **how | {"metavar": name})
    return _parameter(part.name, Annotated[annotation, info], default)


def _default(part: Parameter, module: str) -> str:
    """A default as people would type it; nothing where None says that something is decided later."""
    text = part.default or "None"
    if text.isidentifier() and text not in ("None", "True", "False"):
        constant = static.value(module, text)
        text = "None" if constant is None else ast.unparse(constant)
    node = ast.parse(text, mode="eval").body
    node = node.args[0] if isinstance(node, ast.Call) and node.args else node  # Path("runs")
    try:
        value = eval(ast.unparse(node), {"__builtins__": {}})  # a literal of our source, or such as 256 * 2**20
    except NameError:
        return f"Default: {text}."
    if value is None or value == {}:
        return ""
    return f"Default: {','.join(map(str, value)) if isinstance(value, tuple | list) else value}."


# ---------------------------------------------------------------- types


def _kind(part: Parameter, flag: str, module: str, words: list[str], many: bool) -> tuple[Any, dict[str, Any]]:
    """What typer reads for an annotation, and how; messages name the flag."""
    parts = {ast.unparse(piece) for piece in _union(part.annotation, module)} - {"None"}
    bases = {text.partition("[")[0] for text in parts}
    if "bool" in bases:
        return bool, {}
    if "tuple" in bases:
        how = {"parser": _size, "metavar": "N|HxW"} if "int" in str(parts) else {"parser": _pair, "metavar": "X,Y"}
        return str, how
    if many or bases & {"Sequence", "list"}:
        if many or len(bases) > 1 or not part.keyword:
            return list[str], {}
        return str, _listed(flag, int if "int" in str(parts) else str, words)
    if words:
        return str, _named(flag, words)
    return next((kind for name, kind in {"int": int, "float": float, "Path": Path}.items() if bases == {name}), str), {}


def literals(part: Parameter, module: str) -> list[str]:
    """What a `Literal` may be; nothing where there is none."""
    literals = [
        ast.literal_eval(piece.slice)
        for piece in _union(part.annotation, module)
        if isinstance(piece, ast.Subscript) and ast.unparse(piece.value) == "Literal"
    ]
    return [word for words in literals for word in (words if isinstance(words, tuple) else (words,))]


def _union(annotation: ast.expr, module: str) -> list[ast.expr]:
    """The parts of `A | B`, aliases of the module opened."""
    if isinstance(annotation, ast.BinOp):
        return [*_union(annotation.left, module), *_union(annotation.right, module)]
    if isinstance(annotation, ast.Name) and annotation.id not in ("str", "int", "float", "bool", "Path", "Any"):
        alias = static.value(module, annotation.id)
        return [annotation] if alias is None else _union(alias, module)
    return [annotation]


def _named(flag: str, words: list[str]) -> dict[str, Any]:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ConfigError(f"{flag}: {unknown_name('name', text, words)}")
        return text

    return {"parser": parse, "metavar": "NAME", "autocompletion": lambda: words}


def _listed(flag: str, kind: type, words: Sequence[str] = ()) -> dict[str, Any]:
    """Words or whole numbers with commas between."""

    def parse(text: str) -> list[Any]:
        try:
            return [kind(word.strip()) for word in text.split(",") if word.strip()]
        except ValueError:
            raise ConfigError(f"{flag} is {text!r}, expected whole numbers with commas between, such as 1,8.") from None

    return {"parser": parse, "metavar": "N,..." if kind is int else "NAME,...", "autocompletion": lambda: list(words)}


def _size(text: str) -> Any:
    """`N` or `HxW`"""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ConfigError(
            f"The size is {text!r}, expected a number of pixels, or height x width.", "Type: 320, or 192x256."
        )
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _pair(text: str) -> tuple[float, float]:
    """`X,Y`"""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"The place is {text!r}, expected two numbers with a comma between, such as 120,80."
        ) from None
    return x, y
