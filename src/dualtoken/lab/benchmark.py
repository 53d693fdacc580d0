"""Models side by side: time, spread, memory, size. What `dualtoken benchmark` does, as a story.

Each model lives in a worker process of its own. In every round each of them has a turn, A B C A B C, so that a slow
moment of the machine touches all alike; ratios are taken within a round.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dualtoken.errors import ConfigError, require, unknown_name
from dualtoken.files import refuse_existing, writable_folder, write_text
from dualtoken.lab.benchmark_plots import height, save, scatter
from dualtoken.lab.benchmark_tables import markdown, print_rows
from dualtoken.lab.graphs import GraphError, graph
from dualtoken.lab.networks import FILES, Subject, describe, find_subject
from dualtoken.lab.process import Worker, WorkerError
from dualtoken.lab.rows import Row, append_rows, provenance, read_rows
from dualtoken.lab.worker_engines import ENGINES
from dualtoken.words import counted

TURN_SECONDS = 0.2
_BUSY = 0.5
_AT_ONCE = 2  # exports and loading models; never while something is measured
_GRAPH_ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}

Step = Callable[[str], None]


def benchmark(
    models: Sequence[str],
    *,
    engines: Sequence[str] = ("eager", "compile", "onnx", "openvino"),
    batches: Sequence[int] = (1, 8),
    sizes: Sequence[int] = (224,),
    threads: Sequence[int] | None = None,
    rounds: int = 10,
    output: str | Path | None = None,
    plot: str | Path | None = None,
    table: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> list[Row]:
    """Time models side by side on the processor, turn by turn, with memory, size and spread.

    Args:
        models: networks by name, ours or any of timm (fresh weights: time does not depend on them), model folders,
            exported files (.onnx, .xml). Ratios are to the first.
        engines: what runs the models.
        batches: batch sizes.
        sizes: sides of the square input in pixels, 32 or more.
        threads: numbers of threads. Left out: one a core.
        rounds: turns of each model in each cell; a turn takes about a fifth of a second, or two iterations.
        output: JSON lines file to append rows to, as each cell ends.
        plot: PNG file to draw: accuracy, or multiply-accumulates, against time.
        table: Markdown file to write.
        cache: folder to keep exported graphs in for the next time. Left out: a temporary one.
        progress: whether to show on standard error how far it is.

    Returns:
        A row for each model, engine, batch, size and number of threads: what docs/benchmark.md lists. Where an engine
        refuses a model, the row has `error`, the reason, in the place of figures.

    Raises:
        ConfigError: an unknown engine or an impossible number.
        ModelError: an unknown model.
        MissingExtraError: the package of an engine is not installed.
        DataError: `plot` is wanted, and no model has anything to be drawn at; or `output` is a file of something else.
        OutputError: `plot` or `table` is there already, or a place cannot be written.
    """
    threads = (os.cpu_count() or 1,) if threads is None else threads
    subjects = _check(models, engines, batches, sizes, threads, rounds)
    _check_places(output, plot, table)
    rows: list[Row] = []
    grid = list(itertools.product(*map(_once, (engines, sizes, threads))))
    with _progress(progress, len(grid) * len(_once(batches))) as step, ExitStack() as stack:
        folder = Path(cache or stack.enter_context(tempfile.TemporaryDirectory(prefix="dualtoken-benchmark-")))
        facts = provenance(max(threads))
        packages = [_GRAPH_ENGINES[engine] for engine in engines if engine in _GRAPH_ENGINES]
        facts["versions"] |= {package: metadata.version(package) for package in packages}
        _warn_if_busy(facts["load_before"], progress)
        step("counting parameters and multiply-accumulates")
        about = {(subject, size): describe(subject, size) for subject in subjects for size in _once(sizes)}
        if plot is not None:
            height([about[subject, size] for subject in subjects for size in _once(sizes)])
        step("exporting graphs")
        sources = _sources(subjects, engines, sizes, folder)
        try:
            for engine, size, number in grid:
                parts = [sources[engine, size, subject] for subject in subjects]
                for made in _cells(parts, engine, size, number, sorted(_once(batches)), rounds, step):
                    pairs = zip(subjects, made, strict=True)
                    cell = [about[subject, size] | row | facts | {"threads": number} for subject, row in pairs]
                    rows += cell
                    if output is not None:
                        append_rows(output, cell)
        except KeyboardInterrupt:
            if progress and rows:
                print_rows(rows, Console(stderr=True))
            raise
    if table is not None:
        write_text(table, markdown(rows) + "\n")
    if plot is not None:
        save(scatter(rows), plot)
    return rows


def _check(
    models: Sequence[str],
    engines: Sequence[str],
    batches: Sequence[int],
    sizes: Sequence[int],
    threads: Sequence[int],
    rounds: int,
) -> list[Subject]:
    """Refuse what cannot be measured, before anything is."""
    cores = os.cpu_count() or 1
    for engine in engines:
        if engine not in ENGINES:
            raise ConfigError(unknown_name("engine", engine, ENGINES))
    limits = {"batch": (batches, 1, 4096), "size": (sizes, 32, 8192), "threads": (threads, 1, cores)}
    for name, (values, low, high) in limits.items():
        for value in values:
            if not low <= value <= high:
                raise ConfigError(f"--{name} is {value}, expected a whole number from {low} to {high}.")
    if rounds < 1:
        raise ConfigError(f"--rounds is {rounds}, expected at least 1.")
    if not all((models, engines, batches, sizes, threads)):
        raise ConfigError("There is nothing to measure.", "Name at least one model, engine, batch, size and number.")
    for engine in _once(engines):
        require(_GRAPH_ENGINES.get(engine, "torch"), engine if engine in _GRAPH_ENGINES else "train")
    return [find_subject(model) for model in models]


def _check_places(output: str | Path | None, plot: str | Path | None, table: str | Path | None) -> None:
    """Rows are appended to; pictures and tables are not written over."""
    for path, flag in ((output, ""), (plot, "--plot"), (table, "--table")):
        if path is not None:
            if flag:
                refuse_existing(path, flag)
            writable_folder(Path(path).parent)
    if output is not None and Path(output).exists():
        read_rows(output)  # raises where it is something else


def _once(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _warn_if_busy(load: Sequence[float] | None, shown: bool) -> None:
    if shown and load is not None and load[0] > _BUSY:
        text = f"The machine is busy: {load[0]:.1f} processes waited or ran in the last minute. Times will suffer."
        Console(stderr=True).print(text, markup=False, style="yellow", soft_wrap=True)


Source = dict[str, Any]


def _sources(
    subjects: Sequence[Subject], engines: Sequence[str], sizes: Sequence[int], folder: Path
) -> dict[tuple[str, int, Subject], Source]:
    """What each engine loads for each model and size, or {"error": why it cannot}. Graphs are made here."""
    made: dict[tuple[Subject, int], Source] = {}
    if any(engine in _GRAPH_ENGINES for engine in engines):
        wanted = [(s, size) for s in _once(subjects) for size in _once(sizes) if s.kind != "file"]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            made = dict(zip(wanted, pool.map(partial(_graph, folder=folder), wanted), strict=True))

    def source(engine: str, size: int, subject: Subject) -> Source:
        if subject.kind == "file":
            suffix = Path(subject.name).suffix
            if engine not in FILES[suffix]:
                return {"error": f"{engine} does not read {suffix} files"}
            return {"path": subject.name}
        if engine in _GRAPH_ENGINES:
            return made[subject, size]
        return {"name": subject.name, "kind": subject.kind}

    return {key: source(*key) for key in itertools.product(_once(engines), _once(sizes), _once(subjects))}


def _graph(wanted: tuple[Subject, int], folder: Path) -> Source:
    try:
        return {"path": str(graph(*wanted, folder))}
    except GraphError as error:
        return {"error": str(error)}


def _cells(
    sources: Sequence[Source], engine: str, size: int, threads: int, batches: Sequence[int], rounds: int, step: Step
) -> Iterator[list[Row]]:
    """For each batch a row a model. One worker a model serves all batches, in ascending order."""
    title = f"{engine}, {size} px, {counted(threads, 'thread')}"
    with ThreadPoolExecutor(_AT_ONCE) as pool, ExitStack() as stack:
        step(f"{title}: loading {counted(len(sources), 'model')}")
        workers = [None if "error" in source else stack.enter_context(Worker(threads)) for source in sources]
        opened = list(pool.map(partial(_open, engine=engine, size=size, threads=threads), workers, sources))
        for batch in batches:
            prepared = []
            for number, (worker, row) in enumerate(zip(workers, opened, strict=True), 1):
                step(f"{title}, batch {batch}: preparing {number} of {len(workers)}")
                answer = _ask(worker, row, "prepare", batch_size=batch, image_size=size)
                prepared.append(answer if "error" in answer else row | answer)
            turns = _rounds(workers, prepared, rounds, f"{title}, batch {batch}", step)
            step("")
            cell = {"engine": engine, "batch_size": batch, "image_size": size, "threads": threads}
            yield [cell | row for row in _summarise(prepared, turns, batch)]


def _ask(worker: Worker | None, row: Row, what: str, **arguments: Any) -> Row:
    """What the worker answers, or the error; of one that has failed the error that it had."""
    if worker is None or "error" in row:
        return row
    try:
        return worker.ask(what, **arguments)
    except WorkerError as error:
        return {"error": str(error)}


def _open(worker: Worker | None, source: Source, engine: str, size: int, threads: int) -> Row:
    """The size of the file that is loaded, or the error."""
    answer = _ask(worker, source, "open", engine=engine, source=source, image_size=size, threads=threads)
    if "error" in answer:
        return answer
    if "path" not in source:
        return {"file_mib": None}
    path = Path(source["path"])
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]  # OpenVINO's weights lie beside it
    return {"file_mib": sum(file.stat().st_size for file in files if file.exists()) / 2**20}


def _rounds(
    workers: Sequence[Worker | None], prepared: list[Row], rounds: int, title: str, step: Step
) -> list[list[list[float]]]:
    """For each model, for each round the milliseconds of its iterations; a worker that fails becomes an error."""
    turns: list[list[list[float]]] = [[] for _ in workers]
    for number in range(rounds):
        step(f"{title}: round {number + 1} of {rounds}")
        for place, worker in enumerate(workers):
            turn = _ask(worker, prepared[place], "turn", seconds=TURN_SECONDS)
            if "error" in turn:
                prepared[place] = turn
            else:
                turns[place].append(turn["ms"])
    return turns


def _summarise(prepared: Sequence[Row], turns: Sequence[list[list[float]]], batch: int) -> list[Row]:
    """Median and spread over all iterations; ratios over rounds, each round's median to the first model's."""
    first = [statistics.median(turn) for turn in turns[0]] if "error" not in prepared[0] else None
    return [
        row if "error" in row else row | _figures(parts, first, batch)
        for row, parts in zip(prepared, turns, strict=True)
    ]


def _figures(turns: list[list[float]], first: list[float] | None, batch: int) -> Row:
    times = sorted(itertools.chain.from_iterable(turns))
    medians = [statistics.median(turn) for turn in turns]
    median = statistics.median(times)
    ratios = None if first is None else [own / other for own, other in zip(medians, first, strict=True)]
    return {
        "latency_ms": median,
        "latency_quartiles_ms": _quartiles(times),
        "latency_best_ms": min(medians),
        "p90_over_median": statistics.quantiles(times, n=10, method="inclusive")[-1] / median,
        "images_per_second": 1e3 * batch / median,
        "ratio": None if ratios is None else statistics.median(ratios),
        "ratio_quartiles": None if ratios is None else _quartiles(ratios),
        "rounds": len(turns),
        "iterations": len(times),
    }


def _quartiles(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


@contextmanager
def _progress(shown: bool, cells: int) -> Iterator[Step]:
    """A function that says what is done now; with "" it counts a cell as done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("", total=cells)

        def step(text: str) -> None:
            if text:
                bar.update(task, description=text)
            else:
                bar.advance(task)

        yield step
