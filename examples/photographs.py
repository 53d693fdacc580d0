"""The photographs that `dualtoken-vit-t` learned from: public git repositories to zip archives for `dualtoken distill`.

    python examples/photographs.py CLONES OUTPUT [EVALUATION...]

CLONES holds clones of the repositories in `SETS`, bare or not, named OWNER+NAME; those that are missing are left out.
EVALUATION are zip archives of images that must not be learned: whatever looks like one of them (a difference hash that
differs in two bits or less) is left out, and so are images that occur twice. `imagenet-val.zip` in OUTPUT holds the
validation photographs among ImageNet's subsets, by wnid; they are kept out too.

Most of these photographs are under research terms: read those of each set before you publish what learned from them.
"""

import io
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

VALIDATION = "ILSVRC2012_val"
# archive: repository, which of its paths, at most so many (drawn at random)
SETS: dict[str, tuple[str, Callable[[str], bool], int | None]] = {
    "imagenette": ("thunderInfy+imagenette", lambda path: VALIDATION not in path, None),
    "imagewoof": ("thunderInfy+imagewoof", lambda path: VALIDATION not in path, None),
    "mini-imagenet": ("Deo0330+split_minidataset", lambda path: True, None),
    "mini-places": ("rathull+CTFs", lambda path: path.startswith("data/images/train/"), 60_000),
    "tiny-imagenet": ("seshuad+IMagenet", lambda path: path.startswith("tiny-imagenet-200/train"), None),
    "food-101": (
        "Gandolier+genai_food101_repo", lambda path: path.startswith("data/") and "testpile" not in path, 20_000
    ),
    "grocery-store": (
        "marcusklasson+GroceryStoreDataset", lambda path: path.startswith("dataset/") and "iconic" not in path, None
    ),
    "pacs-art-painting": (
        "MachineLearning2020+Homework3-PACS", lambda path: path.startswith("PACS/art_painting"), None
    ),
}  # fmt: skip
IMAGES = (".jpg", ".jpeg", ".png")
FEW = 2  # bits


REVISIONS = {"rathull+CTFs": "f35c219885f163ca00a045236dd44be489598837"}  # whose newest commit has them no more


def pictures(clone: Path) -> list[tuple[str, str]]:
    """(blob, path) of every image in a commit, each content once."""
    command = ["git", "-C", str(clone), "ls-tree", "-r", "-z", REVISIONS.get(clone.name, "HEAD")]
    listed = subprocess.run(command, capture_output=True, check=True).stdout
    found = {}
    for line in filter(None, listed.split(b"\0")):
        about, _, path = line.decode().partition("\t")
        if path.lower().endswith(IMAGES):
            found.setdefault(about.split()[2], path)
    return list(found.items())


def contents(clone: Path, wanted: list[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of blobs, in one pass of git."""
    command = ["git", "-C", str(clone), "cat-file", "--batch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=2**20) as git:
        assert git.stdin
        assert git.stdout
        stdin, asked = git.stdin, "".join(f"{blob}\n" for blob, _ in wanted).encode()

        def ask() -> None:
            with suppress(OSError):  # it has been told to end
                stdin.write(asked)
                stdin.close()

        threading.Thread(target=ask, daemon=True).start()
        try:
            for _, path in wanted:
                size = int(git.stdout.readline().split()[2])
                yield path, git.stdout.read(size)
                git.stdout.read(1)
        finally:
            git.kill()  # whoever has enough photographs asks no further


def difference_hash(data: bytes) -> int:
    """64 bits: is each of 8 x 8 places brighter than its neighbour?"""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L", (32, 32))
        grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes())


def write(archive: Path, photographs: Iterable[tuple[str, bytes]], kept_out: np.ndarray, most: int | None) -> int:
    """Write the photographs that are readable, new, and unlike those kept out; their number."""
    seen: set[int] = set()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for path, data in photographs:
            if most is not None and len(seen) == most:
                break
            try:
                hashed = difference_hash(data)
            except OSError:  # no image
                continue
            if hashed in seen or (np.bitwise_count(kept_out ^ np.uint64(hashed)) <= FEW).any():
                continue
            seen.add(hashed)
            *folders, name = path.split("/")
            folder = [one for one in folders if one != "images"][-1]  # Tiny ImageNet's WNID/images/NAME
            out.writestr(f"{folder}/{path.replace('/', '_') if len(path) < 200 else name}", data)
    return len(seen)


def main(clones: Path, output: Path, evaluation: list[Path]) -> None:
    """Write an archive a set."""
    output.mkdir(parents=True, exist_ok=True)
    none = np.zeros(0, np.uint64)
    with zipfile.ZipFile(output / "imagenet-val.zip", "w", zipfile.ZIP_STORED) as out:
        for clone in filter(Path.is_dir, (clones / repository for repository, *_ in list(SETS.values())[:2])):
            for path, data in contents(clone, [one for one in pictures(clone) if VALIDATION in one[1]]):
                out.writestr("val/" + "/".join(path.split("/")[-2:]), data)
    hashes = [none]
    for archive in (*evaluation, output / "imagenet-val.zip"):
        with zipfile.ZipFile(archive) as images:
            names = [name for name in images.namelist() if name.lower().endswith(IMAGES)]
            hashes.append(np.array([difference_hash(images.read(name)) for name in names], np.uint64))
    kept_out = np.unique(np.concatenate(hashes))
    for name, (repository, takes, most) in SETS.items():
        if not (clone := clones / repository).is_dir():
            print(f"{name}: no {clone}, left out")
            continue
        wanted = [(blob, path) for blob, path in pictures(clone) if takes(path)]
        random.Random(0).shuffle(wanted)
        print(f"{name}: {write(output / f'{name}.zip', contents(clone, wanted), kept_out, most):,} photographs")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("Type: python examples/photographs.py CLONES OUTPUT [EVALUATION...]")
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(one) for one in sys.argv[3:]])
