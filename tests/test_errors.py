import pytest

from dualtoken import errors


@pytest.mark.parametrize(
    ("word", "expected"), [("epoch", "epochs"), ("EPOCHS", "epochs"), ("sed", "seed"), ("zzzzz", None)]
)
def test_nearest(word, expected):
    assert errors.nearest(word, ["epochs", "seed"]) == expected


def test_unknown_name_suggests_or_lists():
    assert "Did you mean 'seed'" in errors.unknown_name("key", "seeed", ["epochs", "seed"])
    assert "Known: epochs, seed" in errors.unknown_name("key", "zzzz", ["epochs", "seed"])


def test_missing_extra_says_what_to_type():
    with pytest.raises(errors.MissingExtraError) as error:
        errors.require("a_package_that_is_not_there", "demo")
    assert "pip install 'dualtoken[demo]'" in str(error.value)
    assert errors.require("json", "demo").dumps([]) == "[]"


def test_a_broken_dependency_of_an_extra_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import something_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_it_needs"):
        errors.require("half_installed", "demo")
