"""The command line as a user meets it: names, help, mistakes, exit codes."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from dualtoken.cli import BOUNDS, CHOICES, SUGGESTIONS, VERBS
from dualtoken.errors import Terminated, UserError
from dualtoken.options import command


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


@pytest.mark.parametrize(
    ("typed", "heavy"),
    [
        ("--help", "torch timm matplotlib pydantic numpy PIL"),
        ("train --help", "torch timm matplotlib"),  # names come from the rooms that know them
        ("export --help", "torch timm matplotlib"),
    ],
)
def test_help_imports_nothing_heavy(typed, heavy):
    code = (
        f"import sys; sys.argv = {['dualtoken', *typed.split()]}\n"
        "from dualtoken.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy.split()} if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("[]\n")


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_stop_has_its_own_exit_code(stop, code, monkeypatch, tmp_path):
    def stopped(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr("dualtoken.training.reproduce.reproduce", stopped)
    verb = command("reproduce", VERBS["reproduce"], CHOICES, SUGGESTIONS, BOUNDS)
    with pytest.raises(SystemExit) as ended:
        verb.main(["run", "data", "--output", str(tmp_path)], standalone_mode=True)
    assert ended.value.code == code


def test_nothing_in_the_working_folder_is_imported_unless_it_is_asked_for(tmp_path):
    (tmp_path / "torch.py").write_text("print('from here')")
    code = (
        "import sys, dualtoken.cli as cli\n"
        "cli.app = lambda _: __import__('torch')\n"
        "sys.path.remove('')\n"  # of `python -c`
        "cli.main()"
    )
    for more, said in (((), ""), (("--plugin", "torch"), "from here\n")):
        shown = subprocess.run(
            [sys.executable, "-c", code, *more], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert shown.stdout == said


def test_sigterm_ends_any_verb_as_ctrl_c_does():
    code = (
        "import os, signal, tempfile, dualtoken.cli as cli\n"
        "def verb(_):\n"
        "    with tempfile.TemporaryDirectory() as place:\n"
        "        print(place, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "cli.app = verb\n"
        "cli.main()"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (143, "")
    assert not Path(shown.stdout.strip()).exists()


def test_without_a_command_it_says_what_to_do_first():
    shown = dualtoken()
    assert shown.returncode == 0
    for line in ("dualtoken predict photo.jpg", "dualtoken train photos/ --output runs/photos", "dualtoken --help"):
        assert line in shown.stdout


def test_every_option_is_explained():
    for name, verb in VERBS.items():
        for option in command(name, verb, CHOICES, SUGGESTIONS, BOUNDS).params:
            assert len(option.help or "") > 4, f"{name}: {option.name}"


def test_the_shell_completes_verbs_options_and_names():
    def offered(words: str) -> str:
        asked = {"_DUALTOKEN_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
        code = "import sys; sys.argv = ['dualtoken']; from dualtoken.cli import main; main()"
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | asked
        )
        return run.stdout

    assert "evaluate" in offered("dualtoken eva")
    assert "--batch-size" in offered("dualtoken evaluate --batch")
    assert "openvino" in offered("dualtoken export runs/a --format open")
    assert "dualtoken_vit_s_mix" in offered("dualtoken train photos --model dualtoken_vit_s")


def test_a_plugin_is_there_in_every_verb(tmp_path):
    (tmp_path / "invented.py").write_text(
        "from dualtoken.engines import ENGINES, EngineKind\n"
        "ENGINES['invented_engine'] = EngineKind(('.inv',), package='json', extra='', open=print)\n"
    )
    plain, with_it = dualtoken("verify", "--help"), dualtoken("verify", "--help", "--plugin", "invented", cwd=tmp_path)
    assert "invented_engine" not in plain.stdout
    assert "invented_engine" in with_it.stdout
    missing = dualtoken("verify", "--help", "--plugin", "invented_not")
    assert missing.returncode == 2
    assert "not a module that can be imported" in missing.stderr


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
        (["train", "data", "--output", "out", "--head", "fcoss"], "Did you mean 'fcos'"),
        (["train", "data", "--output", "out", "--batch-size", "many"], "Invalid value for '--batch-size'"),
        (["evaluate", "model", "data", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["export", "model", "--format", "onx"], "Did you mean 'onnx'"),
        (["export", "model", "--image-size", "12by4"], "expected a number of pixels, or height x width"),
        (["explain", "model", "a.png", "--output", "out", "--pixel", "12"], "expected two numbers with a comma"),
        (["benchmark", "a", "--batch", "one"], "expected whole numbers with commas between"),
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


@pytest.mark.parametrize("verb", ["app", "serve", "evaluate", "predict"])
def test_what_is_opened_is_said_at_once(verb, monkeypatch, capsys, tmp_path):
    def started(*_: object, **__: object) -> None:
        raise UserError(f"after {capsys.readouterr().err}")

    module, function = ("dualtoken.prediction", "load") if verb == "predict" else VERBS[verb].home
    monkeypatch.setattr(f"{module}.{function}", started)
    (opened := tmp_path / "photos.onnx").touch()
    more = {"evaluate": ["photos"], "predict": ["a.jpg"]}
    told = command(verb, VERBS[verb], CHOICES, SUGGESTIONS, BOUNDS)
    with pytest.raises(UserError, match=rf"^after Opening  {opened}.* \.\.\.\n$"):
        told.main([str(opened), *more.get(verb, [])], standalone_mode=False)


def test_json_is_without_it(monkeypatch, capsys):
    monkeypatch.setattr("dualtoken.evaluation.evaluate", lambda *_, **__: 0)
    command("evaluate", VERBS["evaluate"], CHOICES, SUGGESTIONS, BOUNDS).main(
        ["a", "b", "--json"], standalone_mode=False
    )
    assert capsys.readouterr() == ("", "")


def on_a_terminal(*arguments: str, **more: str) -> str:
    """What a terminal is sent."""
    pty = pytest.importorskip("pty")
    screen, inside = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | more
    typed = [sys.executable, "-m", "dualtoken.cli", *arguments]
    with subprocess.Popen(typed, stdout=inside, stderr=inside, env=environment):
        os.close(inside)
        shown = b""
        with suppress(OSError):  # how Linux says that nobody writes any more
            while part := os.read(screen, 10_000):
                shown += part
    os.close(screen)
    return shown.decode()


@pytest.mark.parametrize(("more", "red"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["plain", "NO_COLOR"])
def test_a_mistake_is_red_where_colours_are_wanted(more, red):
    shown = on_a_terminal("evaluate", "no-model", "data", **more)
    assert "There is no model folder" in shown
    assert ("\x1b[31m" in shown) == red


@pytest.mark.parametrize("verb", [[], ["export"]])
def test_help_has_no_colour_that_white_swallows(verb):
    codes = {
        code for codes in re.findall(r"\x1b\[([0-9;]*)m", on_a_terminal(*verb, "--help")) for code in codes.split(";")
    }
    assert codes & {"1", "2"}
    assert codes <= {"0", "1", "2", "31"}


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
