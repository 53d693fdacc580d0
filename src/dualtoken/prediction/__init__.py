"""From a model folder and images, of whatever form, to answers.

model = dualtoken.load("runs/photos")
model.predict("photo.jpg").label
"""

from __future__ import annotations

from dualtoken.prediction.inputs import NamedInput, collect_inputs, open_input
from dualtoken.prediction.predictor import Logits, Predictor, choose_device, load, predict, predict_stream

__all__ = [
    "Logits",
    "NamedInput",
    "Predictor",
    "choose_device",
    "collect_inputs",
    "load",
    "open_input",
    "predict",
    "predict_stream",
]
