"""What a function or class takes, read from its source: nothing is imported, so that answers come at once.

The command line shows options of functions that need torch, and settings are judged before torch is loaded.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Parameter:
    """One thing that a function takes, or one field of a class.

    Attributes:
        annotation: its type; names in it are those of the module.
        default: source text of the default; None where it must be given.
        keyword: whether it is given by name alone.
        about: what its docstring says of it, on one line.
    """

    name: str
    annotation: ast.expr
    default: str | None
    keyword: bool
    about: str


def signature(module: str, name: str) -> tuple[str, list[Parameter]]:
    """The first paragraph of a function's or class's docstring, and what it takes; `*args` and `**kwargs` left out.

    Args:
        module: with dots, such as `dualtoken.evaluation`; a name that it has from another module is followed there.

    Raises:
        LookupError: there is no source of it.
    """
    found = definition(module, name)
    if found is None:
        raise LookupError(f"{module} has no source of {name}.")
    node, text = found[1], ast.get_docstring(found[1]) or ""
    about = _about(text)
    first = " ".join(text.partition("\n\n")[0].split())
    if isinstance(node, ast.ClassDef):
        return first, _fields(node, about)
    args, given = node.args, node.args.defaults
    ordered = [*args.posonlyargs, *args.args]
    defaults = [*[None] * (len(ordered) - len(given)), *given, *args.kw_defaults]
    return first, [
        Parameter(part.arg, part.annotation or ast.Name("str"), None if default is None else ast.unparse(default),
                  part in args.kwonlyargs, about.get(part.arg, ""))
        for part, default in zip([*ordered, *args.kwonlyargs], defaults, strict=True)
        if part.arg not in ("self", "cls")
    ]  # fmt: skip


def _fields(node: ast.ClassDef, about: dict[str, str]) -> list[Parameter]:
    """Annotated names in the body of a class; what stands as a text below one is said of it."""
    found = []
    for part, below in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            name, said = part.target.id, ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                said = str(below.value.value)
            default = None if part.value is None else ast.unparse(part.value)
            found.append(Parameter(name, part.annotation, default, True, said or about.get(name, "")))
    return found


def _about(docstring: str) -> dict[str, str]:
    """`Args:` and `Attributes:` of a docstring, by name."""
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.findall(r"^    (\S[^:]*): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name.strip("* "): " ".join(text.split()) for names, text in entries for name in names.split(",")}


def expression(text: str) -> ast.expr:
    """An annotation from its text."""
    return ast.parse(text, mode="eval").body


def parameters(module: str, name: str) -> list[str]:
    """Names that a function, or the making of a class, takes; none where there is no source of it."""
    found = definition(module, name)
    node: ast.AST | None = found and found[1]
    if isinstance(node, ast.ClassDef):
        node = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    if not isinstance(node, ast.FunctionDef):
        return []
    every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [part.arg for part in every if part.arg not in ("self", "cls")]


def value(module: str, name: str) -> ast.expr | None:
    """What a module, or the one that it has the name from, gives a name at its top."""
    home = _home(module, name)
    for node in parsed(home[0]).body if home else ():
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if home and any(isinstance(target, ast.Name) and target.id == home[2] for target in targets):
                return node.value
    return None


def definition(module: str, name: str) -> tuple[str, Definition] | None:
    """The module where a function or class is defined, and its syntax tree; None where no source has it."""
    home = _home(module, name)
    if home is None:
        return None
    path, module, name = home
    found = (node for node in parsed(path).body if isinstance(node, Definition) and node.name == name)
    return next(((module, node) for node in found), None)


@cache
def _home(module: str, name: str) -> tuple[Path, str, str] | None:
    """File, module and own name of what a module calls `name`; imports are followed."""
    path = source(module)
    if path is None:
        return None
    for origin, names in _IMPORT.findall(path.read_text(encoding="utf-8")):
        for own, alias in re.findall(r"(\w+)(?: as (\w+))?", names):
            if (alias or own) == name and origin != module:
                return _home(origin, own)
    return path, module, name


_IMPORT = re.compile(r"^[ ]*from ([\w.]+) import (\([^)]*\)|[^\n(]*)", re.MULTILINE)


def summary(module: str, name: str) -> str:
    """The first paragraph of a function's docstring, found without looking at the rest of its file."""
    home = _home(module, name)
    text = home[0].read_text(encoding="utf-8") if home else ""
    found = re.search(rf'^def {home[2] if home else name}\(.*?"""(.*?)(?:\n\n|""")', text, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def source(module: str) -> Path | None:
    """The file of a module, found from where its outermost package lies."""
    package, *rest = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin)
    place = Path(spec.origin).parent.joinpath(*rest)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))
