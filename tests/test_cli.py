"""The command line as a user meets it: names, help, mistakes, exit codes."""

import os
import subprocess
import sys

import pytest

VERBS = [
    "train",
    "evaluate",
    "compare",
    "predict",
    "convert",
    "export",
    "verify",
    "quantize",
    "benchmark",
    "runtime-bundle",
    "push",
    "models",
    "demo",
]


def dualtoken(*arguments: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "dualtoken.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


def test_help_lists_every_verb():
    shown = dualtoken("--help")
    assert shown.returncode == 0
    for verb in VERBS:
        assert f" {verb} " in shown.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example(verb):
    shown = dualtoken(verb, "--help")
    assert shown.returncode == 0
    assert f"Example: dualtoken {verb}" in shown.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['dualtoken', 'train', '--help']\n"
        "from dualtoken.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'timm', 'numpy', 'PIL', 'matplotlib') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "data", "--epoch", "3"], "--epochs"),
        (["train", "data", "--output", "out", "--set", "epoch=3"], "Did you mean 'epochs'"),
        (["train", "data", "--output", "out", "--set", "epochs"], "expected KEY=VALUE"),
        (["train", "data", "--output", "out", "--set", "hflip=2"], "hflip is 2"),
        (["train", "data", "--output", "out", "--recipe", "smal"], "Did you mean 'small'"),
        (["train", "data"], "--output is missing"),
        (["train", "no/such/folder", "--output", "out"], "no/such/folder"),
        (["evaluate", "no-model", "data"], "There is no model folder 'no-model'"),
        (["predict", "no-model", "photo.jpg"], "There is no model folder 'no-model'"),
    ],
)
def test_mistakes_end_with_2_and_teach(arguments, said, tmp_path):
    shown = dualtoken(*arguments, cwd=tmp_path)
    assert shown.returncode == 2, shown.stderr
    assert said in " ".join(shown.stderr.split())
    assert "Traceback" not in shown.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_mistyped_model_is_found_before_any_work(make_image_folder, tmp_path):
    data = make_image_folder(classes=("a", "b"), per_class=4)
    shown = dualtoken("train", str(data), "--output", str(tmp_path / "run"), "--model", "dualtoken_vit_x")
    assert shown.returncode == 2
    assert "Did you mean 'dualtoken_vit_" in shown.stderr


def test_debug_shows_the_traceback(tmp_path):
    shown = dualtoken("evaluate", "no-model", "data", "--debug", cwd=tmp_path)
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr


def test_models_as_json():
    import json

    rows = json.loads(dualtoken("models", "--json").stdout)
    assert {row["model"] for row in rows} >= {"dualtoken_vit_t_mix", "lightvit_b"}
    assert rows[1]["gmacs"] == pytest.approx(0.497, abs=0.01)
