import errno
import json
import subprocess
import sys

import pytest

from dualtoken.errors import OutputError
from dualtoken.files import (
    alone,
    atomic_path,
    explained_place,
    refuse_existing,
    refuse_others,
    writable_folder,
    write_json,
    write_text,
)


def test_written_whole(tmp_path):
    target = tmp_path / "deep" / "er" / "a.json"
    write_json(target, {"ä": [1, 2]})
    assert '"ä"' in target.read_text(encoding="utf-8")
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "no space is left"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")]
)
def test_system_errors_are_explained(tmp_path, number, reason):
    with pytest.raises(OutputError, match=reason), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(number, "as the system says it")
    assert not list(tmp_path.iterdir())


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_writable_folder(tmp_path):
    folder = writable_folder(tmp_path / "new")
    assert folder.is_dir()
    assert not list(folder.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        writable_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        writable_folder(tmp_path / "file" / "below")


def test_what_is_there_is_not_written_over(tmp_path):
    refuse_existing(tmp_path / "new", "--output")
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", "--output")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    for path in (tmp_path / "full", tmp_path / "full" / "a.txt"):
        with pytest.raises(OutputError, match=f"--output is '{path}'"):
            refuse_existing(path, "--output")


def test_only_files_of_our_own_are_renewed(tmp_path):
    refuse_others(tmp_path / "new", {"report.html"}, "--output")
    (tmp_path / "report.html").write_text("old")
    refuse_others(tmp_path, {"report.html"}, "--output")
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(OutputError, match=r"photo\.jpg"):
        refuse_others(tmp_path, {"report.html"}, "--output")


# ---------------------------------------------------------------- one writer a place


HOLDER = """
import sys
from dualtoken.files import alone
with alone(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(place) -> subprocess.Popen:
    """Another process that holds `place` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_writer_is_refused_by_name_and_the_third_is_let_in(tmp_path):
    with holding(tmp_path / "run") as first:
        said = rf"being written by process {first.pid} on .*, since"
        with pytest.raises(OutputError, match=said), alone(tmp_path / "run"):
            pass
        with alone(tmp_path / "other"):  # each place has its own
            pass
        first.stdin.close()
    with alone(tmp_path / "run"):
        assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_writer_is_stale(tmp_path):
    with holding(tmp_path / "a.csv") as first:
        first.kill()
        first.stdin.close()
        first.wait()
    assert (tmp_path / ".a.csv.lock").exists()
    with alone(tmp_path / "a.csv"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_of_another_machine_is_not_taken(tmp_path):
    (tmp_path / ".run.lock").write_text(json.dumps({"host": "elsewhere", "process": 7, "since": "yesterday"}))
    with (
        pytest.raises(OutputError, match=r"process 7 on elsewhere.*\n.*remove '.*\.run\.lock'"),
        alone(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / ".run.lock").exists()


def test_other_ranks_share_the_lock(tmp_path, monkeypatch):
    with alone(tmp_path / "run"):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with alone(tmp_path / "run"):
            pass
        assert (tmp_path / ".run.lock").exists()


def test_what_a_killed_writer_left_is_removed(tmp_path):
    run = tmp_path / "run"
    (run / "last").mkdir(parents=True)
    left = [".config.0a1b2c3d.json", "last/.state.01234567.safetensors", "last/.tmpAb3xYz", ".probe-00ff00ff"]
    kept = ["config.json", "last/state.safetensors", ".notes", ".hidden.txt"]
    for name in left + kept:
        (run / name).write_text(name)
    (tmp_path / ".answers.0a1b2c3d.csv").write_text("")
    (tmp_path / ".others.0a1b2c3d.csv").write_text("")
    for name in (".answers.csv.0a1b2c3d", ".run.0a1b2c3d", ".answers.csv.mine"):
        (tmp_path / name / "below").mkdir(parents=True)
    with alone(run), alone(tmp_path / "answers.csv"):
        assert sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()) == sorted(kept)
    assert {path.name for path in tmp_path.iterdir()} == {"run", ".others.0a1b2c3d.csv", ".answers.csv.mine"}


def test_our_own_temporary_names_are_known(tmp_path):
    with atomic_path(tmp_path / "run" / "a b.c.tar.gz") as temporary:
        temporary.write_text("")
        with alone(tmp_path / "run"):
            assert not temporary.exists()
        temporary.write_text("")


def test_places_that_are_something_else_are_explained(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "in").mkdir(parents=True)
    with pytest.raises(OutputError, match="a file"):
        write_text(tmp_path / "file" / "a.txt", "a")
    with pytest.raises(OutputError, match="a folder is there"):
        write_text(tmp_path / "folder", "a")
    with pytest.raises(OutputError, match="no space is left"), explained_place(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ConnectionError), explained_place(tmp_path):
        raise ConnectionError
