"""Each reader takes what is right, and answers what is hostile or absurd with one error that says where."""

import os

import pytest

from dualtoken.errors import DataError, ModelError, shown
from dualtoken.readers import csv_rows, decoded, name_lines, parse_json, parse_xml, parse_yaml, read_text

LAUGHS = "\n".join(
    ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
)  # 10^11 values
MERGES = "\n".join(
    ["a0: &a0 {k: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 9)]
)

BAD_JSON = {
    "cut off": ('{"a": [1, 2', "line 1"),
    "not its own line": ('{\n"a": ?}', "line 2"),
    "deep": ("[" * 100_000, "deeply"),
    "deep and whole": ("[" * 200 + "]" * 200, "deeply"),
    "endless digits": ("1" * 5_000, "digits"),
    "many digits": ("1" * 1_000, "999 digits"),
    "no number": ('{"a": NaN}', "NaN"),
    "half a pair": (r'{"a": "\ud800"}', "no Unicode"),
}
BAD_YAML = {
    "cut off": ("names: [a, b", "line"),
    "laughs": (LAUGHS, "stand for more"),
    "merged laughs": (MERGES, "stand for more"),
    "itself": ("a: &a [*a]", "holds itself"),
    "deep": ("[" * 1_000 + "]" * 1_000, "deeply"),
    "deep and open": ("[" * 50_000, "nest"),
    "endless digits": ("a: " + "1" * 5_000, "cannot be read"),
    "hex digits": ("a: 0x" + "f" * 5_000, "digits"),
    "base 60": ("a: 1" + ":1" * 200_000, "characters"),
    "a date that is none": ("a: 2001-99-99", "cannot be read"),
    "an empty number": ("a: !!int ''", "cannot be read"),
    "a call": ("a: !!python/object/apply:os.system ['touch marked']", "line 1"),
    "a key that is a list": ("{[a]: b, {c: d}: e}", "line 1"),
    "unknown alias": ("a: *b", "line 1"),
    "a control character": ("a: \x07", "YAML"),
}
BAD_CSV = {
    "a long field": ("path,label\na," + "b" * 200_000, "line 2"),
    "an open quote": ('path,label\n"a,b\nc,d\n', "line"),
}
BAD_XML = {
    "cut off": (b"<a><b>\n", "line 2"),
    "a bomb": (b'<!DOCTYPE a [<!ENTITY b "bb">]>\n<a>&b;</a>', "document type"),
    "another file": (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
    "deep": (b"<a>" * 100_000, "deeper"),
    "unknown encoding": (b'<?xml version="1.0" encoding="no-such"?><a/>', "encoding"),
    "nothing": (b"", "line 1"),
    "no XML": (b"\x89PNG", "line 1"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json(case):
    text, said = BAD_JSON[case]
    with pytest.raises(ModelError, match=said) as error:
        parse_json(text, "run/config.json", error=ModelError)
    assert "'run/config.json'" in error.value.message


@pytest.mark.parametrize("case", BAD_YAML)
def test_bad_yaml(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, said = BAD_YAML[case]
    with pytest.raises(DataError, match=said) as error:
        parse_yaml(text, "data.yaml")
    assert "'data.yaml'" in error.value.message
    assert not list(tmp_path.iterdir())


def test_good_json_and_yaml():
    value = {"names": ["cat", "Katze ü", "猫"], "nested": {"a": [[[1, 2.5, None, True]]]}}
    import json

    import yaml

    assert parse_json(json.dumps(value), "a.json") == value
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "a.yaml") == value
    assert parse_yaml("", "a.yaml") is None
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}\ne: [*x, *x]", "a.yaml")["c"] == {"b": 1, "d": 2}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv(case):
    text, said = BAD_CSV[case]
    with pytest.raises(DataError, match=f"'a.csv'.*{said}"):
        list(csv_rows(text, "a.csv"))


def test_good_csv():
    text = 'path,label\n"a, b.jpg", cat\n"two\nlines.jpg",dog\n'
    assert list(csv_rows(text, "a.csv")) == [
        (1, ["path", "label"]), (2, ["a, b.jpg", "cat"]), (4, ["two\nlines.jpg", "dog"]),
    ]  # fmt: skip


@pytest.mark.parametrize("case", BAD_XML)
def test_bad_xml(case):
    content, said = BAD_XML[case]
    with pytest.raises(DataError, match=said) as error:
        parse_xml(content, "1.xml")
    assert "'1.xml'" in error.value.message


def test_good_xml():
    root = parse_xml("<annotation>\n<object>\n <name> Käfer </name></object></annotation>".encode(), "1.xml")
    assert [(found.tag, found.line) for found in root.iter()] == [("annotation", 1), ("object", 2), ("name", 3)]
    assert root.said("object/name") == "Käfer"
    assert root.said("object/none") == ""


def test_lists_of_names():
    assert name_lines("cat\n\n dog \r\n", "classes.txt") == [(1, "cat"), (3, "dog")]
    with pytest.raises(DataError, match=r"'classes\.txt', line 2"):
        name_lines("cat\n" + "d" * 100_000, "classes.txt")


def test_text_is_utf8(tmp_path):
    assert decoded("\ufeffKäfer".encode(), "a") == "Käfer"
    for content in (b"cat\nK\xe4fer", b"cat\na\0b", "cat".encode("utf-16")):
        with pytest.raises(DataError, match=r"'a' is not UTF-8 in line [12]"):
            decoded(content, "a")


def test_only_ordinary_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("12345")
    for name, said in (("pipe", "not a file"), ("none", "no file"), ("large", "at most 4"), ("a\0b", "cannot be read")):
        with pytest.raises(DataError, match=said):
            read_text(tmp_path / name, most=4)
    with pytest.raises(DataError, match="not a file"):
        read_text(tmp_path)


def test_what_steers_a_terminal_is_shown_harmless():
    name = "a\x1b[2J\x07\x9b\r\u202e\udcff.jpg"
    assert shown(name) == r"a\u001b[2J\u0007\u009b\u000d\u202e\udcff.jpg"
    assert shown("Käfer 猫\n\t") == "Käfer 猫\n\t"
    error = DataError(f"There is no {name}.", f"Rename {name}.")
    assert str(error).isprintable() or str(error).replace("\n", "").isprintable()
