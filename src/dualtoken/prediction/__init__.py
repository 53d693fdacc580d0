"""From a model and images, of whatever form, to answers.

model = dualtoken.load("runs/photos")
model.predict("photo.jpg").label
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualtoken.registry import lazily

if TYPE_CHECKING:
    from dualtoken.prediction.inputs import NamedInput, collect_inputs, open_input
    from dualtoken.prediction.models import from_pretrained, load, predict, predict_stream
    from dualtoken.prediction.predictor import Predictor

_HOMES = {
    "NamedInput": "inputs",
    "Predictor": "predictor",
    "collect_inputs": "inputs",
    "from_pretrained": "models",
    "load": "models",
    "open_input": "inputs",
    "predict": "models",
    "predict_stream": "models",
}

__all__ = [
    "NamedInput",
    "Predictor",
    "collect_inputs",
    "from_pretrained",
    "load",
    "open_input",
    "predict",
    "predict_stream",
]

# Import what is used: choosing a device needs torch, exported models do not.
__getattr__ = lazily(__name__, _HOMES)
