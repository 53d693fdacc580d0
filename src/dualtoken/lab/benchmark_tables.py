"""Rows of a benchmark for people: a table on the screen, or Markdown.

python -m dualtoken.lab.benchmark_tables ROWS.jsonl [--plot FILE.png]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from dualtoken.lab.columns import markdown_table, screen_table
from dualtoken.lab.rows import Row, read_rows
from dualtoken.words import counted

NOISY = 1.5  # p90 over the median: from here on the machine had something else to do
SENTENCE = (
    "ms: median and quartiles of all iterations. ratio: median over rounds of the time to the first model's in the "
    "same round. MiB: peak memory of the process above that of one that only imports the engine; file: its MiB."
)


def cells(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows in groups of one engine, batch, size and number of threads, each with its title."""

    def title(row: Row) -> str:
        at = f"batch {row['batch_size']}, {row['image_size']} px, {counted(row['threads'], 'thread')}"
        return f"{row['engine']}, {at}"

    return ((name, list(group)) for name, group in itertools.groupby(rows, title))


def print_rows(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the models, then a table for each engine, batch, size and number of threads; 80 columns suffice."""
    console = console or Console()
    costs = {(row["model"], row["image_size"]): [row["model"], f"{row['image_size']} px", *_costs(row)] for row in rows}
    console.print(screen_table(("model", "input", *_COST_HEADS), costs.values(), numbers=range(1, 5)))
    for title, group in cells(rows):
        lines = [[row["model"], *_figures(row)] for row in group]
        console.print(screen_table(("model", *_CELL_HEADS), lines, numbers=range(1, 8), title=title))
        for row in group:
            if "error" in row:
                console.print(f"{row['model']}: {row['error']}", markup=False, style="red", soft_wrap=True)
        if any(_noisy(row) for row in group):
            console.print(f"! The slowest tenth took over {NOISY} x the median: not to be trusted, measure again.")
    console.print("\n" + SENTENCE, style="dim", soft_wrap=True)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as Markdown tables: what docs/results.md shows."""
    heads = ("model", *_COST_HEADS, *_CELL_HEADS)
    parts = []
    for title, group in cells(rows):
        lines = [[row["model"], *_costs(row), *_figures(row)] for row in group]
        parts += [f"**{title}**", markdown_table(heads, lines, numbers=range(1, len(heads)))]
        parts += [f"{row['model']}: {row['error']}" for row in group if "error" in row]
    return "\n\n".join(parts)


_COST_HEADS = ("params, M", "MACs, G", "top-1, %")
_CELL_HEADS = ("ms", "quartiles", "p90/p50", "img/s", "ratio", "MiB", "file")


def _costs(row: Row) -> list[str]:
    """Parameters, multiply-accumulates, accuracy."""
    forms = {"mparams": ".2f", "gmacs": ".3f", "top1": ".1f"}
    return ["" if row[key] is None else format(row[key], form) for key, form in forms.items()]


def _figures(row: Row) -> list[str]:
    """Time and its spread, throughput, ratio, memory, size of the file."""
    if "error" in row:
        return ["refused", *[""] * (len(_CELL_HEADS) - 1)]
    return [
        _milliseconds(row["latency_ms"]),
        "-".join(map(_milliseconds, row["latency_quartiles_ms"])),
        f"{row['p90_over_median']:.2f}" + (" !" if _noisy(row) else ""),
        f"{row['images_per_second']:.1f}",
        "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        f"{row['peak_mib']:.0f}",
        "" if row["file_mib"] is None else f"{row['file_mib']:.1f}",
    ]


def _milliseconds(value: float) -> str:
    return format(value, ".2f" if value < 10 else ".1f" if value < 1000 else ".0f")


def _noisy(row: Row) -> bool:
    return row.get("p90_over_median", 0) > NOISY


def main() -> None:
    """Print the rows of a file as Markdown, or draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="JSON lines file that `dualtoken benchmark --output` wrote")
    parser.add_argument("--plot", type=Path, help="draw this PNG file instead")
    arguments = parser.parse_args()
    rows = read_rows(arguments.rows)
    if arguments.plot:
        from dualtoken.lab.benchmark_plots import save, scatter

        save(scatter(rows), arguments.plot)
    else:
        print(markdown(rows))


if __name__ == "__main__":
    main()
