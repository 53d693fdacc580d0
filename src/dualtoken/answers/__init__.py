"""Kinds of answers: how raw outputs become answers, and what two of them have in common. Nothing here needs torch."""

from __future__ import annotations

import importlib
import pkgutil

from dualtoken.answers.kinds import KINDS, Kind, kind_of, register

for _module in pkgutil.iter_modules(__path__):  # each file of a kind puts it into KINDS
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["KINDS", "Kind", "kind_of", "register"]
