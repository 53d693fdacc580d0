import errno

import pytest

from dualtoken.errors import OutputError
from dualtoken.files import atomic_path, refuse_existing, refuse_others, writable_folder, write_json, write_text


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
