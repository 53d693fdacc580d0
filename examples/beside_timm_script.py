"""A whole run of `dualtoken train` beside timm's own training script: the same network, input, batch and augmentation.

    curl -O https://raw.githubusercontent.com/huggingface/pytorch-image-models/main/train.py
    python examples/beside_timm_script.py train.py PHOTOS [TURNS] [SIZE]

PHOTOS   a folder with train/CLASS/... and val/CLASS/...
TURNS    how often each runs, the two in turn; 3 if not given
SIZE     side of the input in pixels, 128 if not given

Both train T (mix) for three epochs from scratch, with RandAugment, erasing, flips, random crops, an averaged copy of
the weights, clipped gradients and a validation after each epoch, with one loading process and one thread. Compared is
the rate of an epoch as each of them prints or writes it (loading included, validation not, the first epoch left out),
and the processor time of the whole run.
"""

import csv
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dualtoken.lab.rows import provenance

EPOCHS, BATCH, SEED = 3, 32, 0


def timm_command(script: str, photos: str, size: int, output: Path) -> list[str]:
    """timm's script knows our networks once the package is imported."""
    start = f"import dualtoken, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path({script!r}, run_name='__main__')"
    classes = sum(path.is_dir() for path in Path(photos, "train").iterdir())
    settings = (
        f"--model dualtoken_vit_t_mix --num-classes {classes} --img-size {size} --batch-size {BATCH} --epochs {EPOCHS}"
        " --cooldown-epochs 0 --opt adamw --lr 5e-4 --weight-decay 0.05 --warmup-epochs 1 --drop-path 0.05"
        " --smoothing 0.1 --aa rand-m7-mstd0.5-inc1 --reprob 0.1 --scale 0.25 1.0 --color-jitter 0 --model-ema"
        f" --clip-grad 1.0 --workers 1 --device cpu --seed {SEED} --log-interval 1000 --channels-last"
    )
    return [sys.executable, "-c", start, script, photos, *settings.split(), "--output", str(output)]


def our_command(photos: str, size: int, output: Path) -> list[str]:
    """The same by `dualtoken train`."""
    settings = f"--recipe small --model dualtoken_vit_t_mix --image-size {size} --batch-size {BATCH} --epochs {EPOCHS}"
    options = f"--set warmup_epochs=1 --set lr=5e-4 --workers 1 --seed {SEED} --device cpu"
    return [sys.executable, "-m", "dualtoken.cli", "train", photos, *settings.split(), *options.split(), "--output",
            str(output)]  # fmt: skip


def timed(command: list[str]) -> tuple[str, float]:
    """What a command prints, and its processor time in seconds, that of its own processes included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rate_of_timm(printed: str) -> float:
    """Images a second of the last epochs: the mean over an epoch stands in brackets at its last step."""
    found = re.findall(r"Train: \d+ \[ *\d+/\d+ \(100%\)\].*?\( *[\d.]+s, +([\d.]+)/s\)", printed)
    return statistics.median(float(rate) for rate in found[1:])


def our_rate(folder: Path) -> float:
    """Images a second of the last epochs, from metrics.csv."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return statistics.median(float(row["images_per_second"]) for row in list(csv.DictReader(file))[1:])


def main(script: str, photos: str, turns: int = 3, size: int = 128) -> None:
    """Run both in turn, and print a row."""
    rates: dict[str, list[float]] = {"timm": [], "ours": []}
    processor: dict[str, list[float]] = {"timm": [], "ours": []}
    for turn in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            printed, seconds = timed(timm_command(script, photos, size, Path(folder, "timm")))
            rates["timm"].append(rate_of_timm(printed))
            processor["timm"].append(seconds)
            _, seconds = timed(our_command(photos, size, Path(folder, "ours")))
            rates["ours"].append(our_rate(Path(folder, "ours")))
            processor["ours"].append(seconds)
        print(f"turn {turn + 1}: images/s {rates}, processor seconds {processor}", file=sys.stderr)
    row = {
        "what": "training script", "model": "dualtoken_vit_t_mix", "image_size": size, "batch_size": BATCH,
        "epochs": EPOCHS, "turns": turns, "seed": SEED, "images_per_second": rates, "processor_seconds": processor,
        "times_timm": statistics.median(a / b for a, b in zip(rates["ours"], rates["timm"], strict=True)),
        "processor_times_timm": statistics.median(
            b / a for a, b in zip(processor["ours"], processor["timm"], strict=True)
        ),
    }  # fmt: skip
    print(json.dumps(row | provenance(1)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
