"""The paper's tables: what it publishes, what our networks cost, and what was measured on small images.

A published figure stands here only if we know its source; where we do not know what the paper says, the field is empty.
Differences are to the network that the table compares with, in the unit of the column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dualtoken.backbone import count_macs, count_parameters, create_model
from dualtoken.backbone.variants import VARIANTS
from dualtoken.files import write_text
from dualtoken.lab.columns import markdown_table, screen_table
from dualtoken.lab.pages import END, START, split_page
from dualtoken.lab.published import published
from dualtoken.lab.rows import Row
from dualtoken.lab.study_plans import BASE, STUDIES
from dualtoken.lab.study_table import SHARED, Line, lines, write
from dualtoken.words import counted

HEADS = ("network", "published", "ours, analytic", "ours, measured (proxy)")
_S_MIX = "dualtoken_vit_s_mix"


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    Attributes:
        name: of the network or switch, as people say it.
        model: name of our network or a peer; empty where a table has no cost.
        published: what the paper says, in words; empty where we do not know.
        switch: arguments of the model that make it the ablated one.
        arm: of the study that measures it.
        size: side of the input that costs are counted at, pixels.
    """

    name: str
    model: str = ""
    published: str = ""
    switch: dict[str, Any] = field(default_factory=dict)
    arm: str = ""
    size: int = 224


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper.

    Attributes:
        title: what it compares.
        study: key of `STUDIES` whose rows are the proxy.
        task: of those rows.
        compared: whether costs are differences to the first line.
    """

    title: str
    study: str
    task: str
    entries: tuple[Entry, ...]
    compared: bool = False


def _network(name: str) -> Entry:
    known = published(name)
    variant = VARIANTS.get(name)
    size = 224 if known is None else known.image_size
    figures = [
        (known and known.top1, "%"), (variant and variant.mparams, "M"), (variant and variant.gmacs, "G"),
    ]  # fmt: skip
    parts = [f"{figure:.1f} {unit}" for figure, unit in figures if figure is not None]
    return Entry(name, name, ", ".join(parts + [f"at {size} px"] * (size != 224)), arm=name, size=size)


_SWITCHES = {arm.name: arm.settings.get("model_args", {}) for arm in STUDIES["ablations"][0]}


def _ablation(name: str, arm: str, published: str = "", **switch: Any) -> Entry:
    """S (mix) with the switch of an arm; an arm that no study has is given its own."""
    return Entry(name, _S_MIX, published, switch or _SWITCHES[arm], arm)


_BASE = _ablation("S (mix)", BASE, "79.4 %, 1.0 G")
_MAIN = tuple(
    _network(name) for name in ("dualtoken_vit_t_mix", "dualtoken_vit_s", "dualtoken_vit_s_mix", "lightvit_t", *(
        arm.name for arm in STUDIES["peers"][0] if arm.name not in VARIANTS
    ))
)  # fmt: skip
_DENSE = tuple(Entry(arm.name, arm.name, arm=arm.name) for arm in STUDIES["dense"][0])

TABLES: dict[str, PaperTable] = {
    "main": PaperTable("ImageNet-1K", "peers", "classification", _MAIN),
    "mlps": PaperTable("MLPs of the global tokens", "ablations", "classification", (
        _BASE,
        _ablation("normal MLP", "mlp", "+0.1 points, a little more FLOPs and parameters"),
        _ablation("no MLP", "no_mlp"),
    ), compared=True),
    "tokens": PaperTable("Ways of applying global tokens", "ablations", "classification", (
        _BASE,
        _ablation("normal tokens", "normal", "worse, +1.1 M, -0.06 G"),
        _ablation("positions, fused by attention", "position_attention", "worse, more parameters"),
        _ablation("none travel", "none"),
    ), compared=True),
    "number": PaperTable("Number of position-aware tokens", "ablations", "classification", (
        _ablation("7 x 7, S (mix)", BASE, "79.4 %, the best"),
        *(_ablation(f"{side} x {side}", f"grid_{side}", "worse", token_grid=side) for side in (6, 5, 4, 3)),
    ), compared=True),
    "local": PaperTable("Local attention", "ablations", "classification", (
        _BASE,
        _ablation("window attention", "window", "-0.8 points, not much less FLOPs and parameters"),
    ), compared=True),
    "downsampling": PaperTable("Down-sampling", "ablations", "classification", (
        _BASE,
        _ablation("in one step", "onestep", "-0.2 points, -0.1 M, -0.03 G"),
    ), compared=True),
    "weight": PaperTable("Weight a of the fusion: ours to choose, the paper fixes it and does not say at what",
                         "ablations", "classification", (
        _ablation("a = 0.8, S (mix)", BASE, ""),
        *(_ablation(f"a = {weight}", arm)
          for weight, arm in ((0.0, "weight_0"), (0.5, "weight_50"), (1.0, "weight_100"))),
    ), compared=True),
    "detection": PaperTable("Detection (COCO in the paper)", "dense", "detection", _DENSE),
    "segmentation": PaperTable("Semantic segmentation (ADE20K in the paper)", "dense", "semantic_segmentation", _DENSE),
}  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """All tables as Markdown.

    Args:
        rows: of studies, as `dualtoken study` writes them.
    """
    return "\n\n".join(
        f"### {table.title}\n\n{markdown_table(HEADS, table_cells(table, rows), numbers=range(0))}"
        for table in TABLES.values()
    )


def table_cells(table: PaperTable, rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """A table's lines: name, published, analytic, measured."""
    measured = _measured(table, rows)
    first = table.entries[0]
    return [
        (entry.name, entry.published, _analytic(entry, first if table.compared else None), measured.get(entry.arm, ""))
        for entry in table.entries
    ]


def _analytic(entry: Entry, first: Entry | None) -> str:
    """Parameters and multiply-accumulates, or how much they differ from those of `first`."""
    mparams, gmacs = _costs(entry.model, tuple(entry.switch.items()), entry.size)
    if first is None or entry is first:
        return f"{mparams:.2f} M, {gmacs:.3f} G"
    base = _costs(first.model, tuple(first.switch.items()), first.size)
    return f"{mparams - base[0]:+.2f} M, {gmacs - base[1]:+.3f} G"


@cache
def _costs(model: str, switch: tuple[tuple[str, Any], ...], size: int) -> tuple[float, float]:
    """10^6 parameters and 10^9 multiply-accumulates, in the form that inference computes."""
    from dualtoken.lab.networks import Subject, build

    if model in VARIANTS:
        with torch.device("meta"):  # sizes only
            network = create_model(model, **dict(switch))
    else:
        network = build(Subject(model, "network"), size)
    return count_parameters(network) / 1e6, count_macs(network, (size, size)) / 1e9


def _measured(table: PaperTable, rows: Sequence[Row]) -> dict[str, str]:
    """By arm what studies measured: the figure, and of ablations the difference to the base with its verdict."""
    found: dict[str, str] = {}
    base = STUDIES[table.study][1]
    for scale in ("gpu", "cpu"):  # the larger one counts
        own = (table.study, table.task, scale)
        chosen = [row for row in rows if (row["study"], row["task"], row["scale"]) == own]
        for line in lines(chosen, base):
            found.setdefault(line.arm, _words(line))
    return found


def _words(line: Line) -> str:
    text = f"{write(line.measured)} %, {counted(line.measured.number, 'seed')}"
    if line.difference is None:
        return text
    told = f": {line.verdict}" if line.difference.number > 1 else ""
    return f"{text}; {write(line.difference, sign='+')}{told}"


# ---------------------------------------------------------------- in the documents


def renew(page: Path, rows: Sequence[Row]) -> None:
    """Write the tables between the markers of a Markdown page.

    Raises:
        DataError: the page has no markers, or is not there.
    """
    before, _, after = split_page(page)
    write_text(page, f"{before}{START}\n\n{markdown(rows)}\n\n{END}{after}")


def print_tables(rows: Sequence[Row]) -> None:
    """All tables on the screen."""
    from rich.console import Console

    console = Console()
    for part in TABLES.values():
        console.print(screen_table(HEADS, table_cells(part, rows), numbers=range(0), title=part.title, wrap=True))
    if rows:
        console.print(f"\n{SHARED}", style="dim", soft_wrap=True)
