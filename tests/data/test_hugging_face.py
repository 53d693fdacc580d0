"""Data sets of Hugging Face's library become shards: from disk, from memory and as a stream."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature

from conftest import invent_image, write_class_folders
from dualtoken.data import find_data, pack
from dualtoken.errors import DataError

NAMES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def of_folder(root: Path, label: Any = None, values: list[Any] | None = None) -> Dataset:
    """Four images of each class, with their class or other labels."""
    paths = sorted(map(str, write_class_folders(root, tuple(NAMES), 4).rglob("*.jpg")))
    values = [n // 4 for n in range(8)] if values is None else values
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=NAMES) if label is None else label})
    return Dataset.from_dict({"image": paths, "label": values}, features=features)


@pytest.mark.parametrize("form", ["memory", "saved", "parquet", "stream"])
def test_classes(tmp_path: Path, form: str) -> None:
    data = DatasetDict({"train": of_folder(tmp_path / "train"), "validation": of_folder(tmp_path / "val")})
    source: Any = data
    if form == "stream":
        source = {name: part.to_iterable_dataset() for name, part in data.items()}
    elif form == "saved":
        data.save_to_disk(tmp_path / "saved")
        source = tmp_path / "saved"
    elif form == "parquet":
        source = tmp_path / "parquet"
        for name, part in data.items():
            part.to_parquet(source / "data" / f"{name}-00000-of-00001.parquet")
    packed = find_data(pack(source, tmp_path / "shards", progress=False).output)
    assert packed.classes == ("cat", "dog")
    assert list(packed.splits) == ["train", "val"]
    before = find_data(tmp_path / "val", val_fraction=0).splits["all"]
    expected = {before.open(row).tobytes(): int(before.labels[row]) for row in range(8)}
    after = packed.splits["val"]
    assert {after.open(row).tobytes(): int(after.labels[row]) for row in range(8)} == expected
    assert after.labels.tolist() != sorted(after.labels.tolist())  # shuffled


def test_several_labels_and_objects(tmp_path: Path) -> None:
    several = of_folder(tmp_path / "a", List(ClassLabel(names=NAMES)), [[0], [1], [0, 1], [], [0], [1], [0, 1], []])
    data = find_data(pack(several, tmp_path / "several", progress=False).output, val_fraction=0)
    assert data.task == "multilabel"
    assert data.splits["all"].labels.sum(0).tolist() == [4, 4]
    kind = {"bbox": List(Value("float32"), length=4), "category": ClassLabel(names=NAMES)}
    values = [[{"bbox": [2, 3, 10, 20], "category": n % 2}] * (n % 3) for n in range(8)]
    for number, (feature, own) in enumerate([
        (List(kind), values),
        ({key: List(part) for key, part in kind.items()},
         [{key: [row[key] for row in rows] for key in kind} for rows in values]),
    ]):  # fmt: skip
        source = of_folder(tmp_path / f"o{number}", feature, own)
        data = find_data(pack(source, tmp_path / f"objects{number}", progress=False).output, val_fraction=0)
        samples = data.splits["all"]
        assert data.task == "detection"
        assert np.unique(samples.boxes, axis=0).tolist() == [[2, 3, 12, 23]]
        assert data.classes == ("cat", "dog")


def test_a_bad_image(tmp_path: Path) -> None:
    data = of_folder(tmp_path / "source")
    Path(data.cast_column("image", ImageFeature(decode=False))[3]["image"]["path"]).write_bytes(b"no image")
    with pytest.raises(DataError, match="1 image or label cannot be used"):
        pack(data, tmp_path / "shards", progress=False)
    packed = pack(data, tmp_path / "shards", on_bad_image="skip", progress=False)
    assert packed.images == 7
    assert len(find_data(packed.output, val_fraction=0).splits["all"]) == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.remove_columns("label"), "none holds classes"),
        (lambda data: data.remove_columns("image"), "none holds images"),
        (lambda data: data.add_column("other", data["label"], feature=ClassLabel(names=NAMES)), "label, other all"),
        (lambda data: DatasetDict({"train": data, "extra": data}), "The splits are train, extra"),
    ],
)
def test_what_cannot_be_packed(tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        pack(change(of_folder(tmp_path / "source")), tmp_path / "shards", progress=False)
    assert not (tmp_path / "shards").exists()


def test_images_of_memory_keep_their_kind(tmp_path: Path) -> None:
    images = [invent_image(n % 2, n) for n in range(4)]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=NAMES)})
    data = Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)
    samples = find_data(pack(data, tmp_path / "shards", progress=False).output, val_fraction=0).splits["all"]
    assert str(samples.names[0]).endswith("000000000.png")
    assert {samples.open(row).tobytes() for row in range(4)} == {image.tobytes() for image in images}


@pytest.mark.parametrize("several", [False, True])
def test_rows_without_a_class_are_refused(tmp_path: Path, several: bool) -> None:
    label = List(ClassLabel(names=NAMES)) if several else None
    values = [[0], [1], [0, 1], [], [0], [1], [-1], []] if several else [0, 1, 0, 1, 0, 1, -1, 1]
    with pytest.raises(DataError, match="A row has the label -1, expected 0 to 1"):
        pack(of_folder(tmp_path / "a", label, values), tmp_path / "shards", progress=False)
    assert not (tmp_path / "shards").exists()
