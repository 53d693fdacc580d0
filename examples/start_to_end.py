"""From a folder of images to an exported model that answers without torch.

python examples/start_to_end.py digits-example [RECIPE]

Needs `pip install 'dualtoken[demo,onnx]'`. The images are scikit-learn's handwritten digits, as files; put your own
folder in their place. With the recipe `digits` (the default) it takes about three minutes on two cores.
"""

import sys
from pathlib import Path

import dualtoken
from dualtoken.lab.demo import write_digits


def main(folder: Path, recipe: str = "digits") -> None:
    images = write_digits(folder / "digits")  # digits/train/3/0012.png: one folder a class

    run = folder / "run"
    dualtoken.train(images, run, recipe=recipe, limit_minutes=3)
    print(dualtoken.evaluate(run, images, split="test").summary())

    export = dualtoken.export(run, folder / "digits.onnx", images=images / "val")  # refused if its answers differ
    print(export.parity.line())

    photo = next((images / "test" / "7").iterdir())
    answer = dualtoken.load(export.path).predict(photo)
    print(f"{photo.name} shows a {answer.label} ({answer.score:.0%})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
