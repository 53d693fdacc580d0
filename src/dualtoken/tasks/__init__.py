"""The torch half of a kind of answers: network, loss, transforms. A task is one file."""

from __future__ import annotations

from dualtoken.tasks.base import TASKS, AnswerMeter, Network, Task, TaskSettings, as_arrays, moved, register
from dualtoken.tasks.rare_classes import Seen

__all__ = ["TASKS", "AnswerMeter", "Network", "Seen", "Task", "TaskSettings", "as_arrays", "moved", "register"]
