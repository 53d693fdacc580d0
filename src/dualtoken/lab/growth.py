"""How cost grows with the image: multiply-accumulates, time and memory from 224 to 1024 pixels.

    python -m dualtoken.lab.growth --output results/growth.jsonl
    python -m dualtoken.lab.growth --table results/growth.jsonl --plot growth.png

The global tokens stay 7 x 7, so the cost of DualToken-ViT should grow as the number of pixels does. Times
are taken in interleaved rounds, so that a slow moment of the machine touches every size alike; memory is
the peak of a process of its own, less the peak of one that only builds the model.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from dualtoken.backbone import count_macs, create_model
from dualtoken.files import refuse_existing
from dualtoken.lab.columns import markdown_table
from dualtoken.lab.networks import Subject, build, merge
from dualtoken.lab.rows import append_rows, provenance, read_rows
from dualtoken.machine import peak_rss

SIZES = (224, 320, 448, 640, 896, 1024)
_COMPARED = ("pixels", "gmacs", "latency", "peak")  # a row has the ratio of each to the smallest image's


def measure(model_name: str, sizes: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """A row a size: GMACs, median and quartiles of the eager latency (ms, batch 1), peak memory (MiB), ratios."""
    model = _ready(model_name, sizes[0])
    images = {size: torch.randn(1, 3, size, size).contiguous(memory_format=torch.channels_last) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    with torch.inference_mode():
        for size in sizes:
            model(images[size])
        for _ in range(rounds):
            for size in sizes:
                start = time.perf_counter()
                model(images[size])
                times[size].append((time.perf_counter() - start) * 1e3)
    base = _peak(model_name, 0)
    rows: list[dict[str, Any]] = []
    for size in sizes:
        low, median, high = statistics.quantiles(times[size], n=4)
        rows.append(
            {
                "model": model_name,
                "image_size": size,
                "pixels_ratio": (size / sizes[0]) ** 2,
                "gmacs": count_macs(create_model(model_name), (size, size)) / 1e9,
                "latency_ms": median,
                "latency_quartiles_ms": [low, high],
                "peak_mib": _peak(model_name, size) - base,
                "rounds": rounds,
                "batch_size": 1,
                "engine": "eager, fused, channels last, float32",
            }
        )
    for row in rows:
        for key in ("gmacs", "latency_ms", "peak_mib"):
            row[f"{key.split('_')[0]}_ratio"] = row[key] / rows[0][key]
    return rows


def _ready(model_name: str, size: int) -> torch.nn.Module:
    return merge(build(Subject(model_name, "network"), size)).to(memory_format=torch.channels_last)


def _peak(model_name: str, size: int) -> float:
    """Peak memory in MiB of a process that runs the model once at `size`, or for 0 only builds it."""
    command = [sys.executable, "-m", __spec__.name, "--one", model_name, str(size)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _run_once(model_name: str, size: int) -> None:
    model = _ready(model_name, size or SIZES[0])
    if size:
        with torch.inference_mode():
            model(torch.randn(1, 3, size, size))
    print(peak_rss() / 2**20)


def table(path: str) -> str:
    """The rows of a JSON lines file as Markdown: what docs/results.md shows."""
    lines = []
    for row in read_rows(path):
        pixels, gmacs, latency, peak = (f"x {row[f'{key}_ratio']:.2f}" for key in _COMPARED)
        low, high = row["latency_quartiles_ms"]
        time_taken = f"{row['latency_ms']:.1f} ({low:.1f} to {high:.1f})"
        sides = f"{row['image_size']}^2, {pixels}"
        lines.append((row["model"], sides, gmacs, time_taken, latency, f"{row['peak_mib']:.0f}", peak))
    heads = ("model", "pixels", "MACs", "time, ms (quartiles)", "time", "memory, MiB", "memory")
    return markdown_table(heads, lines, numbers=range(1, 7))


def main() -> None:
    """Measure and append rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["dualtoken_vit_t_mix", "dualtoken_vit_s_mix", "lightvit_t"])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", help="JSON lines file to append to")
    parser.add_argument("--table", metavar="FILE", help="print the rows of FILE as Markdown instead")
    parser.add_argument("--plot", metavar="PNG", help="draw the rows that are measured, or those of --table's FILE")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _run_once(arguments.one[0], int(arguments.one[1]))
        return
    if arguments.plot:
        refuse_existing(arguments.plot, "--plot")
        from dualtoken.lab.benchmark_plots import growth_plot, save
    if arguments.table:
        print(table(arguments.table))
        if arguments.plot:
            save(growth_plot(read_rows(arguments.table)), arguments.plot)
        return
    measured = []
    for name in arguments.models:
        rows = [row | provenance() for row in measure(name, tuple(arguments.sizes), arguments.rounds)]
        for row in rows:
            ratios = "  ".join(f"{key} x{row[f'{key}_ratio']:6.2f}" for key in _COMPARED)
            print(f"{name}  {row['image_size']:4d} px  {ratios}  {row['latency_ms']:.1f} ms  {row['peak_mib']:.0f} MiB")
        if arguments.output:
            append_rows(arguments.output, rows)
        measured += rows
    if arguments.plot:
        save(growth_plot(measured), arguments.plot)


if __name__ == "__main__":
    main()
