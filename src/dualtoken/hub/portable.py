"""A config that can be shown to others: it says how a model was made, and nothing about whose disk it lay on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dualtoken.model_folder import ModelConfig

# The folders of a path within a text: from the root, a drive, a home, or upwards.
_FOLDERS = re.compile(r"""(?<![\w.:/\\~-])(?:~\w*|[A-Za-z]:|\.{1,2})?[/\\](?:[^\s/\\'",;=]+[/\\])*""")


def portable(config: ModelConfig) -> ModelConfig:
    """`config` with every path in its provenance cut down to its last part; names and numbers stay."""
    return replace(config, provenance=_cut(config.provenance))


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(part) for part in value]
    return _cut_text(value) if isinstance(value, str) else value


def _cut_text(text: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute():
            return kind(text).name
    return _FOLDERS.sub("", text.replace(str(Path.home()), "~"))
