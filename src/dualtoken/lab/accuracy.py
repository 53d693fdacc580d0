"""How good trained models are: a row of results from the folder of each run.

    python -m dualtoken.lab.accuracy RUN... --output results/accuracy.jsonl
    python -m dualtoken.lab.accuracy --table results/accuracy.jsonl --task classification

A row holds what the run measured at its end, or what `--evaluation` (an `evaluation.json`) measured since, with the
cost of the model and of its training, and the command, commit, machine, threads and seed that made it.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import yaml

from dualtoken.answers import CLASSIFIER
from dualtoken.backbone import count_macs, count_parameters
from dualtoken.errors import ModelError
from dualtoken.lab.columns import markdown_table
from dualtoken.lab.rows import MAIN, append_rows, commit, read_rows
from dualtoken.model_folder import load_model
from dualtoken.outputs import Interval
from dualtoken.tasks import TASKS
from dualtoken.training.state import run_counters


def row(run: str | Path, evaluation: str | Path | None = None) -> dict[str, Any]:
    """What the folder of a run says of itself.

    Args:
        run: folder that `dualtoken train` wrote.
        evaluation: another `evaluation.json` of this model, such as of its training images.

    Raises:
        ModelError: the folder is not that of a finished run.
    """
    run = Path(run)
    model, config = load_model(run)
    provenance = config.provenance
    measured = config.metrics if evaluation is None else json.loads(Path(evaluation).read_text(encoding="utf-8"))
    if not measured:
        raise ModelError(f"{str(run)!r} holds no metrics: its run did not end.", "Continue it with --resume.")
    names = [name for name, value in measured.items() if isinstance(value, dict) and "low" in value]
    counters = run_counters(run)
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        history = list(csv.DictReader(file))
    height, width = config.preprocessing.image_size
    return {
        "task": config.task,
        "model": config.architecture,
        "head": config.head,
        "head_args": config.head_args,
        "data": provenance["data"]["source"],
        "split": measured["split"],
        "images": measured["images"],
        "metrics": {name: measured[name] for name in names},
        "image_size": [height, width],
        "mparams": count_parameters(model) / 1e6,
        "gmacs": count_macs(TASKS[config.task].dense(model), (height, width)) / 1e9,
        "trained_on": provenance["data"]["images"]["train"],
        "epochs": len(history),
        "steps": counters.step,
        "minutes": counters.seconds / 60,
        "seed": provenance["seed"],
        "command": provenance["command"].replace(f"{run.resolve().parent}/", "runs/"),
        "commit": commit(),
        "machine": provenance.get("machine"),
        "threads": provenance.get("threads"),
        "versions": provenance["versions"],
    }


def table(path: str | Path, task: str) -> str:
    """The rows of one task in a JSON lines file as Markdown: what docs/results.md shows."""
    keys = MAIN[task]
    heads = ("model", "input", "parameters, M", "MACs, G", "steps (minutes)", *(f"{key}, %" for key in keys))
    lines = [
        (
            ", ".join(filter(None, (part["model"], part["head"], part.get("note")))),
            " x ".join(map(str, part["image_size"])), f"{part['mparams']:.2f}", f"{part['gmacs']:.3f}",
            f"{part['steps']:,} ({part['minutes']:.0f})", *(_figure(part["metrics"].get(key)) for key in keys),
        )
        for part in read_rows(path) if part["task"] == task
    ]  # fmt: skip
    return markdown_table(heads, lines, numbers=range(1, len(heads)))


def _figure(interval: dict[str, float] | None) -> str:
    return "" if interval is None else Interval(**interval).percent().replace(" %", "")


def main() -> None:
    """Append rows, or print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="folders of runs")
    parser.add_argument("--evaluation", help="evaluation.json to take the metrics from, with one run")
    parser.add_argument("--output", help="JSON lines file to append to")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="what the row lacks, or the commit"
    )
    parser.add_argument("--table", metavar="FILE", help="print the rows of FILE as Markdown instead")
    parser.add_argument("--task", default=CLASSIFIER, choices=MAIN)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table, arguments.task))
        return
    more = {key: yaml.safe_load(value) for key, _, value in (part.partition("=") for part in arguments.set)}
    rows = [row(run, arguments.evaluation) | more for run in arguments.runs]
    for part in rows:
        print(json.dumps(part, indent=2))
    if arguments.output:
        append_rows(arguments.output, rows)


if __name__ == "__main__":
    main()
