"""Zip archives read in place, and archives made to do harm."""

from __future__ import annotations

import pickle
import stat
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from conftest import write_class_folders
from dualtoken.data import archives, find_data
from dualtoken.errors import DataError, ImageError
from dualtoken.images import ImageLimits


def zipped(root: Path, path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_class_folders(tmp_path / "src" / "deep" / "train", ("cat", "lion é"), 6)
    return zipped(tmp_path / "src", tmp_path / "pics.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archive_equals_folder(method: int, tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "src" / "deep" / "train", ("cat", "dog"), 6).parents[1]
    packed = find_data(zipped(root, tmp_path / "pics.zip", method))
    loose = find_data(root)
    assert packed.classes == loose.classes
    assert packed.fingerprint == loose.fingerprint
    for split in ("train", "val"):
        a, b = packed.splits[split], loose.splits[split]
        assert a.names.tolist() == b.names.tolist()
        assert a.labels.tolist() == b.labels.tolist()
        for i in range(len(a)):
            np.testing.assert_array_equal(np.asarray(a.open(i)), np.asarray(b.open(i)))


def test_paths_say_where(archive: Path) -> None:
    assert find_data(archive).splits["val"].path(0).startswith(f"{archive}/deep/train/cat/")


def test_samples_of_an_archive_travel_and_are_read_by_threads(archive: Path) -> None:
    samples = pickle.loads(pickle.dumps(find_data(archive).splits["train"]))
    alone = [samples.open(i).tobytes() for i in range(len(samples))]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: samples.open(i).tobytes(), list(range(len(samples))) * 20))
    assert together == alone * 20


def test_folder_without_images_is_seen_without_a_member_of_its_own(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("deep/train/unicorn/notes.txt", "x")
    with pytest.raises(DataError, match="unicorn"):
        find_data(archive)


def test_csv_in_an_archive(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "src" / "pics", ("images",), 4)
    lines = [f"./images/000{i}.jpg,{'cat' if i % 2 else 'dog'}" for i in range(4)]
    (root / "list.csv").write_text("path,label\n" + "\n".join(lines))
    data = find_data(zipped(tmp_path / "src", tmp_path / "pics.zip"))
    assert data.classes == ("cat", "dog")
    assert data.splits["train"].open(0).size == (32, 32)


def test_utf8_names_without_the_flag(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "src", ("NNNN", "tea"), 2)
    path = zipped(tmp_path / "src", tmp_path / "mac.zip")
    path.write_bytes(path.read_bytes().replace(b"NNNN", "thé".encode()))  # as long, and no flag is set
    assert find_data(path).classes == ("tea", "thé")


@pytest.mark.parametrize(
    "name", ["/etc/cat.jpg", "../up/cat.jpg", "a/../../cat.jpg", "..\\up\\cat.jpg", "C:/a/cat.jpg"]
)
def test_names_that_point_outside_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(DataError, match="points outside"):
        find_data(path)


def test_links_in_an_archive_are_ignored(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        info = zipfile.ZipInfo("deep/train/cat/passwd.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    data = find_data(archive)
    assert not any("passwd" in str(name) for samples in data.splits.values() for name in samples.names)


def test_bomb_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_RATIO_MATTERS_FROM", 2**20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/bomb.bmp", bytes(2**22))
    with pytest.raises(DataError, match="would unpack to 4,194,304"):
        find_data(path)


def test_member_over_the_limit_is_not_unpacked(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("deep/train/cat/big.bmp", bytes(2**20))
    data = find_data(archive, on_bad_image="skip", limits=ImageLimits(max_bytes=2**19))
    assert [reason for path, reason in data.bad_images if "big.bmp" in path and "1,048,576" in reason]


def test_member_that_lies_about_its_size(archive: Path) -> None:
    samples = find_data(archive).splits["train"]
    members = samples.members
    assert members is not None
    liar = members[0].copy()
    liar["size"] = 10
    with pytest.raises(ImageError, match="checksum"):
        archives.read_member(str(archive), "liar.jpg", liar, ImageLimits())


def test_flipped_bit_that_still_decodes_is_seen(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "src", ("cat", "dog"), 2, suffix=".bmp")
    path = zipped(root, tmp_path / "pics.zip", zipfile.ZIP_STORED)
    samples = find_data(path).splits["train"]
    assert samples.members is not None
    content = bytearray(path.read_bytes())
    content[int(samples.members[0]["offset"]) + 1000] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="checksum"):
        samples.open(0)


def test_a_lie_about_the_size_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/bomb.bmp", bytes(2**25))
    _, members, _, _ = archives.read_directory(path)
    members["size"] = 10
    tracemalloc.start()
    with pytest.raises(ImageError, match="checksum"):
        archives.read_member(str(path), "bomb.bmp", members[0], ImageLimits())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_member_with_an_extra_field(archive: Path) -> None:
    image = find_data(archive).splits["train"]
    with zipfile.ZipFile(archive, "a") as file:
        info = zipfile.ZipInfo("deep/train/cat/extra.jpg")
        info.extra = b"\x99\x99\x04\x00abcd"
        file.writestr(info, image.source(0))
    data = find_data(archive, val_fraction=0)
    assert len(data.splits["train"]) == 13


def test_damaged_member_is_a_bad_image(archive: Path) -> None:
    members = find_data(archive).splits["train"].members
    assert members is not None
    content = bytearray(archive.read_bytes())
    middle = int(members[0]["offset"]) + int(members[0]["packed"]) // 2 + 60
    content[middle : middle + 8] = b"damaged!"
    archive.write_bytes(bytes(content))
    with pytest.raises(DataError, match="1 image or label"):
        find_data(archive)


def test_archive_that_was_changed_under_our_feet(archive: Path) -> None:
    samples = find_data(archive).splits["train"]
    archive.write_bytes(b"something else" * 1000)
    with pytest.raises(ImageError, match=r"pics\.zip/deep/train/cat"):
        samples.open(0)
    archive.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        samples.open(0)


def test_passwords_and_rare_methods_are_refused(tmp_path: Path, archive: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bz.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("a/1.jpg", b"x")
    with pytest.raises(DataError, match="method 12"):
        find_data(tmp_path / "bz.zip")
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(bytes(content))
    with pytest.raises(DataError, match="password"):
        find_data(archive)


def test_truncated_archive(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DataError, match="unzip -t"):
        find_data(archive)


def test_names_that_begin_with_a_dot_and_a_slash(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "src", ("cat", "dog"), 2)
    with zipfile.ZipFile(tmp_path / "pics.zip", "w") as archive:
        for file in sorted(root.rglob("*.jpg")):
            archive.writestr(zipfile.ZipInfo(f"./{file.relative_to(root).as_posix()}"), file.read_bytes())
    data = find_data(tmp_path / "pics.zip", val_fraction=0)
    assert data.splits["all"].names.tolist() == find_data(root, val_fraction=0).splits["all"].names.tolist()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_a_file_that_was_added_twice_the_last_one_counts(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "src", ("cat", "dog"), 2)
    path, last = zipped(root, tmp_path / "pics.zip"), (root / "dog" / "0000.jpg").read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cat/0000.jpg", last)
    data = find_data(path, val_fraction=0)
    names = data.splits["all"].names.tolist()
    assert names == ["cat/0000.jpg", "cat/0001.jpg", "dog/0000.jpg", "dog/0001.jpg"]
    assert data.splits["all"].source(0) == last
    assert "1 file is in the archive more than once" in data.describe()
