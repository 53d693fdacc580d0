"""Prediction over many processes and machines, by Ray Data: parts of the input in, partitioned parquet out.

A part is one shard, or some files. A worker answers it whole and writes it under its name when it is complete, so that
a part whose worker was killed is answered anew, and a run that was stopped goes on with the parts that are missing:
every image has its answer once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dualtoken.data.shards import are_shards, tars_of
from dualtoken.errors import ConfigError, OutputError, require
from dualtoken.files import alone, digest, write_json
from dualtoken.hub import find_model
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.prediction.command import Options, refuse_useless
from dualtoken.prediction.inputs import NamedInput, Note, collect_inputs
from dualtoken.prediction.models import load
from dualtoken.prediction.predictor import Predictor
from dualtoken.report import prediction_table
from dualtoken.words import counted

PLAN, DONE, PREDICTIONS, UNREAD = "plan.json", "done", "predictions", "unread"
PART_IMAGES = 1000  # of a part, where it is made of files
_MOST_BLOCKS = 1000  # that Ray keeps track of; each holds one part or more
_PATIENCE = 5  # seconds for a cluster to answer
Part = str | Sequence[NamedInput]  # a shard's name, whose worker looks into it, or names and sources of files


@dataclass(frozen=True)
class Job:
    """What every worker must know: the model, and how it is to answer, see `predict_parts`."""

    model: str
    output: str
    device: str = "auto"
    trust: bool = False
    threshold: float | None = None
    max_objects: int | None = None
    top: int = 5
    batch_size: int | None = None
    limits: ImageLimits = DEFAULT_LIMITS
    home: str = field(default_factory=os.getcwd)  # what relative paths are relative to


@dataclass(frozen=True)
class Work:
    """One part and what to do with it."""

    job: Job
    number: int
    part: Part


def predict_parts(
    job: Job,
    inputs: Sequence[str],
    *,
    part_images: int = PART_IMAGES,
    workers: int | None = None,
    address: str | None = None,
    note: Note | None = None,
    progress: bool = True,
) -> tuple[int, int]:
    """Answer everything that `inputs` mean, in parts, on a Ray cluster.

    `output` gets `predictions/part-00000.parquet` and so on, with the columns of every table of predictions;
    `unread/part-00000.parquet` with path and error for what could not be read; `done/`, a small file for each part that
    is complete; and `plan.json`. Where they are there already, what is missing is done.

    Args:
        job: model, folder and settings. On several machines both paths must mean the same on each.
        inputs: as for `collect_inputs`, but no videos. Of shards every tar is a part.
        part_images: of files, so many are a part.
        workers: processes; None takes one for each processor of the cluster.
        address: of a running cluster, `auto` for that of this machine; None starts one here, which ends with the call.
        note: gets a line about how the work is divided.
        progress: show a bar where standard error is a terminal.

    Returns:
        How many were answered, and how many could not be read, those of earlier runs included.

    Raises:
        ConfigError: there is no such cluster, or the numbers are impossible.
        OutputError: the folder holds something else, or predictions of another model or other inputs.
        MissingExtraError: Ray or pyarrow is not installed.
    """
    if part_images < 1 or (workers is not None and workers < 1):
        raise ConfigError(f"part_images is {part_images} and workers {workers}, expected 1 or more of each.")
    for module in ("ray", "pyarrow.parquet"):
        require(module, "ray")
    model = load(job.model, device=job.device, trust=job.trust).limited(job.max_objects)  # a mistake is answered here
    refuse_useless(Options(threshold=job.threshold), model.kind)
    output = Path(job.output)
    with alone(output):
        parts = list(_parts(inputs, part_images, note))
        _settle(output, _plan(job, parts))
        missing = [number for number in range(len(parts)) if not _done(output, number).exists()]
        if note:
            rest = f", {len(parts) - len(missing):,} of them done before" if len(missing) < len(parts) else ""
            note(f"{counted(len(parts), 'part')}{rest}")
        if missing:
            _spread(job, {number: parts[number] for number in missing}, workers, address, progress)
        counts = [json.loads(_done(output, number).read_text(encoding="utf-8")) for number in range(len(parts))]
    return sum(count["answered"] for count in counts), sum(count["unread"] for count in counts)


def _parts(inputs: Sequence[str], part_images: int, note: Note | None) -> Iterator[Part]:
    """Those of the shards, then those of the files."""
    files: list[str] = []
    for name in inputs:
        if are_shards(name):
            yield from tars_of(name)
        else:
            files.append(name)
    found = collect_inputs(files, note=note)
    while part := list(islice(found, part_images)):
        yield part


def _plan(job: Job, parts: Sequence[Part]) -> dict[str, Any]:
    """What predictions depend on, to know them again."""
    names = (part if isinstance(part, str) else "\n".join(str(name) for name, _ in part) for part in parts)
    named = [hashlib.sha256(text.encode("utf-8", "replace")) for text in names]
    settings = {"threshold": job.threshold, "max_objects": job.max_objects, "top": job.top}
    return {
        "model": job.model, "sha256": digest(find_model(job.model)), **settings,
        "parts": [name.hexdigest()[:16] for name in named],
    }  # fmt: skip


def _settle(output: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan, or see that the one that is there is the same."""
    place = output / PLAN
    if not place.exists():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise OutputError(f"--output is {str(output)!r}, which is there already.", "Choose another name.")
        write_json(place, plan)
        return
    before = json.loads(place.read_text(encoding="utf-8"))
    others = [key for key in plan if key != "model" and before.get(key) != plan[key]]
    if others:
        words = {"sha256": "another model", "parts": "other inputs, or parts of another size"}
        what = " and ".join(words.get(key, f"another {key}") for key in others)
        raise OutputError(
            f"{str(output)!r} holds predictions of {what}.", "Give what was given then, or another --output."
        )


def _done(output: Path, number: int) -> Path:
    return output / DONE / f"part-{number:05d}.json"


# ---------------------------------------------------------------- on the cluster


def _spread(job: Job, parts: Mapping[int, Part], workers: int | None, address: str | None, progress: bool) -> None:
    columns = (TextColumn("Parts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    shown = progress and console.is_terminal
    with (
        redirect_stdout(sys.stderr),  # where Ray tells of a worker that died
        _cluster(address, workers) as ray,
        Progress(*columns, console=console, transient=True, disable=not shown) as bar,
    ):
        task = bar.add_task("Parts", total=len(parts))
        rows = [{"work": Work(job, number, part)} for number, part in parts.items()]
        processes = min(workers or int(ray.cluster_resources().get("CPU", 1)), len(rows))
        # A worker that dies is started anew and its rows are given out again: Ray Data's default for actors.
        answered = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map(
            Worker, compute=ray.data.ActorPoolStrategy(size=processes), num_cpus=1
        )
        for _ in answered.iter_rows():
            bar.advance(task)


@contextmanager
def _cluster(address: str | None, workers: int | None) -> Iterator[Any]:
    """Ray, connected, quiet, and without its reports to its makers; all of it can be set otherwise from outside."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray = require("ray", "ray")
    own: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": workers}
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        with _silent():
            ray.init(address=address or "local", log_to_driver=False, logging_level="error", **own)
    except (OSError, UnicodeError) as error:  # ConnectionError among them; a host of impossible letters
        raise ConfigError(
            f"There is no Ray cluster at {address!r}.",
            "Start one: ray start --head. Without --address one starts here.",
        ) from error
    try:
        require("ray.data", "ray")
        for logger in ("ray", "ray.data"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing of what libraries below Python write reaches the terminal: Ray tells there that it is to tell less."""
    with Path(os.devnull).open("w") as nowhere:
        kept = {stream: os.dup(stream) for stream in (1, 2)}
        try:
            for stream in kept:
                os.dup2(nowhere.fileno(), stream)
            yield
        finally:
            for stream, copy in kept.items():
                os.dup2(copy, stream)
                os.close(copy)


class Worker:
    """One process of Ray's: opens the model once, then answers part after part."""

    def __init__(self) -> None:
        self.predictor: Predictor | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        work: Work = row["work"]
        if self.predictor is None:
            os.chdir(work.job.home)
            found = load(work.job.model, device=work.job.device, threads=1, trust=work.job.trust)
            self.predictor = found.limited(work.job.max_objects)
        answer_part(self.predictor, work)
        return {"number": work.number}


def answer_part(predictor: Predictor, work: Work) -> None:
    """Answer one part and write it, unless it is there: `done/` says so last."""
    job, number, part = work.job, work.number, work.part
    output = Path(job.output)
    if _done(output, number).exists():
        return
    name = f"part-{number:05d}.parquet"
    unread: list[tuple[str, Any]] = []
    answered = 0
    inputs = collect_inputs([part]) if isinstance(part, str) else iter(part)
    kind, classes = predictor.kind, predictor.classes
    found = predictor.stream(inputs, batch_size=job.batch_size, workers=1, threshold=job.threshold, limits=job.limits)
    with prediction_table(output / PREDICTIONS / name, kind, classes, form="parquet", top=job.top) as write:
        for answer in found:
            if isinstance(answer, tuple):
                unread.append(answer)
            else:
                write(answer)
                answered += 1
    with suppress(FileNotFoundError):
        (output / UNREAD / name).unlink()
    if unread:
        with prediction_table(output / UNREAD / name, kind, classes, form="parquet", top=1) as write:
            for failure in unread:
                write(failure)
    write_json(_done(output, number), {"answered": answered, "unread": len(unread)})
