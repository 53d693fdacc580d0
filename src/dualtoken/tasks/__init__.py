"""What training on something means: network, loss, figures and answers. A new task is a class and a line in `TASKS`."""

from __future__ import annotations

from dualtoken.tasks.base import Meter, Network, Task, TaskSettings, as_arrays, moved
from dualtoken.tasks.classification import ClassificationTask
from dualtoken.tasks.detection import DetectionTask, InstanceSegmentationTask
from dualtoken.tasks.segmentation import SemanticSegmentationTask

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (ClassificationTask, DetectionTask, InstanceSegmentationTask, SemanticSegmentationTask)
}

__all__ = [
    "TASKS",
    "ClassificationTask",
    "DetectionTask",
    "InstanceSegmentationTask",
    "Meter",
    "Network",
    "SemanticSegmentationTask",
    "Task",
    "TaskSettings",
    "as_arrays",
    "moved",
]
