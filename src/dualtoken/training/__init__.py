"""One loop for every task, on Lightning Fabric. Start reading at run.py."""

from dualtoken.training.config import TrainConfig
from dualtoken.training.run import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]
