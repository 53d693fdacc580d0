"""docs/verbs has a page a verb, with the options that `--help` shows. `python tests/test_verb_pages.py` writes them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from dualtoken import cli

PAGES = Path(__file__).parents[1] / "docs" / "verbs"
GUIDES = {
    "train": "train", "distill": "distill", "reproduce": "train", "throughput": "train",
    "verify-resume": "train",
    "evaluate": "evaluate", "compare": "evaluate",
    "predict": "predict", "explain": "explain", "app": "app", "serve": "serve", "convert": "data", "pack": "shards",
    "export": "export",
    "verify": "export", "quantize": "quantization", "benchmark": "benchmark", "study": "studies", "tables": "paper",
    "runtime-bundle": "runtime", "push": "hub", "models": "models", "convert-weights": "models", "demo": "quickstart",
}  # fmt: skip


def command(verb: str) -> Any:
    return get_command(cli.app).commands.get(verb)


def page(verb: str) -> str:
    """Its words, examples, guide and options."""
    found = command(verb)
    about = " ".join((found.help or "").split())
    examples = "\n".join(cli.VERBS[verb].example.split("; "))
    guide = (PAGES.parent / f"{GUIDES[verb]}.md").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    rows = "".join(_row(part) for part in found.params if part.name != "help")
    return f"# dualtoken {verb}\n\n{about}\n\n```\n{examples}\n```\n\nGuide: [{guide}](../{GUIDES[verb]}.md).\n" + (
        f"\n| option | what |\n| --- | --- |\n{rows}" if rows else ""
    )


def _row(part: Any) -> str:
    option = part.opts[-1].startswith("-")
    name = " ".join(filter(None, [part.opts[-1] if option else "", part.metavar]))
    about = " ".join((part.help or "").split()).replace("|", "\\|").replace("*", "\\*")
    needed = " Required." if option and part.required else ""
    return f"| `{name.replace('|', ' or ')}` | {about}{needed} |\n"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Of a process of its own: other tests add engines and formats, which the pages would name."""
    run = subprocess.run([sys.executable, __file__, "--json"], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(run.stdout)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_has_its_page(verb, pages):
    written = (PAGES / f"{verb}.md").read_text(encoding="utf-8")
    assert written == pages[verb], "Type: python tests/test_verb_pages.py"


def test_no_page_is_left_over():
    assert {path.stem for path in PAGES.glob("*.md")} == set(cli.VERBS)


if __name__ == "__main__":
    made = {name: page(name) for name in cli.VERBS}
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(made))
    else:
        PAGES.mkdir(exist_ok=True)
        for name, text in made.items():
            (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
