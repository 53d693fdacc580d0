"""Every script in examples/ runs as its docstring says."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str) -> None:
    sys.argv = [name, *arguments]
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture(autouse=True)
def _arguments_come_back(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_pyramid(capsys):
    run("pyramid.py")
    assert "stride 16:  96 channels, (20, 30)" in capsys.readouterr().out


@pytest.mark.slow
def test_start_to_end(tmp_path, capsys):
    pytest.importorskip("sklearn")
    run("start_to_end.py", str(tmp_path), "smoke")
    out = capsys.readouterr().out
    assert "Parity passed" in out
    assert " shows a " in out


def test_each_example_has_a_test():
    tests = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in tests for path in EXAMPLES.glob("*.py"))
