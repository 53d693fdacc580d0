"""How large the index of very many images in shards is, and how long it takes to open: python tests/data/large_index.py

The index is that of invented shards of 1,000 classes, with names as long as ImageNet's; no image is there, and none is
opened. Prints a row for results/data.jsonl.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from dualtoken.data import find_data
from dualtoken.data.shards import INDEX, write_index


def write(folder: Path, images: int) -> None:
    """The index of `images` images in tars of 2,000 each, in the order of their classes, lying shuffled."""
    generator = np.random.default_rng(0)
    lies, labels = generator.permutation(images), np.arange(images) * 1000 // images
    sizes = generator.lognormal(11.5, 0.5, images).astype(np.int64)
    names = [
        f"train-{at // 2000:05d}.tar/n{label:08d}/n{label:08d}_{number}.jpeg"
        for number, (at, label) in enumerate(zip(lies.tolist(), labels.tolist(), strict=True))
    ]
    columns = {
        "name": names,
        "offset": generator.integers(2**28, size=images) // 512 * 512,
        "size": sizes,
        "crc": generator.integers(2**32, size=images, dtype=np.uint32),
        "split": ["train"] * images,
        "height": generator.integers(300, 600, images),
        "width": generator.integers(300, 600, images),
        "label": labels.astype(str).tolist(),
    }
    write_index(folder, "classes", [f"n{label:08d}" for label in range(1000)], columns)


def main() -> None:
    """Write, open, and print the row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1_000_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as place:
        write(Path(place), images)
        size, start, processor = (Path(place) / INDEX).stat().st_size, time.perf_counter(), time.process_time()
        data = find_data(place, progress=False)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        assert sum(map(len, data.splits.values())) == images
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = {
        "what": "shard_index", "images": images, "index_mb": round(size / 1e6, 1), "seconds": round(seconds, 2),
        "cpu_seconds": round(processor, 2), "peak_mib": peak // 1024,
        "machine": platform.machine(), "python": platform.python_version(),
        "command": f"python tests/data/large_index.py --images {images}",
    }  # fmt: skip
    print(json.dumps(row))


if __name__ == "__main__":
    main()
