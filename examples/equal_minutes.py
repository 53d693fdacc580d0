"""From scratch in equal minutes: `dualtoken train` beside ultralytics' yolo11n-cls.

    pip install ultralytics
    python examples/equal_minutes.py PHOTOS [MINUTES] [SEEDS] [SIZE]

PHOTOS   a folder with train/CLASS/... and val/CLASS/...
MINUTES  for the training of each; 6 if not given
SEEDS    how many, 0, 1, ...; 3 if not given
SIZE     side of the input in pixels, 96 if not given

Both begin with random weights, take their own recipe, load in the training's own process with one thread, and measure
their best weights on val by their own evaluation. The two take turns. Prints a row a seed.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from dualtoken.lab.rows import provenance

PEER = "yolo11n-cls"


def run(*command: str) -> tuple[str, float]:
    """What a command prints, and its seconds."""
    start = time.monotonic()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}")
    return done.stdout, time.monotonic() - start


def ours(photos: Path, minutes: float, seed: int, size: int, folder: Path) -> dict[str, float]:
    """Top-1 of `dualtoken train --from-scratch`, with epochs and seconds."""
    _, seconds = run(
        sys.executable, "-m", "dualtoken.cli", "train", str(photos), "--model", "dualtoken_vit_t_mix", "--output",
        str(folder), "--limit-minutes", str(minutes), "--image-size", str(size), "--seed", str(seed), "--workers", "0",
        "--device", "cpu", "--from-scratch",
    )  # fmt: skip
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    epochs = len((folder / "metrics.csv").read_text(encoding="utf-8").splitlines()) - 1
    return {"top1": evaluation["top1"]["value"], "epochs": epochs, "seconds": round(seconds)}


def theirs(photos: Path, minutes: float, seed: int, size: int, folder: Path) -> dict[str, float]:
    """Top-1 of ultralytics' training, whose `time` is in hours, with epochs and seconds."""
    common = (
        f"data={photos.resolve()}",
        f"imgsz={size}",
        "device=cpu",
        "workers=0",
        f"project={folder}",
        "exist_ok=True",
    )
    _, seconds = run(
        "yolo", "classify", "train", f"model={PEER}.yaml", "pretrained=False", f"time={minutes / 60}", f"seed={seed}",
        "name=run", "plots=False", *common,
    )  # fmt: skip
    said, _ = run("yolo", "classify", "val", f"model={folder / 'run/weights/best.pt'}", "name=val", *common)
    epochs = len((folder / "run" / "results.csv").read_text(encoding="utf-8").splitlines()) - 1
    top1 = re.findall(r"^ +all +([\d.]+) +[\d.]+", said, re.MULTILINE)[-1]
    return {"top1": float(top1), "epochs": epochs, "seconds": round(seconds)}


def main(photos: str, minutes: float = 6, seeds: int = 3, size: int = 96) -> None:
    """Train both for each seed, and print a row."""
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            given = (Path(photos), minutes, seed, size)
            row = {
                "what": "equal minutes", "data": Path(photos).name, "image_size": size, "minutes": minutes,
                "seed": seed, "dualtoken_vit_t_mix": ours(*given, Path(folder, "ours")),
                PEER: theirs(*given, Path(folder, "theirs")), "ultralytics": version("ultralytics"),
            }  # fmt: skip
        print(json.dumps(row | provenance(1)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:3]), *map(int, sys.argv[3:]))
