"""The table of our networks, measured from the networks themselves."""

from __future__ import annotations

from typing import Any

import torch

from dualtoken.backbone.measure import count_macs, count_parameters
from dualtoken.backbone.registry import create_model
from dualtoken.backbone.variants import VARIANTS


def models_table() -> list[dict[str, Any]]:
    """A row a variant: `model`, `mparams` (10^6), `gmacs` (10^9 at 224 x 224), published `top1` (%) and `paper`."""
    rows = []
    for name, variant in VARIANTS.items():
        with torch.device("meta"):  # sizes only: no weights are made
            model = create_model(name)
        rows.append(
            {
                "model": name,
                "mparams": round(count_parameters(model) / 1e6, 3),
                "gmacs": round(count_macs(model) / 1e9, 3),
                "top1": variant.top1,
                "paper": variant.paper,
            }
        )
    return rows


def print_models() -> None:
    """Print `models_table` for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, caption="MACs at 224 x 224. Top-1 in %: ImageNet-1K, as published.")
    table.add_column("model", no_wrap=True)
    for column in ("M parameters", "G MACs", "top-1"):
        table.add_column(column, justify="right")
    table.add_column("paper", no_wrap=True)
    for row in models_table():
        top1 = "-" if row["top1"] is None else f"{row['top1']:.1f}"
        table.add_row(row["model"], f"{row['mparams']:.3f}", f"{row['gmacs']:.3f}", top1, row["paper"])
    Console().print(table)
