"""Where an arm has one seed only: its run and the base's on the same images, kept beside the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualtoken.lab.rows import Row, append_rows, read_rows
from dualtoken.lab.study import Say
from dualtoken.lab.study_folders import COMPARISONS, FINISHED, Run, state_of
from dualtoken.lab.study_plans import Plan


def compare_single_seeds(
    plan: Plan, folder: Path, runs: list[Run], data: str | Path, *, device: str = "auto", workers: int | None = None,
    say: Say = print,
) -> dict[tuple[str, int], Row]:  # fmt: skip
    """By (arm, seed) what `evaluation.compare` says of base and arm, for arms with one seed that the base has too.

    What was compared before is taken from comparisons.jsonl; the rest is measured and added there.
    """
    known = {(row["arm"], row["seed"]): row for row in kept(folder)}
    finished = {(run.arm.name, run.seed): run for run in runs if state_of(run) == FINISHED}
    base = {seed for arm, seed in finished if arm == plan.base}
    for (arm, seed), run in finished.items():
        seeds = {other for name, other in finished if name == arm} & base
        if arm == plan.base or seeds != {seed} or (arm, seed) in known:
            continue
        say(f"Comparing {run.name} with {plan.base}, image by image.")
        reading = {name: plan.settings[name] for name in ("labels", "on_bad_image") if name in plan.settings}
        row = _compare(finished[plan.base, seed], run, data, {"device": device, "workers": workers} | reading)
        append_rows(folder / COMPARISONS, [row])
        known[arm, seed] = row
    return known


def kept(folder: Path) -> list[Row]:
    """The comparisons made so far."""
    return read_rows(folder / COMPARISONS) if (folder / COMPARISONS).is_file() else []


def _compare(base: Run, run: Run, data: str | Path, how: dict[str, Any]) -> Row:
    from dualtoken.evaluation import compare

    found = compare(base.folder, run.folder, data, split="val", seed=run.seed, **how)
    own = found.to_dict()
    measured = {name: own[name] for name in ("split", "images", "difference", "better", "resamples")}
    test = {"p_value": own.get("p_value"), "title": own.get("title")}  # classes have McNemar's test, others a metric
    return {"arm": run.arm.name, "seed": run.seed, "base": base.arm.name} | measured | test
