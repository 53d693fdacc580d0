"""How fast networks train or predict: images a second of a plain step, side by side.

    python -m dualtoken.lab.training_rate dualtoken_vit_t_mix deit_tiny_patch16_224 --output results/training_rate.jsonl
    python -m dualtoken.lab.training_rate dualtoken_vit_t_mix pvt_v2_b0 --device cuda --how bf16 channels_last

A step is forward, loss, backward and a fused AdamW; with `infer` it is a forward pass. Each network has a process of
its own, and they step in turn, so that a slow moment of the machine touches all alike. A network of another checkout of
this package takes part as NAME@FOLDER, FOLDER being the one that holds `dualtoken`: what a change is worth is the ratio
of the two, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HOW = ("infer", "bf16", "channels_last", "compiled", "graphs")
WARM = 3  # steps before the clock runs on a GPU
PRODUCT = 4096  # side of the square matrices whose product shows what the device can do


def measure(
    networks: list[str], image_size: int, batch_size: int, turns: int, threads: int, device: str = "cpu",
    how: Sequence[str] = (),
) -> list[Row]:  # fmt: skip
    """A row a network: images a second of processor time and of the clock, GMAC/s, and the ratio to the first network.

    The ratio is the median over turns of the first network's time by this one's: above 1 where this one is faster. It
    is of processor time on a CPU, and of the clock on a GPU, where rows also have memory (MiB at the peak) and the
    share of the rate of a large matrix product in the same precision.

    Args:
        networks: NAME or NAME@FOLDER.
        image_size, batch_size, turns, threads: of a step, and how many.
        device: cpu or cuda.
        how: some of `HOW`; graphs are CUDA graphs, by torch.compile.
    """
    options = ["--device", device, *(["--how", *how] if how else [])]
    steppers = [_start(network, image_size, batch_size, threads, options) for network in networks]
    passes = 1 if "infer" in how else 3  # a backward pass is worth two
    judged = "processor" if device == "cpu" else "clock"
    try:
        found = [_ask(stepper) for stepper in steppers]
        gmacs = [one["gmacs"] for one in found]
        taken: list[list[dict[str, float]]] = [[] for _ in networks]
        for _ in range(turns):
            for times, stepper in zip(taken, steppers, strict=True):
                times.append(_ask(stepper))
    finally:
        for stepper in steppers:
            stepper.kill()
            stepper.communicate()  # waits, and closes its pipes
    judged_by = [[turn[judged] for turn in times] for times in taken]
    processor = [[turn["processor"] for turn in times] for times in taken]
    rows = []
    for network, work, times, cpu, own, seen in zip(networks, gmacs, taken, processor, judged_by, found, strict=True):
        seconds, clock = statistics.median(cpu), statistics.median(turn["clock"] for turn in times)
        rate = passes * work * batch_size / clock
        on_gpu: Row = {} if device == "cpu" else {
            "memory_mib": times[-1]["memory"], "gmacs_per_second": rate, "share_of_products": rate / seen["products"],
        }  # fmt: skip
        rows.append({
            "model": network.partition("@")[0], "checkout": "other" if "@" in network else "this",
            "image_size": image_size, "batch_size": batch_size, "turns": turns, "device": device, "how": " ".join(how),
            "images_per_processor_second": batch_size / seconds,
            "images_per_processor_second_best": batch_size / min(cpu),
            "images_per_second": batch_size / clock,
            "gmacs_per_processor_second": passes * work * batch_size / seconds,
            "times_the_first": statistics.median(a / b for a, b in zip(judged_by[0], own, strict=True)),
        } | on_gpu)  # fmt: skip
    return rows


def _start(
    network: str, image_size: int, batch_size: int, threads: int, options: Sequence[str]
) -> subprocess.Popen[str]:
    name, _, folder = network.partition("@")
    folders = [folder] if folder else [str(Path(__file__).parents[2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, name, "--image-size", str(image_size), "--batch-size", str(batch_size)]
    return subprocess.Popen(
        [*command, "--threads", str(threads), *options, "--step"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=environment,
    )  # fmt: skip


def _ask(stepper: subprocess.Popen[str]) -> dict[str, float]:
    assert stepper.stdin is not None
    assert stepper.stdout is not None
    stepper.stdin.write("\n")
    stepper.stdin.flush()
    answer: dict[str, float] = json.loads(stepper.stdout.readline())
    return answer


def step_when_asked(name: str, image_size: int, batch_size: int, threads: int, device: str, how: Sequence[str]) -> None:
    """The process of one network: its GMACs, then a step's seconds, for each line that it is given."""
    import timm
    import torch

    import dualtoken  # noqa: F401 (its networks are in timm's registry)
    from dualtoken.backbone import count_macs

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sized: dict[str, Any] = {"img_size": image_size} if name.startswith(("deit", "vit_")) else {}
    infer, on_gpu = "infer" in how, device != "cpu"
    model = timm.create_model(name, num_classes=10, **sized).train(not infer)
    gmacs = count_macs(model, (image_size, image_size)) / 1e9
    layout = torch.channels_last if "channels_last" in how else torch.preserve_format
    model = model.to(device, memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device).to(memory_format=layout)
    labels = torch.randint(0, 10, (batch_size,), device=device)
    kind = torch.bfloat16 if "bf16" in how else torch.float32
    network: Any = model
    if {"compiled", "graphs"} & set(how):
        network = torch.compile(model, mode="reduce-overhead" if "graphs" in how else "default")

    def step() -> None:
        with torch.autocast(device, kind, enabled=kind is not torch.float32), torch.set_grad_enabled(not infer):
            logits = network(images)
        if not infer:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()

    def products() -> float:
        """GMAC/s of a large product in this precision."""
        matrix = torch.randn(PRODUCT, PRODUCT, device=device, dtype=kind)
        for turn in range(2 * WARM):
            if turn == WARM:
                torch.cuda.synchronize()
                begun = time.perf_counter()
            matrix @ matrix
        torch.cuda.synchronize()
        return PRODUCT**3 * WARM / (time.perf_counter() - begun) / 1e9

    for _ in range(WARM if on_gpu else 1):
        step()
    sys.stdin.readline()
    print(json.dumps({"gmacs": gmacs} | ({"products": products()} if on_gpu else {})), flush=True)
    for _ in sys.stdin:
        clock, processor = time.perf_counter(), time.process_time()
        step()
        taken = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
        memory = {"memory": torch.cuda.max_memory_allocated() / 2**20} if on_gpu else {}
        print(json.dumps(taken | memory), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("networks", nargs="+", metavar="NAME[@FOLDER]")
    parser.add_argument("--image-size", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--how", nargs="*", default=[], choices=HOW)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        return step_when_asked(
            arguments.networks[0], arguments.image_size[0], arguments.batch_size, arguments.threads, arguments.device,
            arguments.how,
        )  # fmt: skip
    from dualtoken.lab.rows import append_rows, provenance  # here: a network of another checkout runs this file too

    for size in arguments.image_size:
        rows = measure(
            arguments.networks, size, arguments.batch_size, arguments.turns, arguments.threads, arguments.device,
            arguments.how,
        )  # fmt: skip
        for row in rows:
            print(json.dumps(row), flush=True)
        if arguments.output:
            append_rows(arguments.output, [row | provenance(arguments.threads) for row in rows])
    return None


if __name__ == "__main__":
    main()
