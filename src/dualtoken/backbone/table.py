"""The table of named networks, ours and other papers', as it stands in `VARIANTS`; tests hold it to the networks."""

from __future__ import annotations

from typing import Any

from dualtoken.backbone import VARIANTS, PlainConfig
from dualtoken.errors import ConfigError, unknown_name


def models_table(family: str | None = None, max_gmacs: float | None = None) -> list[dict[str, Any]]:
    """A row a variant: `model`, `family`, `mparams` (10^6), `gmacs` (10^9), published `top1` (%), and their sources;
    `one_size` where a network, and what it is exported to, takes images of the size alone that it was made for.

    Args:
        family: networks of this family alone.
        max_gmacs: networks of at most so many 10^9 multiply-accumulates.

    Raises:
        ConfigError: no such family.
    """
    families = {variant.family for variant in VARIANTS.values()}
    if family is not None and family not in families:
        raise ConfigError(unknown_name("family", family, families))
    return [
        {
            "model": name,
            "family": variant.family,
            "mparams": round(variant.counted[0] / 1e6, 3),
            "gmacs": round(variant.counted[1], 3),
            "image_size": variant.image_size,
            "one_size": isinstance(variant.config, PlainConfig),
            "top1": variant.top1,
            "paper": variant.paper,
            "code": variant.code or None,
        }
        for name, variant in VARIANTS.items()
        if (family is None or variant.family == family) and (max_gmacs is None or variant.counted[1] <= max_gmacs)
    ]


def print_models(family: str | None = None, max_gmacs: float | None = None) -> None:
    """Print `models_table` for people."""
    from rich.console import Console
    from rich.table import Table

    caption = (
        "MACs of one image of the given side (*: made for one side, so that no export takes others). Top-1 in %:"
        " ImageNet-1K, as published; none of their weights is here."
    )
    table = Table(box=None, pad_edge=False, caption=caption)
    table.add_column("model", no_wrap=True)
    for column in ("M parameters", "G MACs", "side", "top-1"):
        table.add_column(column, justify="right")
    table.add_column("source")
    for row in models_table(family, max_gmacs):
        top1 = "-" if row["top1"] is None else f"{row['top1']:.1f}"
        side = f"{row['image_size']}{'*' * row['one_size']}"
        figures = (f"{row['mparams']:.3f}", f"{row['gmacs']:.3f}", side, top1)
        table.add_row(row["model"], *figures, row["paper"])
    Console().print(table)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows of `models_table` for docs/models.md: `python -m dualtoken.backbone.table` prints them."""
    lines = ["| model | parameters (M) | MACs (G) | at | published top-1 (%) | source |", "| --- " * 6 + "|"]
    for row in rows:
        top1 = "" if row["top1"] is None else row["top1"]
        code = f", [code](https://{row['code']})" if row["code"] else ""
        figures = f"{row['mparams']:.3f} | {row['gmacs']:.3f} | {row['image_size']} | {top1}"
        lines.append(f"| `{row['model']}` | {figures} | {row['paper']}{code} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(models_table()))
