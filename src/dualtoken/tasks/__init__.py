"""What training on something means. A new task is a file beside `classification.py` and a line in `TASKS`."""

from dualtoken.tasks.classification import ClassificationTask

TASKS: dict[str, type[ClassificationTask]] = {"classification": ClassificationTask}

__all__ = ["TASKS", "ClassificationTask"]
