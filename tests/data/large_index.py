"""How large the index of very many images in shards is, and how long it takes to open: python tests/data/large_index.py

The index is that of invented shards of 1,000 classes, with names as long as ImageNet's; no image is there, and none is
opened. Prints a row for results/data.jsonl.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from dualtoken.data import find_data
from dualtoken.data.shards import INDEX, write_index
from dualtoken.machine import machine_name, return_memory


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


def memory(field: str) -> float:
    """`VmRSS` of this process now, or `VmHWM`, the most it has held, in MB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6


def opened(place: str) -> dict[str, float]:
    """What opening takes as training does it, in a process that has done nothing else."""
    for library in ("pyarrow.parquet", "PIL.Image"):  # which are there whatever is opened
        importlib.import_module(library)
    before = memory("VmRSS")
    start, processor = time.perf_counter(), time.process_time()
    data = replace(find_data(place, progress=False), redraw=None)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return_memory()
    return {
        "images": sum(map(len, data.splits.values())), "seconds": round(seconds, 2), "cpu_seconds": round(processor, 2),
        "held_mb": round(memory("VmRSS") - before), "peak_mb": round(memory("VmHWM") - before),
        "process_mb": round(memory("VmRSS")),
    }  # fmt: skip


def main() -> None:
    """Write, open in a process of its own, and print the row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1_000_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as place, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        write(Path(place), images)
        size = (Path(place) / INDEX).stat().st_size
        found = pool.submit(opened, place).result()
    assert found["images"] == images
    row = {
        "what": "shard_index", **found, "index_mb": round(size / 1e6, 1), "load": round(os.getloadavg()[0], 1),
        "machine": machine_name(), "python": platform.python_version(), "threads": 1, "seed": 0,
        "command": f"python tests/data/large_index.py --images {images}",
    }  # fmt: skip
    print(json.dumps(row))


if __name__ == "__main__":
    main()
