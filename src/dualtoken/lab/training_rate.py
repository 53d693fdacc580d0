"""How fast networks train: images a second of a plain training step, side by side.

    python -m dualtoken.lab.training_rate dualtoken_vit_t_mix deit_tiny_patch16_224 --output results/training_rate.jsonl

A step is forward, loss, backward and a fused AdamW. Each network has a process of its own, and they step in turn, so
that a slow moment of the machine touches all alike. A network of another checkout of this package takes part as
NAME@FOLDER, FOLDER being the one that holds `dualtoken`: what a change is worth is the ratio of the two, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def measure(networks: list[str], image_size: int, batch_size: int, turns: int, threads: int) -> list[Row]:
    """A row a network: images a second of processor time and of the clock, GMAC/s, and the ratio to the first network.

    The ratio is the median over turns of the first network's time by this one's: above 1 where this one is faster.
    """
    steppers = [_start(network, image_size, batch_size, threads) for network in networks]
    try:
        gmacs = [_ask(stepper)["gmacs"] for stepper in steppers]
        taken: list[list[dict[str, float]]] = [[] for _ in networks]
        for _ in range(turns):
            for times, stepper in zip(taken, steppers, strict=True):
                times.append(_ask(stepper))
    finally:
        for stepper in steppers:
            stepper.kill()
            stepper.communicate()  # waits, and closes its pipes
    processor = [[turn["processor"] for turn in times] for times in taken]
    rows = []
    for network, work, times, cpu in zip(networks, gmacs, taken, processor, strict=True):
        seconds = statistics.median(cpu)
        rows.append({
            "model": network.partition("@")[0], "checkout": "other" if "@" in network else "this",
            "image_size": image_size, "batch_size": batch_size, "turns": turns,
            "images_per_processor_second": batch_size / seconds,
            "images_per_processor_second_best": batch_size / min(cpu),
            "images_per_second": batch_size / statistics.median(turn["clock"] for turn in times),
            "training_gmacs_per_processor_second": 3 * work * batch_size / seconds,
            "times_the_first": statistics.median(a / b for a, b in zip(processor[0], cpu, strict=True)),
        })  # fmt: skip
    return rows


def _start(network: str, image_size: int, batch_size: int, threads: int) -> subprocess.Popen[str]:
    name, _, folder = network.partition("@")
    folders = [folder] if folder else [str(Path(__file__).parents[2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, name, "--image-size", str(image_size), "--batch-size", str(batch_size)]
    return subprocess.Popen(
        [*command, "--threads", str(threads), "--step"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=environment,
    )  # fmt: skip


def _ask(stepper: subprocess.Popen[str]) -> dict[str, float]:
    assert stepper.stdin is not None
    assert stepper.stdout is not None
    stepper.stdin.write("\n")
    stepper.stdin.flush()
    answer: dict[str, float] = json.loads(stepper.stdout.readline())
    return answer


def step_when_asked(name: str, image_size: int, batch_size: int, threads: int) -> None:
    """The process of one network: its GMACs, then a step's seconds, for each line that it is given."""
    import timm
    import torch

    import dualtoken  # noqa: F401 (its networks are in timm's registry)
    from dualtoken.backbone import count_macs

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sized: dict[str, Any] = {"img_size": image_size} if name.startswith(("deit", "vit_")) else {}
    model = timm.create_model(name, num_classes=10, **sized).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    images, labels = torch.randn(batch_size, 3, image_size, image_size), torch.randint(0, 10, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()
    sys.stdin.readline()
    print(json.dumps({"gmacs": count_macs(model, (image_size, image_size)) / 1e9}), flush=True)
    for _ in sys.stdin:
        clock, processor = time.perf_counter(), time.process_time()
        step()
        print(
            json.dumps({"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}), flush=True
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("networks", nargs="+", metavar="NAME[@FOLDER]")
    parser.add_argument("--image-size", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        return step_when_asked(arguments.networks[0], arguments.image_size[0], arguments.batch_size, arguments.threads)
    from dualtoken.lab.rows import append_rows, provenance  # here: a network of another checkout runs this file too

    for size in arguments.image_size:
        rows = measure(arguments.networks, size, arguments.batch_size, arguments.turns, arguments.threads)
        for row in rows:
            print(json.dumps(row), flush=True)
        if arguments.output:
            append_rows(arguments.output, [row | provenance(arguments.threads) for row in rows])
    return None


if __name__ == "__main__":
    main()
