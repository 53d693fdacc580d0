"""One loop for every task, on Lightning Fabric. Start reading at train.py."""

from dualtoken.training.config import TrainConfig
from dualtoken.training.train import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]
