"""The main job on real data that a package ships: scikit-learn's handwritten digits, from files to predictions."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from dualtoken.errors import require
from dualtoken.files import atomic_path, refuse_existing, writable_folder
from dualtoken.outputs import Classification
from dualtoken.words import counted, typed

SPLITS = {"train": 0.7, "val": 0.15, "test": 0.15}


def write_digits(folder: Path, seed: int = 0) -> Path:
    """Write the 1,797 digits (8 x 8 pixels, Alpaydin and Kaynak 1998) as `folder/SPLIT/DIGIT/*.png`.

    Each class is divided by `seed` into 70 % train, 15 % val and 15 % test.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        OutputError: the folder cannot be written.
    """
    digits = require("sklearn.datasets", "demo").load_digits()
    random = np.random.default_rng(seed)
    for digit in range(10):
        members = random.permutation(np.flatnonzero(digits.target == digit))
        ends = (np.cumsum(list(SPLITS.values()))[:-1] * len(members)).round().astype(int)
        for split, part in zip(SPLITS, np.split(members, ends), strict=True):
            for index in part:
                pixels = (digits.images[index] * (255 / 16)).round().astype(np.uint8)  # stored as 0 to 16
                with atomic_path(folder / split / str(digit) / f"{index:04d}.png") as path:
                    Image.fromarray(pixels).save(path)
    return folder


def run(output: Path = Path("digits-demo"), *, epochs: int = 6, workers: int | None = None, seed: int = 0) -> None:
    """Handwritten digits, start to end: write them as images, train, evaluate, predict (needs the extra `demo`).

    Args:
        output: folder for the data, the run and the pictures, new or empty.
        epochs: passes over the training images.
        workers: loading processes. Left out: one a core, at most 8.
        seed: random seed: the same one gives the same run.

    Raises:
        OutputError: the folder is there already and holds something, or cannot be written.
        MissingExtraError: scikit-learn is not installed.
    """
    from dualtoken.evaluation import evaluate
    from dualtoken.prediction import load
    from dualtoken.report import contact_sheet
    from dualtoken.training import train

    require("sklearn.datasets", "demo")
    refuse_existing(output, "--output")
    output = writable_folder(output)
    print(f"1. Writing handwritten digits as images to {output / 'digits'}")
    data = write_digits(output / "digits", seed)

    print(f"2. Training DualToken-ViT-T (mix) for {counted(epochs, 'pass', 'passes')}")
    run_folder = output / "run"
    train(data, run_folder, recipe="digits", epochs=epochs, workers=workers, seed=seed)

    print("3. Evaluating on the test split, which training has not seen")
    print(evaluate(run_folder, data, split="test", output=output / "evaluation", workers=workers).summary())

    print("4. Predicting a few files")
    files = [sorted((data / "test" / str(digit)).glob("*.png"))[0] for digit in range(10)]
    predictor = load(run_folder)
    predictions = cast(list[Classification], predictor.predict([str(file) for file in files]))
    for file, prediction in zip(files, predictions, strict=True):
        print(f"   {file.relative_to(output)}  ->  {prediction.label}  ({prediction.score:.0%})")
    sheet = contact_sheet(
        [(Image.open(file), prediction, file.parent.name) for file, prediction in zip(files, predictions, strict=True)]
    )
    with atomic_path(output / "predictions.png") as path:
        sheet.save(path)

    print(f"\nModel     {run_folder}")
    print(f"Report    {run_folder / 'report.html'}")
    print(f"Pictures  {output / 'predictions.png'}, {output / 'evaluation'}")
    print(f"Next      dualtoken predict {typed(run_folder)} {typed(files[3])}")
