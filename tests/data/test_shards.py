"""Shards: what `pack` writes, read from folders, patterns and addresses, is the data set itself."""

import http.server
import json
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_sources_of_boxes_and_masks import write_coco, write_images, write_masks

from conftest import write_class_folders
from dualtoken.data import addresses, find_data, pack, training_loader
from dualtoken.data.loading import EpochSampler
from dualtoken.data.samples import Example
from dualtoken.errors import ConfigError, DataError, ImageError, OutputError
from dualtoken.prediction.inputs import collect_inputs, open_input
from dualtoken.training.pool import find_pool

Write = Callable[[Path], Path]


def write_classes(root: Path) -> Path:
    return write_class_folders(root, ("ant", "bee", "cat"), 6)


def write_labels(root: Path) -> Path:
    write_images(root / "images", 6)
    rows = [{"file": f"images/{n}.jpg", "labels": ["cat", "dog"][: n % 3]} for n in range(6)]
    (root / "labels.json").write_text(json.dumps(rows))
    return root


def write_outlines(root: Path) -> Path:
    return write_coco(root, outlines=True)


KINDS = {"classes": write_classes, "labels": write_labels, "objects": write_outlines, "masks": write_masks}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(tmp_path: Path, kind: str) -> Path:
    return KINDS[kind](tmp_path / "source")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "source")


@pytest.fixture
def shards(tmp_path: Path, classes: Path) -> Path:
    return pack(classes, tmp_path / "shards", progress=False).output


def same(one: Example, other: Example) -> bool:
    masks = one.mask is None or np.array_equal(one.mask, other.mask)
    labels = np.array_equal(one.label, other.label)
    return one.image.tobytes() == other.image.tobytes() and masks and labels and str(one.objects) == str(other.objects)


def all_same(one: object, other: object) -> bool:
    """Whether two data sets have the same splits of the same examples, in the same order."""
    assert one.splits.keys() == other.splits.keys()
    assert one.classes == other.classes
    for split, samples in one.splits.items():  # type: ignore[attr-defined]
        others = other.splits[split]  # type: ignore[attr-defined]
        assert len(samples) == len(others) > 0
        if not all(same(samples.example(index), others.example(index)) for index in range(len(samples))):
            return False
    return True


# ---------------------------------------------------------------- packed and read again


def test_shards_are_the_data_set_in_its_order(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "shards", progress=False)
    before, after = find_data(source), find_data(packed.output)
    assert before.task == after.task
    assert all_same(before, after)
    assert packed.images == sum(map(len, before.splits.values()))
    assert packed.shards == 1
    assert packed.summary().startswith(f"{packed.images} images in 1 shard")


def test_without_the_index_the_tars_are_read_through(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "shards", progress=False).output
    (packed / "index.parquet").unlink()
    before, after = find_data(source, val_fraction=0), find_data(packed, val_fraction=0)
    assert any("no index.parquet" in note for note in after.notes)
    ordered = [
        sorted((data.splits["all"].example(i) for i in range(len(data.splits["all"]))), key=str)
        for data in (before, after)
    ]
    whole = {example.image.tobytes() + str(example[1:]).encode() for example in ordered[0]}
    assert whole == {example.image.tobytes() + str(example[1:]).encode() for example in ordered[1]}


def test_packing_twice_gives_the_same_bytes(classes: Path, tmp_path: Path) -> None:
    one, two = (pack(classes, tmp_path / name, progress=False).output for name in ("one", "two"))
    files = sorted(path.name for path in one.iterdir())
    assert files == ["classes.txt", "images-00000.tar", "index.parquet"]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


def test_any_reader_of_tars_finds_image_and_label_beside_each_other(shards: Path, classes: Path) -> None:
    names = (shards / "classes.txt").read_text().split()
    with tarfile.open(shards / "images-00000.tar") as tar:
        members = [info.name for info in tar]
        for image, label in zip(members[::2], members[1::2], strict=True):
            assert image.partition(".")[0] == label.partition(".")[0]
            assert label.endswith(".cls")
            assert tar.extractfile(image).read() == (classes / image).read_bytes()  # type: ignore[union-attr]
            assert names[int(tar.extractfile(label).read())] == image.partition("/")[0]  # type: ignore[union-attr]


def test_splits_stay_and_shards_have_a_size(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for split in ("train", "val"):
        write_class_folders(source / split, ("a", "b"), 4, size=(400, 400), suffix=".bmp")
    packed = pack(source, tmp_path / "shards", shard_mb=1, progress=False)
    tars = sorted(path.name for path in packed.output.glob("*.tar"))
    assert tars == [f"{split}-0000{n}.tar" for split in ("train", "val") for n in range(packed.shards // 2)]
    assert packed.shards == 6
    assert all((packed.output / name).stat().st_size < 2e6 for name in tars)
    assert all_same(find_data(source), find_data(packed.output))
    part = find_data(str(packed.output / "val-0000[01].tar"), val_fraction=0)
    assert list(part.splits) == ["val"]
    assert len(part.splits["val"]) == 6


def test_class_names_that_end_alike_and_dots(tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "s", ("v1.0", "v1_0"), 2)
    after = find_data(pack(source, tmp_path / "shards", progress=False).output)
    assert after.classes == ("v1.0", "v1_0")
    assert all_same(find_data(source), after)


def test_bad_images_are_left_out_and_listed(classes: Path, tmp_path: Path) -> None:
    (classes / "ant" / "0000.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0000\.jpg"):
        pack(classes, tmp_path / "shards", progress=False)
    assert not (tmp_path / "shards").exists()
    packed = pack(classes, tmp_path / "shards", on_bad_image="skip", progress=False)
    assert packed.images == 17
    assert "0000.jpg" in (packed.output / "left_out.csv").read_text()


def test_tars_of_others(tmp_path: Path) -> None:
    """As ImageNet comes in WebDataset's form: numbers of classes, splits in the names of tars, no names of classes."""
    images = sorted(write_class_folders(tmp_path / "s", tuple("abcdefghijk"), 2).rglob("*.jpg"))
    (tmp_path / "tars").mkdir()
    for split in ("train", "validation"):
        with tarfile.open(tmp_path / "tars" / f"animals-{split}-000.tar", "w") as tar:
            for number, path in enumerate(images):
                label = tmp_path / "label"
                label.write_text(str(number // 2))
                tar.add(path, f"{number:04d}.jpg")
                tar.add(label, f"{number:04d}.cls")
    data = find_data(tmp_path / "tars")
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 22, "val": 22}
    assert data.classes[2] == "class_02"
    assert data.splits["val"].labels.tolist() == [n // 2 for n in range(22)]


# ---------------------------------------------------------------- training: order, epochs, resuming


def pixels(image: object) -> torch.Tensor:
    """A random transform: what it gives depends on the seed of the draw."""
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1).copy()) + torch.rand(1)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_batches_of_the_data_set_also_from_the_middle(
    classes: Path, shards: Path, workers: int
) -> None:
    def batches(source: Path, epoch: int, start: int = 0) -> list[torch.Tensor]:
        samples = find_data(source, val_fraction=0).splits["all"]
        loader = training_loader(samples, pixels, batch_size=4, workers=workers, epoch=epoch, start_batch=start)
        return [images for images, _, _ in loader]

    whole = batches(classes, 3)
    resumed = batches(shards, 3, start=2)
    assert len(whole) == 4
    assert len(resumed) == 2
    assert all(torch.equal(one, other) for one, other in zip(whole[2:], resumed, strict=True))


def test_processes_and_workers_that_resume_within_an_epoch_read_each_image_once(shards: Path) -> None:
    """Two processes with loading workers, resumed by three, see what one that is not stopped sees."""
    samples = find_data(shards, val_fraction=0).splits["all"]

    def read(rank: int, size: int, start: int, stop: int) -> list[tuple[int, bytes]]:
        whole = {"batch_size": 6 // size, "workers": 2, "seed": 4, "epoch": 3, "start_batch": start}
        loader = training_loader(samples, pixels, rank=rank, world_size=size, **whole)
        found = list(loader)[: stop - start]
        return [
            (row, image.numpy().tobytes())
            for images, _, rows in found
            for row, image in zip(rows.tolist(), images, strict=True)
        ]

    alone = read(0, 1, 0, 3)
    together = [one for rank in range(2) for one in read(rank, 2, 0, 1)]
    together += [one for rank in range(3) for one in read(rank, 3, 1, 3)]
    assert sorted(row for row, _ in alone) == list(range(18))
    assert sorted(together) == sorted(alone)


def test_the_shuffle_is_one_of_all_images_though_shards_are_sorted_by_class() -> None:
    """The stated quality: a batch holds the classes as a draw from all images does, wherever the images lie."""
    labels = np.repeat(np.arange(10), 500)  # as they lie in the shards: class after class
    expected = 50 * 9 / 10 * (5000 - 50) / (5000 - 1) / 5  # sum of the variances of a draw without repeats, over 50/10
    spread, drift = [], []
    for epoch in range(4):
        sampler = EpochSampler(5000, 50, seed=1)
        sampler.set_epoch(epoch)
        order = np.array([index for batch in sampler for index, _ in batch])
        assert np.array_equal(np.sort(order), np.arange(5000))  # every image once
        counts = np.stack([np.bincount(part, minlength=10) for part in labels[order].reshape(100, 50)])
        spread.append(((counts - 5) ** 2 / 5).sum(1).mean())
        drift.append(abs(np.corrcoef(order, np.arange(5000))[0, 1]))
    assert np.mean(spread) == pytest.approx(expected, rel=0.1)  # class after class would be 450
    assert max(drift) < 4 / np.sqrt(5000)


# ---------------------------------------------------------------- addresses


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A file server that sends parts of files, and remembers how many it sent at once."""

    whole_only, wait, busy, most, failures = False, 0.0, 0, 0, 0

    def send_head(self):  # type: ignore[no-untyped-def]
        kind = type(self)
        kind.busy += 1
        kind.most = max(kind.most, kind.busy)
        try:
            time.sleep(kind.wait)
            if kind.failures > 0 and "Range" in self.headers:
                kind.failures -= 1
                self.send_error(503)
                return None
            file = super().send_head() if kind.whole_only or "Range" not in self.headers else self._part()
        finally:
            kind.busy -= 1
        return file

    def _part(self):  # type: ignore[no-untyped-def]
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"]).groups()  # type: ignore[union-attr]
        end = min(int(last or size - 1), size - 1)
        content = path.read_bytes()[int(first) : end + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{end}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[Ranges]]]:
    handler = type("Handler", (Ranges,), {})
    make = lambda *given: handler(*given, directory=str(tmp_path))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), make) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", handler
        served.shutdown()
        thread.join()


@pytest.fixture
def memory() -> Iterator[Callable[[Path], str]]:
    from fsspec.implementations.memory import MemoryFileSystem

    system = MemoryFileSystem()

    def upload(folder: Path) -> str:
        for path in folder.iterdir():
            system.pipe_file(f"/bucket/{path.name}", path.read_bytes())
        return "memory://bucket"

    yield upload
    system.store.clear()


def test_all_kinds_over_http(source: Path, tmp_path: Path, server: tuple[str, type[Ranges]]) -> None:
    pack(source, tmp_path / "shards", progress=False)
    assert all_same(find_data(source), find_data(f"{server[0]}/shards"))


@pytest.mark.parametrize(
    ("form", "index"),
    [("{0}/", True), ("{0}/*.tar", True), ("{0}/images-00000.tar", True), ("simplecache::{0}", True), ("{0}", False),
     ("{0}/*.tar", False)],
)  # fmt: skip
def test_memory(shards: Path, memory: Callable[[Path], str], form: str, index: bool) -> None:
    if not index:
        (shards / "index.parquet").unlink()
    data = find_data(form.format(memory(shards)), val_fraction=0)
    if index:
        assert all_same(find_data(shards, val_fraction=0), data)
    else:
        assert len(data.splits["all"]) == 18
        assert data.classes == ("ant", "bee", "cat")
        assert data.splits["all"].open(17).size == (32, 32)


def test_a_file_address(shards: Path) -> None:
    assert all_same(find_data(shards), find_data(f"file://{shards}"))


def test_a_batch_is_read_side_by_side(shards: Path, server: tuple[str, type[Ranges]]) -> None:
    samples = find_data(f"{server[0]}/shards", val_fraction=0).splits["all"]
    server[1].wait = 0.05
    loader = training_loader(samples, pixels, batch_size=18, workers=0)
    assert sum(len(images) for images, _, _ in loader) == 18
    assert server[1].most > 3
    assert not addresses._ahead


def test_workers_read_addresses(shards: Path, server: tuple[str, type[Ranges]]) -> None:
    samples = find_data(f"{server[0]}/shards", val_fraction=0).splits["all"]
    local = find_data(shards, val_fraction=0).splits["all"]
    far, near = (training_loader(own, pixels, batch_size=6, workers=2) for own in (samples, local))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(far, near, strict=True))


def test_what_fails_on_the_way_is_tried_again(
    shards: Path, server: tuple[str, type[Ranges]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_WAIT", 0.001)
    samples = find_data(f"{server[0]}/shards", val_fraction=0).splits["all"]
    server[1].failures = 2
    samples.open(0)
    server[1].failures = 3
    with pytest.raises(ImageError, match="503"):
        samples.open(0)


def test_a_server_that_sends_whole_files(shards: Path, server: tuple[str, type[Ranges]]) -> None:
    samples = find_data(f"{server[0]}/shards", val_fraction=0).splits["all"]
    server[1].whole_only = True
    with pytest.raises(ImageError, match="cannot send parts of files"):
        samples.open(0)


# ---------------------------------------------------------------- predicting and distilling


def test_inputs_and_images_without_labels(classes: Path, shards: Path, memory: Callable[[Path], str]) -> None:
    address = memory(shards)
    for given in (shards, str(shards / "images-*.tar"), address):
        found = list(collect_inputs([given]))
        assert len(found) == 18
        assert open_input(*found[0]).size == (32, 32)
    ((name, error),) = collect_inputs(["memory://nowhere"])
    assert name == "memory://nowhere"
    assert isinstance(error, ImageError)
    pool = find_pool([shards, classes])
    assert len(pool) == 36
    assert pool.sets[0].classes == pool.sets[1].classes


def test_a_pool_of_tars_without_labels(classes: Path, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "000.tar", "w") as tar:
        tar.add(classes / "ant", "photos")
    pool = find_pool([tmp_path / "tars"])
    assert len(pool) == 6
    assert pool.sets[0].classes == ()
    with pytest.raises(DataError, match="labels"):
        find_data(tmp_path / "tars", task="detection")


# ---------------------------------------------------------------- what can be wrong


def test_what_is_wrong_is_said(classes: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not empty"):
        pack(classes, shards, progress=False)
    with pytest.raises(ConfigError, match="shard_mb"):
        pack(classes, tmp_path / "other", shard_mb=0, progress=False)
    with pytest.raises(DataError, match=r"called 'val-\*\.tar'"):
        find_data(str(shards / "val-*.tar"))
    for source in (str(tmp_path / "none.tar"), "memory://nowhere", "memory://nowhere/*.tar"):
        with pytest.raises(DataError, match=r"neither index\.parquet nor tars"):
            find_data(source)
    with pytest.raises(DataError, match="nosuch"):
        find_data("nosuch://bucket/data")
    with pytest.raises(DataError, match=r"labels of the kind shards_classes, expected coco, .*shards_objects"):
        find_data(shards, task="detection")


def test_a_changed_tar_and_a_damaged_index(shards: Path) -> None:
    samples = find_data(shards, val_fraction=0).splits["all"]
    tar = shards / "images-00000.tar"
    content = bytearray(tar.read_bytes())
    content[int(samples.members["offset"][0]) + 100] ^= 1
    tar.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="checksum"):
        samples.open(0)
    tar.unlink()
    with pytest.raises(ImageError, match="cannot be read from its archive"):
        samples.open(0)
    (shards / "index.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    with pytest.raises(DataError, match=r"index.parquet.*damaged"):
        find_data(shards)


def test_labels_of_others_are_judged(tmp_path: Path) -> None:
    source = write_outlines(tmp_path / "source")
    shards = pack(source, tmp_path / "shards", progress=False).output
    image = next((source / "images").rglob("*.jpg"))
    label = tmp_path / "label.json"
    label.write_text('{"objects": [{"class": "cat", "box": [1, 2, 30]}]}')
    with tarfile.open(shards / "images-00000.tar", "a") as tar:
        tar.add(image, "more.jpg")
        tar.add(label, "more.json")
    (shards / "index.parquet").unlink()
    with pytest.raises(DataError, match=r"more.jpg', objects\[0\]: .*3 numbers"):
        find_data(shards)


def test_class_names_of_an_editor_of_windows(shards: Path) -> None:
    (shards / "index.parquet").unlink()
    classes = (shards / "classes.txt").read_text().split()
    (shards / "classes.txt").write_bytes(("\ufeff" + "\r\n".join(classes)).encode())
    assert find_data(shards, val_fraction=0).classes == tuple(classes)
