"""The torch half of a kind of answers: network, loss, transforms. A task is one file."""

from __future__ import annotations

import importlib
import pkgutil

from dualtoken.tasks.base import TASKS, AnswerMeter, Network, Task, TaskSettings, as_arrays, moved, register

for _module in pkgutil.iter_modules(__path__):  # each file puts its tasks into TASKS
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["TASKS", "AnswerMeter", "Network", "Task", "TaskSettings", "as_arrays", "moved", "register"]
