"""What `dualtoken tables` reads, before torch is imported: the page that it renews, and the rows of studies."""

from __future__ import annotations

import sys
from pathlib import Path

from dualtoken.errors import DataError
from dualtoken.lab.rows import Row
from dualtoken.lab.study_rows import study_rows
from dualtoken.readers import read_text
from dualtoken.words import counted

START, END = "<!-- tables: start (written by `dualtoken tables`) -->", "<!-- tables: end -->"
USUAL = Path("results")
_HINT = "Give a folder, or a file, that `dualtoken study --rows` wrote to."


def tables(*, markdown: Path | None = None, results: Path | None = None) -> None:
    """Print the paper's tables: published, what our networks cost, and what studies measured on small images.

    Args:
        markdown: page whose tables to renew, between its markers
        results: folder, or file, with rows of studies. Left out: the folder results, where it is there
    """
    rows = rows_for(results, markdown)
    place = str(results or USUAL)
    found = f"{counted(len(rows), 'row')} of studies in {place!r}"
    nothing = f"no rows of studies in {place!r}: the column of what was measured is empty"
    print(f"Rows     {found if rows else nothing}", file=sys.stderr)
    print("Counting parameters and multiply-accumulates of every network ...", file=sys.stderr)

    from dualtoken.lab.paper import print_tables, renew

    if markdown is None:
        print_tables(rows)
    else:
        renew(markdown, rows)
        print(f"Written  {markdown}")


def rows_for(results: Path | None, page: Path | None) -> list[Row]:
    """The rows that tables are to show.

    Args:
        results: folder or file that must hold some; None for those of the folder `results`, if there are any.
        page: that is to be renewed; None for the screen.

    Raises:
        DataError: the page is none, or there are no rows where `results` was given or the page shows measured numbers,
            which would be lost.
    """
    shown = "" if page is None else split_page(page)[1]
    rows = study_rows(results or USUAL)
    if rows:
        return rows
    if results is not None:
        what = "holds no rows of studies" if results.exists() else "is not there"
        raise DataError(f"--results is {str(results)!r}, which {what}.", _HINT)
    if shows_figures(shown):
        raise DataError(
            f"{str(page)!r} shows measured numbers, and there are no rows of studies in {str(USUAL)!r}: they would be"
            " lost.",
            "Name the folder with the rows: --results FOLDER",
        )
    return []


def shows_figures(tables: str) -> bool:
    """Whether a line of Markdown tables has a figure in its last column."""
    lines = [line.strip() for line in tables.splitlines() if line.startswith("|")]
    return any(any(letter.isdigit() for letter in line.strip("|").rpartition("|")[2]) for line in lines)


def split_page(page: Path) -> tuple[str, str, str]:
    """What stands before, between and after the markers of a page.

    Raises:
        DataError: it has no markers, or is not there.
    """
    before, start, rest = read_text(page).partition(START)
    between, end, after = rest.partition(END)
    if not start or not end:
        raise DataError(f"{str(page)!r} has no place for tables.", f"Put these two lines there:\n{START}\n{END}")
    return before, between, after
