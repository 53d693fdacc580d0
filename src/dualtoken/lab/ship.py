"""A model folder small enough for the package: weights in float16, a clean config, its figures and its card.

    python -m dualtoken.lab.ship RUN FOLDER --data DATA

`DATA` are the images that the run was trained on: its `val` is drawn from them again, and both the run's weights and
the rounded ones answer it. The last line is the hash that belongs into `hub/bundled.py`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dualtoken.answers import CLASSIFIER
from dualtoken.errors import ConfigError, ModelError
from dualtoken.evaluation import evaluate
from dualtoken.files import digest, refuse_existing, write_json, write_text
from dualtoken.hub.bundled import BUNDLED
from dualtoken.hub.card import model_card
from dualtoken.hub.download import CARD
from dualtoken.hub.portable import portable
from dualtoken.model_folder import (
    CONFIG,
    WEIGHTS,
    ModelConfig,
    is_model_folder,
    load_config,
    load_model,
    write_tensors,
)
from dualtoken.prediction import load


def ship(
    run: str | Path, folder: str | Path, *, data: str | Path | None = None, name: str | None = None, **options: Any
) -> Path:
    """Write `folder`: a model folder with the weights of `run` in float16, its card, and no path of this machine.

    Args:
        run: a model folder.
        folder: a new or empty one.
        data: classification: labelled images with the run's `val`. Its figures are measured on the rounded weights and
            stand in the config and card, with how many answers the rounding changed. None keeps the run's figures.
        name: of the model, for the card and the commands in it; None for the folder's.
        **options: of `dualtoken.evaluation.evaluate`, such as `batch_size`, `workers`.

    Raises:
        ModelError: the model cannot be loaded, or a weight is too large for float16.
        ConfigError: `data` for a model of another task.
        OutputError: the folder holds something, or cannot be written.
        DataError: the data cannot be used.
    """
    run, folder = Path(run), Path(folder)
    refuse_existing(folder, "FOLDER")
    model, config = load_model(run)
    if data is not None and config.task != CLASSIFIER:
        raise ConfigError(f"--data measures classifiers, and {str(run)!r} is for {config.task}.", "Leave it out.")
    write_tensors(folder / WEIGHTS, rounded(model.state_dict()), {"format": "pt"})
    clean = portable(config)
    facts: dict[str, Any] = {"from": "float32", "to": "float16"}
    if data is not None:
        write_json(folder / CONFIG, clean.to_json())  # to be measured; renewed below
        metrics, changed = _measure(run, folder, data, options)
        facts |= changed | {
            "data": Path(data).name,
            "command": f"python -m dualtoken.lab.ship {run.name} {folder.name} --data {Path(data).name}",
        }
        clean = replace(clean, metrics=metrics)
    clean = replace(clean, provenance=clean.provenance | {"rounded": facts, "earlier": _earlier(config)})
    write_json(folder / CONFIG, clean.to_json())
    write_text(folder / CARD, card_of(clean, folder, name or folder.name))
    return folder


def card_of(config: ModelConfig, folder: Path, name: str) -> str:
    """The card of a model in the package."""
    about = BUNDLED[name].about if name in BUNDLED else ""
    return model_card(config, folder / WEIGHTS, name=name, license="apache-2.0", about=about)


def rounded(state: dict[str, Any]) -> dict[str, Any]:
    """Floating-point tensors in float16, the others (counters) as they are.

    Raises:
        ModelError: a number is larger than float16 can hold.
    """
    small = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    lost = [key for key, tensor in small.items() if not tensor.isfinite().all()]
    if lost:
        raise ModelError(f"{lost[0]!r} holds numbers that float16 cannot (above 65504).", "Keep this model in float32.")
    return small


def _earlier(config: ModelConfig) -> list[dict[str, str]]:
    """Name and command of each run that this one's weights come from, the latest first, as far as they are there."""
    runs = []
    while (start := config.provenance.get("fine_tuned_from")) and is_model_folder(start):
        config = load_config(start)
        command = str(portable(config).provenance.get("command", "not recorded"))
        runs.append({"name": Path(start).name, "command": command})
    return runs


def _measure(
    run: Path, folder: Path, data: str | Path, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of the rounded weights, as a config holds them, and what the rounding changed."""
    before = evaluate(load(run, device="cpu"), data, split="val", **options)
    after = evaluate(load(folder, device="cpu"), data, split="val", **options)
    changed = {
        "images": len(after.images),
        "changed": int((before.images.predicted != after.images.predicted).sum()),
        "top1_before": before.metrics["top1"].value,
        "top1": after.metrics["top1"].value,
        "nll_before": before.metrics["nll"].value,
        "nll": after.metrics["nll"].value,
    }
    return after.headline(), changed


def main() -> None:
    """Write a folder, and print its hash and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="model folder that `dualtoken train` wrote")
    parser.add_argument("folder", metavar="FOLDER", help="folder to write")
    parser.add_argument("--data", help="images to measure on: those of the run")
    arguments = parser.parse_args()
    folder = ship(arguments.run, arguments.folder, data=arguments.data)
    rounding = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["dualtoken"]["provenance"]["rounded"]
    print(json.dumps(rounding, indent=2))
    weights = folder / WEIGHTS
    print(f"{weights}: {weights.stat().st_size / 1e6:.2f} MB\nsha256 {digest(weights)}")


if __name__ == "__main__":
    main()
