import pytest

from dualtoken import errors


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("epoch", "epochs"),
        ("EPOCHS", "epochs"),
        ("eopchs", "epochs"),
        ("sed", "seed"),
        ("zzzzz", None),
        ("speech", None),
    ],
)
def test_nearest(word, expected):
    assert errors.nearest(word, ["epochs", "seed"]) == expected


def test_unknown_name_suggests_or_lists():
    assert "Did you mean 'seed'" in errors.unknown_name("key", "seeed", ["epochs", "seed"])
    assert "Known: epochs, seed." in errors.unknown_name("key", "zzzz", ["epochs", "seed"])


@pytest.mark.parametrize(
    ("word", "choice"), [("foo", "folders"), ("car", "cat"), ("horse", "person"), ("duck", "truck")]
)
def test_another_word_is_no_mistyped_one(word, choice):
    assert errors.nearest(word, [choice, "seed"]) is None


def test_a_long_list_of_names_is_cut():
    text = errors.unknown_name("class", "zzz", [f"name_{number}" for number in range(1000)])
    assert text.endswith("name_29 and 970 more.")


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
