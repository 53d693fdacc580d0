"""Any number of labels an image: each way of writing them is read alike, and taken for that only where it is plain."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualtoken.data import ImageData, LabelSamples, Samples, find_data
from dualtoken.errors import DataError

CLASSES = ("bird", "cat", "dog")
SETS = [{"cat"}, {"dog"}, {"cat", "dog"}, {"bird"}, {"bird", "cat", "dog"}, {"cat"}]


def photos(folder: Path, number: int = len(SETS)) -> list[str]:
    (folder / "photos").mkdir(parents=True)
    names = [f"photos/{index}.png" for index in range(number)]
    for index, name in enumerate(names):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name)
    return names


def found(source: Path, **options) -> ImageData:
    return find_data(source, val_fraction=0, progress=False, **options)


def sets(data: ImageData) -> list[set[str]]:
    samples = data.splits["all"]
    assert isinstance(samples, LabelSamples)
    order = np.argsort([name.rpartition("/")[2] for name in samples.names.tolist()])
    return [{data.classes[label] for label in np.flatnonzero(samples.labels[row])} for row in order]


def joined(names: list[str], sign: str) -> str:
    return "path,label\n" + "".join(
        f'{name},"{sign.join(sorted(own))}"\n' for name, own in zip(names, SETS, strict=True)
    )


def one_hot(names: list[str]) -> str:
    lines = [f"{name},{','.join(str(int(c in own)) for c in CLASSES)}" for name, own in zip(names, SETS, strict=True)]
    return "\n".join([f"filename,{','.join(CLASSES)}", *lines])


FORMS = {
    "semicolon": lambda names: joined(names, ";"),
    "bar": lambda names: joined(names, "|"),
    "comma": lambda names: joined(names, ", "),
    "a line a label": lambda names: "path,label\n" + "".join(
        f"{name},{label}\n" for name, own in zip(names, SETS, strict=True) for label in sorted(own)
    ),
    "one-hot": one_hot,
    "a list as text": lambda names: "image,tags\n" + "".join(
        f'{name},"{sorted(own)}"\n' for name, own in zip(names, SETS, strict=True)
    ),
}  # fmt: skip


@pytest.mark.parametrize("named", [True, False], ids=["named", "found"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_table_is_read_alike(form: str, named: bool, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(FORMS[form](photos(tmp_path)))
    data = found(tmp_path / "table.csv" if named else tmp_path)
    assert (data.task, data.classes, sets(data)) == ("multilabel", CLASSES, SETS)


def test_a_json_list_with_an_image_without_labels(tmp_path: Path) -> None:
    names = photos(tmp_path)
    entries = [{"file": name, "labels": sorted(own)} for name, own in zip(names, SETS, strict=True)]
    entries[5]["labels"] = []
    (tmp_path / "labels.json").write_text(json.dumps(entries))
    data = found(tmp_path)
    assert sets(data) == [*SETS[:5], set()]
    assert any("1 image has no label" in note for note in data.notes)
    (tmp_path / "labels.json").rename(tmp_path / "not-used.txt")
    (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    assert sets(found(tmp_path)) == [*SETS[:5], set()]


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard", "symbolic"])
def test_an_image_in_several_class_folders_by_links(link, tmp_path: Path) -> None:
    names = photos(tmp_path / "store")
    for name, own in zip(names, SETS, strict=True):
        for label in own:
            target = tmp_path / "data" / label / name.rpartition("/")[2]
            target.parent.mkdir(parents=True, exist_ok=True)
            link(tmp_path / "store" / name, target)
    data = found(tmp_path / "data")
    assert (data.task, data.classes, sets(data)) == ("multilabel", CLASSES, SETS)
    assert len(found(tmp_path / "data", task="classification").splits["all"]) == sum(map(len, SETS))


@pytest.mark.parametrize("labels", ["cat,dog,cat,dog,cat,dog", '"Paris, France",Rome,Rome,Rome,Rome,Rome'])
def test_one_class_an_image_stays_classification_unless_asked(labels: str, tmp_path: Path) -> None:
    cells = ['"Paris, France"', *["Rome"] * 5] if "Paris" in labels else labels.split(",")
    rows = [f"{name},{cell}" for name, cell in zip(photos(tmp_path), cells, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    for source in (tmp_path, tmp_path / "table.csv"):
        assert type(found(source).splits["all"]) is Samples
        assert found(source, task="multilabel").task == "multilabel"


def test_class_folders_can_be_learned_as_labels(image_folder: Path) -> None:
    assert found(image_folder).task == "classification"
    assert found(image_folder, task="multilabel").splits["all"].labels.sum(axis=0).tolist() == [4, 4]


def test_tables_tell_splits(tmp_path: Path) -> None:
    names = photos(tmp_path)
    text = joined(names, ";").splitlines(keepends=True)
    (tmp_path / "train.csv").write_text("".join(text[:6]))
    (tmp_path / "valid.csv").write_text("".join([text[0], text[6]]))
    data = find_data(tmp_path, progress=False)
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 5, "val": 1}
    assert not data.val_drawn


def test_a_drawn_val_has_its_share_of_a_rare_class_and_leaves_each_to_learn(tmp_path: Path) -> None:
    names = photos(tmp_path, 40)
    rows = [f"{name},common{';rare' * (number < 4)}{';twice' * (number in (0, 9))}"
            for number, name in enumerate(names)]  # fmt: skip
    (tmp_path / "table.csv").write_text("\n".join(["path,labels", *rows]))
    for seed in range(8):
        splits = find_data(tmp_path, seed=seed, val_fraction=0.25, progress=False).splits
        assert splits["train"].counts(3).min() >= 1
        assert splits["val"].labels[:, 1].sum() >= 1  # of `rare`


def test_a_class_whose_images_are_drawn_with_those_of_others_keeps_one_to_learn_from(tmp_path: Path) -> None:
    own = ["ant;wasp", "bee;wasp", "ant", "bee"]  # as rare as each other: `wasp` is drawn with the others
    rows = [f"{name},{labels}" for name, labels in zip(photos(tmp_path, 4), own, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["path,labels", *rows]))
    for seed in range(12):
        splits = find_data(tmp_path, seed=seed, val_fraction=0.5, progress=False).splits
        assert splits["train"].counts(3).min() >= 1


def test_bad_rows_are_told_with_their_line(tmp_path: Path) -> None:
    names = photos(tmp_path)
    (tmp_path / "table.csv").write_text(joined(names, ";") + "photos/none.png,cat\nphotos/1.png,cat,too,many\n")
    with pytest.raises(DataError, match=r"line 9: 4 fields, expected 2(.|\n)*line 8: there is no file"):
        found(tmp_path)
    assert len(found(tmp_path, on_bad_image="skip").splits["all"]) == len(SETS)


def test_several_tables_without_splits_are_refused(tmp_path: Path) -> None:
    names = photos(tmp_path)
    for name in ("first", "second"):
        (tmp_path / f"{name}.csv").write_text(joined(names, ";"))
    with pytest.raises(DataError, match=r"several tables of labels: first\.csv, second\.csv"):
        found(tmp_path)


def test_classes_of_a_model_give_the_order(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(joined(photos(tmp_path), ";"))
    data = found(tmp_path, classes=("dog", "owl", "cat", "bird"), task="multilabel")
    assert data.splits["all"].labels.sum(axis=0).tolist() == [3, 0, 4, 2]
    with pytest.raises(DataError, match="not among the classes of the model"):
        found(tmp_path, classes=("dog",), task="multilabel")


def test_rows_of_a_folder_that_is_missing_are_not_those_of_another(tmp_path: Path) -> None:
    names = photos(tmp_path)
    (tmp_path / "labels.csv").write_text(joined(names, ";") + "older/0.png,bird;dog\n")
    with pytest.raises(DataError, match=r"'older/0\.png' and 'photos/0\.png' would both be the image"):
        found(tmp_path)


def test_a_column_that_seems_to_tell_splits_is_no_class(tmp_path: Path) -> None:
    head, *rows = one_hot(photos(tmp_path)).split("\n")
    (tmp_path / "labels.csv").write_text("\n".join([f"{head},is_valid", *(f"{row},0" for row in rows)]))
    data = found(tmp_path)
    assert data.classes == CLASSES
    assert "the column 'is_valid' of 'labels.csv' is not used" in data.describe()
