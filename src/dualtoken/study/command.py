"""`dualtoken study` on the terminal: the plan, the runs, and the table at the end."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from dualtoken.data.finding import task_of
from dualtoken.files import refuse_existing, write_text
from dualtoken.study.comparing import compare_single_seeds
from dualtoken.study.folders import FINISHED, Run, runs_of, state_of
from dualtoken.study.plans import Plan, make_plan, what_it_tells
from dualtoken.study.run import StudyResult, parse_budget, study
from dualtoken.study.table import lines, markdown, note, print_lines


def run(
    name: str,
    data: Path,
    output: Path,
    *,
    budget: str | None = None,
    scale: str = "cpu",
    seeds: int = 3,
    only: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    rows: Path | None = None,
    table: bool = False,
    markdown: Path | None = None,
    workers: int | None = None,
    device: str = "auto",
    dry_run: bool = False,
) -> int:
    """What the verb does; how many runs failed. Arguments as of `dualtoken.study.study`, times as people say them."""
    seconds = None if budget is None else parse_budget(budget)
    if markdown is not None:
        refuse_existing(markdown, "--markdown")
    if dry_run:
        labels = (settings or {}).get("labels", "auto")
        print_plan(make_plan(name, scale, task_of(data, labels=labels), settings), data, output, seeds, only)
        return 0
    result = study(
        name, data, output, scale=scale, seeds=seeds, only=only, budget=seconds, device=device, workers=workers,
        settings=settings, rows=rows, train=not table,
    )  # fmt: skip
    text = show(result, data, output, seeds, only, device=device, workers=workers)
    if markdown is not None and text:
        write_text(markdown, text + "\n")
        print(f"Written  {markdown}")
    _print_end(result)
    return len(result.failed)


def show(result: StudyResult, data: Path, output: Path, seeds: int, only: list[str] | None, **machine: Any) -> str:
    """Print the table of what is finished; the same as Markdown, empty where nothing is."""
    plan = result.plan
    if not result.rows:
        print("No run is finished yet.")
        return ""
    compared = compare_single_seeds(plan, output, runs_of(plan, output, seeds, only), data, **machine)
    parts = lines(result.rows, plan.base, compared)
    print()
    print_lines(parts, plan.task)
    print(what_it_tells(plan))
    return f"{markdown(parts, plan.task)}\n\n{note(parts)} {what_it_tells(plan)}"


def print_plan(plan: Plan, data: Path, output: Path, seeds: int, only: list[str] | None) -> None:
    """Every run in its order, with its state and the command that would make it."""
    runs = runs_of(plan, output, seeds, only)
    for part in runs:
        print(f"{state_of(part):<9} {command(plan, part, data)}")
    done = sum(state_of(part) == FINISHED for part in runs)
    print(f"\n{len(runs)} runs of {len(runs) // seeds} arms, {done} finished. {what_it_tells(plan)}")


def command(plan: Plan, run: Run, data: Path) -> str:
    """The command of `dualtoken train` that makes a run."""
    words = ["dualtoken", "train", str(data), "--recipe", plan.recipe]
    for key, value in plan.settings_of(run.arm, run.seed).items():
        if key in ("model", "head", "task", "epochs", "seed") or (key == "image_size" and isinstance(value, int)):
            words += [f"--{key.replace('_', '-')}", str(value)]
        else:
            words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join([*words, "--output", str(run.folder)])


def _print_end(result: StudyResult) -> None:
    for part, reason in result.failed:
        print(f"Failed   {part.name}: {reason}")
    if result.left:
        print(f"Left     {len(result.left)} runs: the same command goes on with them.")
