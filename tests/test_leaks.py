"""What a person sees of each heavy verb, in a process of its own: our lines, and no other library's (slow)."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import write_class_folders

pytestmark = pytest.mark.slow

MODEL = "dualtoken-vit-t-cifar10"
# How other libraries speak: their levels, and names that no line of ours has.
FOREIGN = re.compile(
    r"\b(?:INFO|WARNING|ERROR|DEBUG)\b|(?i:warn|traceback|deprecat|cuda|nncf|onnxscript|torch\.|opset|uvicorn|gradio|glog|"
    r"site-packages|huggingface)"
)
QUICK = "--epochs 1 --image-size 32 --batch-size 8 --workers 0 --device cpu"
HEAVY = [
    f"export {MODEL} --output model.onnx --images photos/val",
    "verify model.onnx " + MODEL,
    "quantize model.onnx photos --output int8.onnx --max-drop 99",
    "quantize model.onnx --output half.onnx --precision fp16",
    f"export {MODEL} --output model.xml --images photos/val",
    "quantize model.xml photos --output int8.xml --max-drop 99",
    f"export {MODEL} --output model.pt2 --images photos/val",
    "runtime-bundle model.onnx --output bundle",
    f"train photos --output run --recipe smoke {QUICK}",
    f"distill photos --teacher {MODEL} --output small --set held_out=4 {QUICK}",
    "evaluate run photos --output report",
    "compare run run photos",
    "predict run photos/val --sheet sheet.png --output found.csv",
    f"predict {MODEL} photos/val",
    "explain run photos/val/cat --output why",
    "benchmark run --engine eager,onnx --rounds 1 --size 32",
]
PRINTED = [
    "quantize model.onnx photos --output json.onnx --max-drop 99",
    "verify model.onnx " + MODEL,
    "evaluate run photos",
    "explain run photos/val/cat --output json",
]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("leaks")
    for split, first in (("train", 0), ("val", 12)):
        write_class_folders(root / "photos" / split, per_class=8, size=48, first=first)
    return root


def start(here: Path, typed: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"} | {"COLUMNS": "80"}
    return subprocess.Popen(
        [sys.executable, "-m", "dualtoken.cli", *typed.split()], cwd=here, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def foreign(text: str) -> list[str]:
    return [line for line in text.splitlines() if FOREIGN.search(line)]


def test_heavy_verbs_say_their_own_lines_alone(here):
    """One test, since a later command reads what an earlier one wrote."""
    for typed in HEAVY:
        run = start(here, typed)
        out, err = run.communicate(timeout=900)
        assert run.returncode == 0, f"{typed}\n{out}\n{err}"
        assert foreign(out + err) == [], typed
    for typed in PRINTED:
        run = start(here, f"{typed} --json")
        out, err = run.communicate(timeout=900)
        assert run.returncode == 0, f"{typed}\n{out}\n{err}"
        json.loads(out)
        assert foreign(err) == [], typed


@pytest.mark.parametrize("verb", ["app", "serve"])
def test_a_service_says_where_it_is_and_ends_in_silence(here, verb):
    run = start(here, f"{verb} {MODEL} --port 0")
    try:
        line = run.stdout.readline()
        assert line.startswith(f"Serving  {MODEL} at http://127.0.0.1:")
    finally:
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert foreign(out + err) == []
    assert run.returncode in (0, 130)
