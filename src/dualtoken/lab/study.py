"""What `dualtoken study` does, top to bottom: plan, run what is missing, write rows, say what can be said."""

from __future__ import annotations

import _thread
import gc
import re
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dualtoken.data import find_data, plan_data
from dualtoken.errors import ConfigError, OutputError, UserError
from dualtoken.files import writable_folder
from dualtoken.lab.rows import Row, append_rows
from dualtoken.lab.study_checks import check_file, check_folder, check_numbers
from dualtoken.lab.study_folders import (
    BEGUN,
    FINISHED,
    IN_DOUBT,
    PLAN,
    ROWS,
    TO_DO,
    Run,
    check_plan,
    check_run,
    clear_unsaved,
    keep_plan,
    locked,
    read_plan,
    runs_of,
    state_of,
)
from dualtoken.lab.study_plans import CPU, Plan, check_names, check_settings, make_plan
from dualtoken.lab.study_rows import KEYS, read_study_rows
from dualtoken.model_folder import load_config
from dualtoken.training.config import TrainConfig
from dualtoken.training.progress import duration
from dualtoken.training.recipes import load_recipe
from dualtoken.words import counted

_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")

Say = Callable[[str], None]


@dataclass
class StudyResult:
    """What a call of `study` leaves.

    Attributes:
        plan: of the study.
        rows: one a finished run, those of earlier calls among them.
        left: runs that did not fit into the budget, or were not begun for another reason.
        failed: (run, reason) of those that ended with an error.
    """

    plan: Plan
    rows: list[Row]
    left: list[Run] = field(default_factory=list)
    failed: list[tuple[Run, str]] = field(default_factory=list)


def study(
    name: str, data: str | Path, output: str | Path, *, train: bool = True, say: Say = print, **options: Any
) -> StudyResult:
    """Train every arm of a study that is not trained yet, seed by seed, and write a row as each run ends.

    A run is a plain folder of `dualtoken train`, `output/ARM/seed-N`. Finished ones are skipped, one that was stopped
    is continued. What is written: study.json (the plan), the runs, rows.jsonl.

    Args:
        name, data, output: as `dualtoken study` takes them.
        train: False to train nothing and take what is there.
        say: told what happens, a line at a time.
        **options: the further ones of `prepare`.

    Raises:
        UserError: the study cannot be begun: an unknown name, another plan in the folder, images that cannot be used.
        KeyboardInterrupt: after Ctrl-C, when the state of the run under way is saved.
    """
    ready = prepare(name, data, output, train=train, **options)
    with locked(writable_folder(ready.folder), needed=train):
        keep_plan(ready.folder, ready.plan, ready.images)
        rows = rows_of_finished(ready.plan, ready.folder, ready.runs, ready.rows, found=True)
        result = StudyResult(ready.plan, rows)
        if train:
            _train_all(result, ready, data, say)
    return result


# ---------------------------------------------------------------- before anything is written


@dataclass(frozen=True)
class Ready:
    """A study that may begin: everything that can be refused was looked at.

    Attributes:
        images: `source` and `fingerprint` of the data.
        rows, budget: as in `prepare`.
        machine: device and workers, as `dualtoken train` takes them.
    """

    plan: Plan
    folder: Path
    runs: list[Run]
    images: dict[str, str]
    rows: Path | None
    budget: float | None
    machine: dict[str, Any]


def prepare(
    name: str,
    data: str | Path,
    output: str | Path,
    *,
    scale: str | None = None,
    seeds: int = 3,
    only: list[str] | None = None,
    budget: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    settings: dict[str, Any] | None = None,
    rows: str | Path | None = None,
    train: bool = True,
) -> Ready:
    """Check a call of `study`, from what is quick to what takes a while; nothing is written.

    Args:
        budget: seconds. A run that is not expected to fit is left for the next call; one that takes longer than
            expected is stopped with its state saved. None for no end.
        train: with False `scale` and `settings`, where they are None, are those that the folder was begun with.
        others: as `dualtoken study` takes them.

    Raises:
        UserError: as `study`.
    """
    folder = Path(output)
    check_names(name, scale or CPU, only)
    check_numbers(seeds, budget)
    check_settings(settings or {})
    TrainConfig.from_settings((settings or {}) | ({} if workers is None else {"workers": workers}))
    check_folder(folder, name, Path(data))
    if rows is not None:
        check_file(Path(rows), "rows", folder)
        read_study_rows(Path(rows))
    plan = _plan(name, data, folder, scale, settings, kept=not train)
    runs = runs_of(plan, folder, seeds, only)
    if not train and not (folder / PLAN).is_file() and all(state_of(run) == TO_DO for run in runs):
        raise OutputError(f"There is no study in {str(folder)!r}.", "Give the folder that a study was begun in.")
    config = load_recipe(plan.recipe, plan.settings)
    reading = {name: getattr(config, name) for name in ("labels", "on_bad_image", "val_fraction")}
    found = find_data(data, task=plan.task, **reading)
    images = {"source": Path(found.source).name, "fingerprint": found.fingerprint}
    check_plan(folder, plan, images)
    for run in runs:
        if state_of(run) in (FINISHED, BEGUN):
            check_run(run, plan, found.fingerprint)
    if device != "auto":  # which fits every machine
        from dualtoken.engines.torch import choose_device

        choose_device(device)
    machine = {"device": device, "workers": workers}
    machine = {name: value for name, value in machine.items() if value is not None}
    return Ready(plan, folder, runs, images, None if rows is None else Path(rows), budget, machine)


def _plan(
    name: str, data: str | Path, folder: Path, scale: str | None, settings: dict[str, Any] | None, *, kept: bool
) -> Plan:
    """The plan as the arguments have it; with `kept` that of the folder, as far as the arguments leave it open."""
    before = read_plan(folder) if kept and (folder / PLAN).is_file() else {}
    scale = scale or before.get("scale", CPU)
    own = settings or before.get("settings", {})
    plan = make_plan(name, scale, plan_data(data, labels=own.get("labels", "auto")).task, settings)
    if not settings and before.get("scale") == scale:
        plan = replace(plan, settings=before["settings"])
    load_recipe(plan.recipe, plan.settings)  # a mistake in the settings is answered now
    return plan


def _train_all(result: StudyResult, ready: Ready, data: str | Path, say: Say) -> None:
    """Every run that is not finished, in order, as long as the budget lasts."""
    end = None if ready.budget is None else time.monotonic() + ready.budget
    runs = ready.runs
    waiting = [run for run in runs if state_of(run) != FINISHED]
    say(f"{len(runs) - len(waiting)} of {counted(len(runs), 'run')} finished.")
    import torch

    for number, run in enumerate(waiting, 1):
        if state_of(run) == IN_DOUBT:
            say(f"{run.name}: begun minutes ago, nothing saved; somebody may be at work there. Left for the next call.")
            result.left.append(run)
            continue
        expected = _expected_seconds(run, result.rows)
        if end is not None and time.monotonic() + expected > end:
            needs = f"about {duration(expected)}, more than is left of the budget" if expected else "no time is left"
            say(f"{run.name}: {needs}. Left for the next call.")
            result.left.append(run)
            continue
        say(f"\n[{number} of {len(waiting)}] {run.name}" + (f", about {duration(expected)}" if expected else ""))
        try:
            with _stopped_at(end) as over:
                _train(run, ready, data)
        except UserError as error:
            say(f"{run.name} failed: {error}")
            result.failed.append((run, str(error)))
            continue
        except KeyboardInterrupt:
            verb = "continued" if state_of(run) == BEGUN else "begun"
            again = f"By the same `dualtoken study`, called again, {run.name} is {verb} and the rest follows."
            if not over.is_set():
                say(f"The study was stopped. {again}")
                raise
            say(f"The budget is used up. {again}")
            result.left += waiting[number - 1 :]
            return
        finally:  # what the run held on the device, before the next one asks for it
            gc.collect()
            torch.cuda.empty_cache()
        result.rows = rows_of_finished(ready.plan, ready.folder, runs, ready.rows)


def _train(run: Run, ready: Ready, data: str | Path) -> None:
    """One run of `dualtoken train`, begun or continued."""
    from dualtoken.training import train

    if state_of(run) == BEGUN:
        train(data, resume=run.folder, **ready.machine)
        return
    clear_unsaved(run.folder)
    train(data, run.folder, recipe=ready.plan.recipe, **ready.plan.settings_of(run.arm, run.seed) | ready.machine)


@contextmanager
def _stopped_at(end: float | None) -> Iterator[threading.Event]:
    """Press Ctrl-C when the time is over: the run then saves its state. The event says that it was us."""
    over = threading.Event()
    if end is None:
        yield over
        return

    def stop() -> None:
        over.set()
        _thread.interrupt_main()

    timer = threading.Timer(max(0.0, end - time.monotonic()), stop)
    timer.daemon = True
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if deaf:  # as a shell starts what it runs in the background: nothing would be heard
        signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        yield over
    finally:
        timer.cancel()
        if deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _expected_seconds(run: Run, rows: list[Row]) -> float:
    """What the run will take: as the same arm took with another seed, else as arms mostly took; 0 if unknown."""
    own = [row["minutes"] for row in rows if row["arm"] == run.arm.name]
    known = own or [row["minutes"] for row in rows]
    return 60 * statistics.median(known) if known else 0.0


# ---------------------------------------------------------------- rows


def rows_of_finished(
    plan: Plan, folder: Path, runs: list[Run], extra: str | Path | None = None, *, found: bool = False
) -> list[Row]:
    """A row for each finished run; those that rows.jsonl (and `extra`) lack are added there.

    Args:
        found: the runs were there when this process came: it cannot say which version of the code made them.
    """
    kept = _by_run(read_study_rows(folder / ROWS))
    keys = {(plan.study, plan.scale, plan.task, run.arm.name, run.seed): run for run in runs}
    new = [_row(run, plan, folder) for key, run in keys.items() if state_of(run) == FINISHED and key not in kept]
    new = [row | {"commit": None} for row in new] if found else new
    if new:
        append_rows(folder / ROWS, new)
    kept |= _by_run(new)
    chosen = {key: kept[key] for key in keys if key in kept}
    if extra is not None:
        there = _by_run(read_study_rows(Path(extra)))
        if more := [row for key, row in chosen.items() if key not in there]:
            append_rows(extra, more)
    return list(chosen.values())


def _row(run: Run, plan: Plan, folder: Path) -> Row:
    from dualtoken.lab.accuracy import row

    about = {"study": plan.study, "scale": plan.scale, "arm": run.arm.name, "says": run.arm.says}
    command = load_config(run.folder).provenance["command"]
    return about | row(run.folder) | {"command": _tidy(command, folder)}


def _tidy(command: str, folder: Path) -> str:
    """A command without the places of this machine: files and folders by their last names."""
    words = []
    for word in command.split(" "):
        path = Path(word)
        if path.is_absolute():
            inside = path.is_relative_to(folder.resolve())
            word = path.relative_to(folder.resolve().parent).as_posix() if inside else path.name
        words.append(word)
    return " ".join(words)


def _by_run(rows: list[Row]) -> dict[tuple[Any, ...], Row]:
    return {tuple(row[key] for key in KEYS): row for row in rows}


def parse_budget(text: str) -> float:
    """`2h`, `1h30m`, `25m`, `90s` to seconds.

    Raises:
        ConfigError: it is none of these, or nothing.
    """
    text = text.strip().lower()
    match = _BUDGET.fullmatch(text)
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total > 0:
        return total
    if re.fullmatch(r"\d+(\.\d+)?", text) and float(text) > 0:
        raise ConfigError(f"--budget is {text!r}: its unit is missing.", f"Type: {text}s, {text}m or {text}h.")
    raise ConfigError(f"--budget is {text!r}, expected a time above 0.", "Type: 2h, 25m, 1h30m or 90s.")
