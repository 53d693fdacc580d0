"""Commands and code of the documents: each is spelled rightly, and runs in a world of small files (slow)."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from document_world import PROGRAMS_NOT_RUN, make_world
from dualtoken import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EVERYWHERE = {"--debug", "--plugin", "--help", "-h", "--install-completion", "--show-completion"}
# Blocks that are shown, not typed: the first word of what they show.
SHOWN = ("1 image or label", "words, errors", "Wrote ", "photos/\n", "Images  ", "Train on")
BASH = shutil.which("bash")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    fences = re.findall(r"^```(.*)\n((?:.*\n)*?)```", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [block for name, block in fences if name == language and not block.startswith(SHOWN)]


def commands(page: Path) -> Iterator[str]:
    """Every command of ours on a page, in blocks and in lines, a synopsis over several lines as one."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page, ""):
        for line in re.sub(r"\\?\n +", " ", block).splitlines():
            yield from (part.strip() for part in re.split(r"&&|(?<!\w)\|(?!\w)", line) if "dualtoken " in part)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", text):
        if re.match(r"dualtoken\s+[a-z-]", span):
            yield " ".join(span.partition("&&")[0].split())


SPELLED = [(page, command) for page in PAGES for command in dict.fromkeys(commands(page))]


@pytest.mark.parametrize(("page", "command"), SPELLED, ids=lambda part: part if isinstance(part, str) else part.name)
def test_a_command_is_spelled_rightly(page, command):
    synopsis = re.sub(r"[\[\]|]", " ", re.sub(r"=\[.*?\]", "", command))
    words = shlex.split(synopsis[synopsis.index("dualtoken") :], comments=True)
    verb = next((word for word in words[1:] if word in cli.VERBS), None)
    flags = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    if verb is None:
        assert flags, f"{page.name}: no verb in {command!r}"
        assert flags <= EVERYWHERE
        return
    assert flags <= options(verb) | EVERYWHERE, f"{page.name}: {command!r}"


@cache
def options(verb: str) -> set[str]:
    return {name for part in get_command(cli.app).commands.get(verb).params for name in part.opts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_hold_programs_that_are_known(page):
    known = {"dualtoken", "find", "cat", ".", "OMP_NUM_THREADS=1", *PROGRAMS_NOT_RUN}
    for block in blocks(page, ""):
        for line in re.sub(r"\\?\n +", " ", block).splitlines():
            firsts = {part.split()[0] for part in re.split(r"&&|\|(?!\w)", line.partition("#")[0]) if part.strip()}
            if "[" not in line:
                assert firsts <= known, f"{page.name}: {line}"


# ---------------------------------------------------------------- run


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("world") / "here")


@pytest.fixture
def here(world, tmp_path) -> Iterator[Path]:
    """A copy of the world, for one page."""
    yield shutil.copytree(world, tmp_path / "here", symlinks=True)
    shutil.rmtree(tmp_path / "here")  # a page's trainings leave a gigabyte


RUN = [page for page in PAGES if page.parent.name != "verbs"]
# Names that a page leaves to its reader; a place that is not there; what only a machine with a service can do.
GIVEN = """
import numpy as np, torch
from PIL import Image
pil_image, array, tensor = Image.new("RGB", (64, 48)), np.zeros((48, 64, 3), np.uint8), torch.zeros(3, 48, 64)
class MyEngine: pass
"""
# What stands for Hugging Face's Hub.
HUB = """
import datasets
def load_dataset(name, streaming=False):
    saved = datasets.load_from_disk("saved")
    parts = {split: part.to_iterable_dataset() for split, part in saved.items()}
    return datasets.IterableDatasetDict(parts) if streaming else saved
datasets.load_dataset = load_dataset
"""
NEEDS_MORE = ("hf-hub:", "push_to_hub(", "tritonclient", "dualtoken.benchmark(", "lab.study", "predictions/predictions")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page, here, monkeypatch):
    prepare(page, here)
    for block in blocks(page, ""):
        if "[--" in block:
            continue  # a synopsis
        done = subprocess.run(
            [BASH, "-euc", block], cwd=here, capture_output=True, text=True, check=False,
            env=os.environ | {"PATH": f"{here / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT / 'src'}:{here}"},
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUN if blocks(page, "python")], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, here):
    code = [block for block in blocks(page, "python") if not any(word in block for word in NEEDS_MORE)]
    for path in here.glob("photos.onnx*"):
        path.unlink()
    given = GIVEN + (HUB if "load_dataset" in "".join(code) else "")
    done = subprocess.run(
        [sys.executable, "-c", given + "\n".join(code)], cwd=here, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def prepare(page: Path, here: Path) -> None:
    """What one page alone takes for granted."""
    if page.name == "extending.md":
        (here / "mine.py").write_text(blocks(page, "python")[0])
    if page.name == "train.md":
        names = sorted(path.relative_to(here / "photos").as_posix() for path in (here / "photos").rglob("*.jpg"))
        rows = [f"{name},{('cat', 'cat;dog', 'dog')[number % 3]}" for number, name in enumerate(names)]
        (here / "photos" / "labels.csv").write_text("\n".join(["path,labels", *rows]))
