"""Folders of runs as `dualtoken train` leaves them, without the training: for tests of what stands around it."""

import json
from pathlib import Path

import yaml

from dualtoken.training.recipes import load_recipe

TINY = {"channels": [8, 8, 8], "depths": [1, 1, 1], "heads": [1, 1, 1], "neck": 8}


class FakeTraining:
    """Stands in the place of `train`: writes what a run leaves, and remembers how it was called.

    Attributes:
        calls: (name of the run, whether it was continued) in order.
        top1: of a run, by (arm, seed).
        fail: names of runs that end with this error.
    """

    def __init__(self, fingerprint: str = "") -> None:
        self.calls, self.top1, self.fail, self.fingerprint = [], {}, {}, fingerprint

    def __call__(self, data, output=None, *, recipe=None, resume=None, **settings):
        folder = Path(output or resume)
        self.calls.append((f"{folder.parent.name}/{folder.name}", resume is not None))
        if folder.parent.name in self.fail:
            raise self.fail[folder.parent.name]
        if resume is None:
            begin(folder, recipe, settings)
        finish(folder, self.fingerprint)

    def row(self, folder):
        """In the place of `accuracy.row`."""
        seed = int(folder.name.removeprefix("seed-"))
        value = self.top1.get((folder.parent.name, seed), 0.5)
        return {
            "task": "classification", "metrics": {"top1": {"value": value, "low": value, "high": value}}, "seed": seed,
            "mparams": 1.0, "gmacs": 0.1, "minutes": 1.0, "commit": "abc",
        }  # fmt: skip


def begin(folder: Path, recipe: str, settings: dict) -> None:
    """A run that has saved its state, and no more."""
    settings = {key: value for key, value in settings.items() if key not in ("device", "workers")}
    config = load_recipe(recipe, settings).model_copy(update={"precision": "32-true"})
    (folder / "last").mkdir(parents=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (folder / "last" / "state.safetensors").write_bytes(b"")


def finish(folder: Path, fingerprint: str = "") -> None:
    """A run that has measured what it trained."""
    provenance = {"command": f"dualtoken train /data/x.zip --output {folder}", "data": {"fingerprint": fingerprint}}
    config = {
        "architecture": "x", "num_classes": 2, "label_names": ["a", "b"], "model_args": {},
        "pretrained_cfg": {"num_classes": 2, "input_size": [3, 32, 32], "crop_pct": 1.0, "crop_mode": "center",
                           "interpolation": "bicubic", "mean": [0, 0, 0], "std": [1, 1, 1]},
        "dualtoken": {"format": 1, "task": "classification", "temperature": 1.0, "metrics": {"split": "val"},
                      "provenance": provenance},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "evaluation.json").write_text("{}")
