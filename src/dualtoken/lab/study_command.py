"""`dualtoken study` on the terminal: the plan, the runs, and the table at the end."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from dualtoken.errors import OutputError
from dualtoken.files import write_text
from dualtoken.lab.study import Ready, StudyResult, parse_budget, prepare, study
from dualtoken.lab.study_checks import check_file
from dualtoken.lab.study_folders import FINISHED, Run, runs_of, state_of
from dualtoken.lab.study_pairs import compare_single_seeds
from dualtoken.lab.study_plans import Plan, what_it_tells
from dualtoken.lab.study_table import lines, markdown, note, print_lines
from dualtoken.words import counted


def run(
    name: str,
    data: Path,
    output: Path,
    *,
    budget: str | None = None,
    scale: str | None = None,
    seeds: int = 3,
    only: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    rows: Path | None = None,
    table: bool = False,
    markdown: Path | None = None,
    plot: Path | None = None,
    workers: int | None = None,
    device: str = "auto",
    dry_run: bool = False,
) -> int:
    """Train networks that differ in one thing, seed by seed, and say which differences are more than chance.

    Args:
        name: which study: ablations, peers, mixers or dense.
        data: images and their labels, as for `dualtoken train`.
        output: folder of the study, new or to go on with.
        budget: time to spend, such as 2h, 25m or 1h30m. Left out: no end.
        scale: how large the runs are: cpu or gpu. Left out: cpu; with --table as in the folder.
        seeds: runs of each arm.
        only: names of arms to run, beside the base. Left out: all.
        settings: that all arms share, on top of the scale's.
        rows: JSON lines file to append new rows to as well.
        table: train nothing; show what is there.
        markdown: Markdown file to write the table to, or to renew.
        plot: PNG file to draw, or to renew: each arm's figure with its interval.
        workers: loading processes. Left out: one a core, at most 8.
        device: where to compute: auto, cpu, cuda, cuda:1 or mps.
        dry_run: show the plan and what is left of it.

    Returns:
        1 where a run failed, else 0.
    """
    seconds = None if budget is None else parse_budget(budget)
    if markdown is not None:
        check_page(markdown, name, output)
    if plot is not None:
        check_picture(plot, name, output)
    result = (prepare if dry_run else study)(
        name, data, output, scale=scale, seeds=seeds, only=only, budget=seconds, device=device, workers=workers,
        settings=settings, rows=rows, train=not table,
    )  # fmt: skip
    if isinstance(result, Ready):
        print_plan(result.plan, data, result.runs)
        return 0
    text = show(result, data, output, seeds, only, device=device, workers=workers)
    if markdown is not None and text:
        write_text(markdown, f"{first_line(name, output)}\n\n{text}\n")
        print(f"Written  {markdown}")
    if plot is not None and result.rows:
        from dualtoken.lab.benchmark_plots import save
        from dualtoken.lab.study_plot import dots

        save(dots(result.rows, result.plan.base), plot, own_mark(name, output))
        print(f"Written  {plot}")
    _print_end(result)
    return int(bool(result.failed))


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


def first_line(name: str, output: Path) -> str:
    """By which a page is known as this study's own, to be renewed."""
    return f"<!-- {own_mark(name, output)}: the same command renews this page -->"


def own_mark(name: str, output: Path) -> str:
    """What a page or picture of a study says of where it is from."""
    return f"dualtoken study {name}, folder {output.resolve().name}"


def check_page(page: Path, name: str, output: Path) -> None:
    """Refuse a place for the table that no file can be written to, or whose file this study did not write.

    Raises:
        OutputError: it is such a place.
    """
    check_file(page, "markdown", output)
    if page.is_file() and not page.read_bytes().startswith(first_line(name, output).encode()):
        raise _not_own(page, "markdown")


def check_picture(picture: Path, name: str, output: Path) -> None:
    """Refuse a place for the plot that no file can be written to, or whose file this study did not draw.

    Raises:
        OutputError: it is such a place.
    """
    check_file(picture, "plot", output)
    said = None
    with suppress(OSError), Image.open(picture) as image:
        said = image.info.get("Description")
    if picture.is_file() and said != own_mark(name, output):
        raise _not_own(picture, "plot")


def _not_own(place: Path, flag: str) -> OutputError:
    return OutputError(
        f"{flag} is {str(place)!r}, which is there already and was not written by this study.",
        "Choose another name, or remove it first.",
    )


def print_plan(plan: Plan, data: Path, runs: list[Run]) -> None:
    """How much there is to do, then every run in its order, with its state and the command that would make it."""
    states = [state_of(part) for part in runs]
    arms = counted(len({part.arm.name for part in runs}), "arm")
    print(f"{counted(len(runs), 'run')} of {arms}, {states.count(FINISHED)} finished. {what_it_tells(plan)}\n")
    for part, state in zip(runs, states, strict=True):
        print(f"{state:<9} {command(plan, part, data)}")


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
        them = "it" if len(result.left) == 1 else "them"
        print(f"Left     {counted(len(result.left), 'run')}: the same command goes on with {them}.")
