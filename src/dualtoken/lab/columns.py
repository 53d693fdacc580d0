"""Tables for people: on the screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def markdown_table(heads: Sequence[str], lines: Iterable[Sequence[str]], *, numbers: range) -> str:
    """A Markdown table whose columns `numbers` are flush right."""
    rule = ["---:" if place in numbers else "---" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines))


def screen_table(
    heads: Sequence[str], lines: Iterable[Sequence[str]], *, numbers: range, title: str = "", wrap: bool = False
) -> Table:
    """The same for a rich console, narrow: columns one blank apart. Cells are shown as they are, without markup."""
    from rich.markup import escape
    from rich.table import Table

    above = f"\n{title}" if title else None
    table = Table(title=above, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place in numbers else "left", no_wrap=not wrap)
    for line in lines:
        table.add_row(*map(escape, line))
    return table
