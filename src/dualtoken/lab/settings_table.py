"""The table of all settings in docs/train.md, written from the config.

python -m dualtoken.lab.settings_table docs/train.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dualtoken.errors import DataError
from dualtoken.files import write_text
from dualtoken.training.config import TrainConfig

HEAD = "| setting | default | |\n| --- | --- | --- |\n"


def table() -> str:
    """A line a setting: name, default and what it means."""
    lines = [
        f"| `{name}` | `{field.get_default(call_default_factory=True)}` | {field.description} |\n"
        for name, field in TrainConfig.model_fields.items()
    ]
    return HEAD + "".join(lines)


def renew(text: str) -> str:
    """A page with its table written anew.

    Raises:
        DataError: it has none.
    """
    renewed, found = re.subn(rf"{re.escape(HEAD)}(?:\|.*\n)*", lambda _: table(), text)
    if found != 1:
        raise DataError(f"The page has {found} tables of settings, expected one.", f"Put these lines there:\n{HEAD}")
    return renewed


if __name__ == "__main__":
    page = Path(sys.argv[1])
    write_text(page, renew(page.read_text(encoding="utf-8")))
