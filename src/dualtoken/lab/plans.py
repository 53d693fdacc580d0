"""What training and prediction cost past one machine: arithmetic from rates, and a simulation of what goes wrong.

    python -m dualtoken.lab.plans                      # the tables of docs/scale.md
    python -m dualtoken.lab.plans --gpu-trains 3500    # with a rate of your own

Rates are per device; what is done with them are the formulas of docs/scale.md. Two things resist formulas and are
simulated with a fixed seed: workers that fail, and workers that are slower than others.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from dualtoken.lab.columns import markdown_table

HOUR = 3600.0
IMAGENET, BILLION = 1_281_167, 1_000_000_000
SEED, RUNS = 0, 200


@dataclass(frozen=True)
class Rates:
    """What the tables are made from.

    Attributes:
        gpu_trains: images a second that a GPU trains, T (mix), 224 pixels; an assumption, see examples/speed_gpu.sh
        gpu_predicts: images a second that a GPU answers; an assumption too
        core_loads: images a second that a core decodes, crops and scales; JPEGs of 105 KB, measured
        core_predicts: images a second that a core answers, with decoding; ONNX Runtime, batch 8, measured
        image_bytes: of a JPEG
        parameters: of the network
        link: bytes a second between any two machines
        gpu_days: mean days until a GPU, or what it stands in, fails
        restart: seconds from a failure until work goes on
        save: seconds in which training stands still for a state to be written
        spread: standard deviation of a worker's speed, as a share
        step: images of one GPU in a step
        gpu_price: of a GPU for an hour, with its cores
        core_price: of a core for an hour
    """

    gpu_trains: float = 2000
    gpu_predicts: float = 8000
    core_loads: float = 300
    core_predicts: float = 38
    image_bytes: float = 105e3
    parameters: float = 5.93e6
    link: float = 3e9
    gpu_days: float = 100
    restart: float = 300
    save: float = 1
    spread: float = 0.05
    step: float = 128
    gpu_price: float = 2.5
    core_price: float = 0.04


# ---------------------------------------------------------------- formulas


def step_seconds(rates: Rates, gpus: int) -> tuple[float, float]:
    """Of one step: computing, and the ring all-reduce of float32 gradients, twice the weights less a share each way."""
    bytes_moved = 2 * (gpus - 1) / gpus * 4 * rates.parameters
    return rates.step / rates.gpu_trains, bytes_moved / rates.link


def best_interval(rates: Rates, gpus: int) -> float:
    """Seconds between two states that lose least (Young 1974): the root of 2 x time to save x time to a failure."""
    return float(np.sqrt(2 * rates.save * failure_seconds(rates, gpus)))


def failure_seconds(rates: Rates, workers: int) -> float:
    """Mean seconds until one of them fails."""
    return rates.gpu_days * 24 * HOUR / workers


# ---------------------------------------------------------------- simulations


def slowest(spread: float, workers: int, generator: np.random.Generator, steps: int = 2000) -> float:
    """How much longer a step takes than the mean one, where all wait for the slowest; 1 for a single worker."""
    if workers == 1:
        return 1.0
    times = generator.lognormal(-(spread**2) / 2, spread, (steps, workers))
    return float(times.max(1).mean())


def run_seconds(work: float, every: float, failures: float, rates: Rates, generator: np.random.Generator) -> float:
    """Seconds that a run of `work` seconds takes, saved every so often, where it fails after `failures` on average.

    A failure costs the restart, and the work since the last state that was written whole.
    """
    clock = kept = 0.0
    while kept < work:
        until = generator.exponential(failures)
        whole = int(until // (every + rates.save))  # states written before it fails
        if kept + until - whole * rates.save >= work:
            left = work - kept
            return clock + left + int(left // every) * rates.save
        kept += whole * every
        clock += until + rates.restart
    return clock


def parts_seconds(
    parts: int, part: float, workers: int, rates: Rates, generator: np.random.Generator, shared: bool = True
) -> float:
    """Seconds until all parts are answered: the next one goes to whoever is free, or each worker has its share.

    A worker that fails starts its part anew after the restart; `part` are seconds at mean speed.
    """
    speeds = generator.lognormal(-(rates.spread**2) / 2, rates.spread, workers)
    failures = failure_seconds(rates, 1)

    def taken(worker: int) -> float:
        needed, spent = part / speeds[worker], 0.0
        while (until := generator.exponential(failures)) < needed:
            spent += until + rates.restart
        return float(spent + needed)

    if not shared:
        shares = np.full(workers, parts // workers)
        shares[: parts % workers] += 1
        return max(sum(taken(worker) for _ in range(share)) for worker, share in enumerate(shares))
    free = [(0.0, worker) for worker in range(workers)]
    for _ in range(parts):
        clock, worker = heapq.heappop(free)
        heapq.heappush(free, (clock + taken(worker), worker))
    return max(clock for clock, _ in free)


# ---------------------------------------------------------------- tables


def training_table(rates: Rates, epochs: int = 300, machines: Sequence[int] = (1, 8, 64)) -> str:
    """ImageNet-1K: hours, reading, cores for loading, money."""
    rows = []
    for gpus in machines:
        compute, reduce = step_seconds(rates, gpus)
        waits = slowest(rates.spread, gpus, np.random.default_rng(SEED))
        step = compute * waits + reduce
        seconds = IMAGENET * epochs / (rates.step * gpus) * step
        read = rates.step * gpus / step
        rows.append(
            [f"{gpus}", f"{seconds / HOUR:,.1f} h", f"{reduce / step:.1%}", f"{1 - 1 / waits:.1%}", f"{read:,.0f}",
             f"{read * rates.image_bytes / 1e6:,.0f} MB/s", f"{read / rates.core_loads:,.0f}",
             f"{seconds / HOUR * gpus * rates.gpu_price:,.0f}"]
        )  # fmt: skip
    head = ["GPUs", "time", "all-reduce", "waiting for the slowest", "images/s", "read", "cores for loading", "money"]
    return markdown_table(head, rows, numbers=range(8))


def saving_table(rates: Rates, gpus: int = 64, days: float = 7) -> str:
    """What a run that takes days loses, by how often its state is saved."""
    work, failures = days * 24 * HOUR, failure_seconds(rates, gpus)
    best = best_interval(rates, gpus)
    intervals = [("10 seconds", 10.0), (f"{best / 60:.0f} minutes: Young's formula", best), ("30 minutes", HOUR / 2),
                 ("4 hours", 4 * HOUR), ("a day", 24 * HOUR)]  # fmt: skip
    rows = []
    for name, every in intervals:
        generator = np.random.default_rng(SEED)
        taken = [run_seconds(work, every, failures, rates, generator) / work - 1 for _ in range(RUNS)]
        rows.append([name, f"{np.mean(taken):.1%}", f"{np.quantile(taken, 0.95):.1%}"])
    return markdown_table(["saved every", "longer by, mean", "by, worst of 20"], rows, numbers=range(1, 3))


def prediction_table(rates: Rates, images: int = BILLION) -> str:
    """A billion images: hours, bytes, money."""
    rows = []
    for name, count, rate, price in (
        ("cores", 64, rates.core_predicts, rates.core_price), ("cores", 1024, rates.core_predicts, rates.core_price),
        ("GPUs", 1, rates.gpu_predicts, rates.gpu_price), ("GPUs", 8, rates.gpu_predicts, rates.gpu_price),
        ("GPUs", 64, rates.gpu_predicts, rates.gpu_price),
    ):  # fmt: skip
        hours = images / (count * rate) / HOUR
        loading = f"{count * rate / rates.core_loads:,.0f}" if name == "GPUs" else "the same"
        who = f"{count:,} {name}" if count > 1 else f"1 {name[:-1]}"
        rows.append([who, f"{hours:,.1f} h", f"{count * rate * rates.image_bytes / 1e6:,.0f} MB/s",
                     loading, f"{hours * count * price:,.0f}"])  # fmt: skip
    return markdown_table(["workers", "time", "read", "cores for loading", "money"], rows, numbers=range(1, 5))


def parts_table(rates: Rates, images: int = 100_000_000, workers: int = 1024) -> str:
    """What a part's size costs: longer than `images` by all workers at mean speed without a failure."""
    ideal = images / workers / rates.core_predicts
    rows = []
    for size in (1_000, 10_000, 50_000, -(-images // workers)):
        part = size / rates.core_predicts
        both = []
        for shared in (True, False):
            generator = np.random.default_rng(SEED)
            taken = parts_seconds(-(-images // size), part, workers, rates, generator, shared=shared)
            both.append(f"{taken / ideal - 1:.1%}")
        rows.append([f"{size:,}", f"{part / 60:,.1f} min", *both])
    head = ["images of a part", "one takes", "longer by: next part to whoever is free", "fixed shares"]
    return markdown_table(head, rows, numbers=range(4))


def tables(rates: Rates) -> dict[str, str]:
    """All tables of docs/scale.md by name."""
    return {
        "training": training_table(rates), "saving": saving_table(rates), "prediction": prediction_table(rates),
        "parts": parts_table(rates),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="What training and prediction cost past one machine.")
    for field in fields(Rates):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    rates = replace(Rates(), **vars(parser.parse_args(arguments)))
    for name, table in tables(rates).items():
        print(f"{name}\n\n{table}\n")


if __name__ == "__main__":
    main()
