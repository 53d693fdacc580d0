"""What a function or class takes, read from its source: nothing is imported, so that answers come at once.

The command line shows options of functions that need torch, and settings are judged before torch is loaded.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

Definition = ast.FunctionDef | ast.ClassDef


def definition(module: str, name: str) -> Definition | None:
    """Where `name` of a module is defined; names that a module has from another one are followed there.

    Args:
        module: with dots, such as `dualtoken.evaluation`; of its packages only the files are looked at.

    Returns:
        The function or class, or None where no source has it.
    """
    path = source(module)
    if path is None:
        return None
    for node in ast.walk(parsed(path)):
        if isinstance(node, Definition) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module != module:
                    return definition(node.module, alias.name)
    return None


def parameters(module: str, name: str) -> list[str]:
    """Names that a function, or the making of a class, takes; none where there is no source of it."""
    node = definition(module, name)
    if isinstance(node, ast.ClassDef):
        node = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    if not isinstance(node, ast.FunctionDef):
        return []
    every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [part.arg for part in every if part.arg not in ("self", "cls")]


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
