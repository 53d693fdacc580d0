"""The torch half of a kind of answers: network, loss, transforms. A task is one file."""

from __future__ import annotations

from dualtoken.tasks.base import TASKS, AnswerMeter, Network, Task, TaskSettings, as_arrays, moved, register

__all__ = ["TASKS", "AnswerMeter", "Network", "Task", "TaskSettings", "as_arrays", "moved", "register"]
