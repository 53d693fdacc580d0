"""Imports run one way, as docs/design.md draws it."""

import ast
import re
from collections import Counter
from pathlib import Path

import dualtoken

ROOT = Path(dualtoken.__file__).parent
# Lowest first: a room may import from rooms above it in this list and from itself.
ORDER = [
    "words",
    "errors",
    "static",
    "registry",
    "files",
    "readers",
    "machine",
    "bands",
    "pixels",
    "wholeness",
    "images",
    "preprocess",
    "postprocess",
    "outputs",
    "engines",
    "decode",
    "backbone",
    "heads",
    "data",
    "report",
    "answers",
    "tasks",
    "model_schema",
    "model_folder",
    "hub",
    "processes",
    "prediction",
    "evaluation",
    "explanation",
    "recipes",
    "training",
    "export",
    "runtime",
    "service",
    "lab",
    "options",
    "verbs",
    "cli",
]
WITHOUT_TORCH = ORDER[: ORDER.index("backbone")]
ENGINES_OF_TORCH = ("engines/torch.py", "engines/executorch.py")  # which import it when they run, and not before

BY_STRING = re.compile(r"dualtoken(\.\w+)+(:\w+)?")  # as importlib, static and tables of verbs take them


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, of: str) -> set[str]:
    """Rooms that a file imports (of="dualtoken"), those by string too; or whether it imports `of` at all."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "dualtoken":
            names |= {dualtoken._HOMES.get(alias.name, f"dualtoken.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and BY_STRING.fullmatch(node.value):
            names.add(node.value.partition(":")[0])
    names = {name for name in names if name.split(".")[0] == of}
    return {name.split(".")[1] for name in names if "." in name} & set(ORDER) if of == "dualtoken" else names


def files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if room(path) not in ("__init__", "_timm_hook")]


def test_every_room_has_its_place():
    assert {room(path) for path in files()} == set(ORDER)


def test_imports_run_one_way():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files()
        for name in imports(path, of="dualtoken")
        if ORDER.index(name) > ORDER.index(room(path))
    ]
    assert not wrong


def test_what_is_private_stays_in_its_file():
    wrong = [
        f"{path.relative_to(ROOT)} imports {alias.name}"
        for path in files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dualtoken")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not wrong


def test_the_torch_free_part_is():
    wrong = [
        str(path.relative_to(ROOT))
        for path in files()
        if room(path) in WITHOUT_TORCH and (imports(path, of="torch") or imports(path, of="timm"))
        if path.relative_to(ROOT).as_posix() not in ENGINES_OF_TORCH
    ]
    assert not wrong


def test_no_folder_deeper_than_two():
    assert max(len(path.relative_to(ROOT).parts) for path in files()) <= 3


TASKS = ("classification", "detection", "instance_segmentation", "multilabel", "semantic_segmentation")
# Where a task may be named: its kind, itself, the labels it learns from, and plans and tables of the paper's own tasks.
NAMING = ("answers", "tasks", "data/finding.py", "lab/paper.py", "lab/study_plans.py")


def task_names(path: Path) -> list[int]:
    """Lines that compare, look up or set the name of a task as text."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        texts: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            texts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            texts = list(node.keys)
        elif isinstance(node, ast.Subscript):
            texts = [node.slice]
        elif isinstance(node, ast.keyword | ast.AnnAssign | ast.Assign):
            texts = [node.value]
        flat = [
            part for text in texts if text for part in ([text, *text.elts] if isinstance(text, ast.Tuple) else [text])
        ]
        lines += [part.lineno for part in flat if isinstance(part, ast.Constant) and part.value in TASKS]
    return lines


def test_nothing_asks_for_the_name_of_a_task():
    named = {
        str(path.relative_to(ROOT)): lines
        for path in files()
        if not str(path.relative_to(ROOT)).startswith(NAMING) and (lines := task_names(path))
    }
    assert not named


def test_files_of_tests_have_names_of_their_own():
    """Without packages pytest tells them apart by their names alone."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, times in names.items() if times > 1] == []
