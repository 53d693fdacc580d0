"""A COCO json of COCO's own size, invented: how long `dualtoken train` takes to read it, and how much memory.

python tests/data/large_coco.py DATA                     # writes 860,000 annotations of 118,000 images
python tests/data/large_coco.py DATA --read --row results/data.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

LINKS = 1_000  # images that are one file under many names
SIZE = (64, 48)


def write(root: Path, annotations: int, images: int) -> None:
    """`root/instances.json` with polygons of 4 to 30 points, and `root/images/`."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    for number in range(images):
        path, first = root / "images" / f"{number:012d}.png", root / "images" / f"{number - number % LINKS:012d}.png"
        if path == first:
            Image.fromarray(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)).save(path)
        else:
            os.link(first, path)
    with (root / "instances.json").open("w") as file:
        listed = [{"id": n, "file_name": f"{n:012d}.png", "width": 64, "height": 48} for n in range(images)]
        categories = [{"id": n + 1, "name": f"class_{n}"} for n in range(80)]
        file.write(f'{{"images": {json.dumps(listed)},\n"categories": {json.dumps(categories)},\n"annotations": [\n')
        for number in range(annotations):
            left, top = rng.uniform(0, 30, 2).round(2).tolist()
            width, height = rng.uniform(5, 15, 2).round(2).tolist()
            points = rng.uniform(0, 1, (int(rng.integers(4, 31)), 2)) * (width, height) + (left, top)
            file.write(
                json.dumps(
                    {
                        "segmentation": [points.round(2).ravel().tolist()], "area": round(width * height, 4),
                        "iscrowd": 0, "image_id": int(rng.integers(images)), "bbox": [left, top, width, height],
                        "category_id": int(rng.integers(1, 81)), "id": number,
                    }
                )
                + (",\n" if number + 1 < annotations else "\n")
            )  # fmt: skip
        file.write("]}")


def read(root: Path) -> dict[str, object]:
    """What `train` does with the data before anything is trained: the task that they are for, then the images."""
    began, used = time.perf_counter(), time.process_time()
    try:
        from dualtoken.data import find_data, plan_data  # type: ignore[attr-defined]

        data = find_data(plan_data(root), progress=False)
    except ImportError:  # as it was before
        from dualtoken.data.finding import find_task_data, task_of  # type: ignore[attr-defined]

        data = find_task_data(root, task_of(root), progress=False)
    objects = sum(len(samples.labels) for samples in data.splits.values())
    return {
        "what": "coco_start", "objects": objects, "images": sum(map(len, data.splits.values())),
        "json_mib": round((root / "instances.json").stat().st_size / 2**20, 1),
        "seconds": round(time.perf_counter() - began, 2), "cpu_seconds": round(time.process_time() - used, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version(),
    }  # fmt: skip


def main() -> None:
    """Write or read, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--annotations", type=int, default=860_000)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--read", action="store_true")
    parser.add_argument("--row", type=Path)
    given = parser.parse_args()
    if not given.read:
        write(given.data, given.annotations, given.images)
        return
    row = read(given.data) | {"command": f"python tests/data/large_coco.py {' '.join(sys.argv[1:])}"}
    print(json.dumps(row))
    if given.row:
        with given.row.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
