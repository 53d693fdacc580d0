"""How much memory a training run holds from epoch to epoch: python tests/data/flat_memory.py

Invented photographs are packed into shards, and a tiny network learns from them with two loading processes. Measured is
the sum of the proportional set sizes of all its processes, twice a second, of which each epoch keeps the largest.
Prints a row for results/data.jsonl. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dualtoken.data import pack
from dualtoken.machine import machine_name

SMALL = {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16}


def invent(folder: Path, images: int) -> None:
    """Blurred noise of 96 x 96 in ten classes."""
    generator = np.random.default_rng(0)
    for number in range(images):
        place = folder / f"class-{number % 10}" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (12, 12, 3), np.uint8)).resize((96, 96)).save(place)


def held(process: int) -> float:
    """Proportional set sizes of a process and all that it has started, in MB."""
    kilobytes, waiting = 0, [process]
    while waiting:
        one = waiting.pop()
        try:
            waiting += map(int, Path(f"/proc/{one}/task/{one}/children").read_text(encoding="utf-8").split())
            lines = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:  # it has just ended
            continue
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1024 / 1e6


def watch(command: list[str], run: Path) -> list[float]:
    """The most that the run holds in each of its epochs."""
    peaks: list[float] = []
    metrics = run / "metrics.csv"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while process.poll() is None:
        begun = metrics.exists()
        epoch = metrics.read_text(encoding="utf-8").count("\n") - 1 if begun else 0
        peaks += [0.0] * (max(0, epoch) + 1 - len(peaks))
        peaks[-1] = max(peaks[-1], held(process.pid))
        time.sleep(0.5)
    assert process.returncode == 0
    return peaks


def main() -> None:
    """Invent, pack, train, and print the row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        photos, shards, run = (Path(place) / name for name in ("photos", "shards", "run"))
        invent(photos, arguments.images)
        pack(photos, shards)
        settings = f"--recipe smoke --epochs {arguments.epochs} --image-size 32 --batch-size 64 --workers 2 --seed 0"
        command = [sys.executable, "-m", "dualtoken.cli", "train", str(shards), *settings.split(), "--output", str(run)]
        peaks = watch([*command, "--set", f"model_args={json.dumps(SMALL)}"], run)[: arguments.epochs]
    row = {
        "what": "memory_over_epochs", "images": arguments.images, "workers": 2,
        "peak_mb": [round(one) for one in peaks], "last_to_third": round(peaks[-1] / peaks[2], 3),
        "load": round(os.getloadavg()[0], 1),
        "machine": machine_name(), "threads": 1, "seed": 0,
        "command": f"python tests/data/flat_memory.py --images {arguments.images} --epochs {arguments.epochs}",
    }  # fmt: skip
    print(json.dumps(row))


if __name__ == "__main__":
    main()
