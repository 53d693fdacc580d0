"""A folder that another machine needs to run an exported model: the model, what to install, and a short example."""

from __future__ import annotations

import json
import shlex
import shutil
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from string import Template

from dualtoken.answers import CLASSIFIER, kind_of
from dualtoken.engines import EngineKind, engine_of
from dualtoken.files import atomic_folder, refuse_existing
from dualtoken.model_folder import ModelConfig
from dualtoken.prediction.exported import ExportInfo, certificate, read_export, sidecar

_PREDICT = Template('''"""Predict for images: python predict.py IMAGE..."""

import sys
from pathlib import Path

from dualtoken.runtime import load

MODEL = Path(__file__).parent / $model

$show

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    model = load(MODEL$trust)
    for path in sys.argv[1:]:
        show(path, model.predict(path))
''')
# How predict.py shows a prediction, by what its kind counts.
_SHOW = {
    "images": """
def show(path, found):
    likely = ", ".join(f"{name} {score:.1%}" for name, score in found.top(3))
    print(f"{path}: {likely}")
""",
    "objects": """
def show(path, found):
    print(f"{path}: {len(found)} found")
    for name, score, box in zip(found.names(), found.scores, found.boxes):
        left, top, right, bottom = (round(float(side)) for side in box)
        print(f"  {name} {score:.1%} at left {left}, top {top}, right {right}, bottom {bottom}")
""",
    "pixels": """
def show(path, found):
    print(f"{path}: {found.size[1]} x {found.size[0]} pixels")
    for label, name in enumerate(found.classes):
        share = float((found.mask == label).mean())
        if share > 0:
            print(f"  {name} {share:.1%}")
""",
}
_PLAIN = """
def show(path, found):
    print(f"{path}: {found.to_dict()}")
"""

_README = Template("""# $title

$task, $number classes: $classes.

Install and run, in an environment of its own$without:

```
pip install -r requirements.txt
python predict.py photo.jpg
dualtoken predict $typed photos/ --output predictions.csv$flag
```

From Python: `dualtoken.runtime.load($model$trust).predict("photo.jpg")`. A path, the bytes of a file, a PIL image or
an array will do; resizing and normalising are done as the model was trained.

| | |
| --- | --- |
| format | $format, $precision, made with $exporter |
| input | $width x $height pixels |
| architecture | $architecture |
| files | $files |
""")


def write_bundle(export: str | Path, folder: str | Path) -> Path:
    """Write a folder that runs an exported model elsewhere, without torch: the model, requirements, an example.

    The folder gets the model's files, `requirements.txt`, `README.md` and `predict.py`.

    Args:
        export: exported file, such as model.onnx.
        folder: folder to make, or an empty one.

    Returns:
        The folder.

    Raises:
        ModelError: it is no export of ours, or a file that belongs to it is missing or another.
        OutputError: the folder holds something, or cannot be written.
    """
    export, folder = Path(export), Path(folder)
    config, info = read_export(export)
    refuse_existing(folder, "--output")
    names = dict.fromkeys(
        [export.name, *info.parts.values(), *info.sha256, sidecar(export).name, certificate(export).name]
    )
    files = [file for file in map(export.with_name, names) if file.exists()]
    texts = _texts(export, files, config, info)
    with atomic_folder(folder) as temporary:
        for file in files:
            shutil.copy2(file, temporary / file.name)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
    return folder


def _texts(export: Path, files: list[Path], config: ModelConfig, info: ExportInfo) -> dict[str, str]:
    shown = ", ".join(config.classes[:20])
    height, width = config.preprocessing.image_size
    counts = kind_of(config.task).counts
    show = _SHOW[counts] if config.task == CLASSIFIER or counts != "images" else _PLAIN
    engine, name = engine_of(export), json.dumps(export.name, ensure_ascii=False)
    trust = ", trust=True" if engine.runs_code else ""
    return {
        "requirements.txt": _requirements(engine),
        "predict.py": _PREDICT.substitute(model=name, show=show, trust=trust),
        "README.md": _README.substitute(
            title=export.stem, task=config.task.replace("_", " ").capitalize(), number=len(config.classes),
            classes=shown if len(config.classes) <= 20 else f"{shown}, ...", model=name, typed=shlex.quote(export.name),
            without="" if "torch" in (engine.package, *engine.also) else " (torch is not needed)", format=info.format,
            precision=info.precision, exporter=info.exporter, width=width, height=height,
            trust=trust, flag=" --trust" if trust else "",
            architecture=config.architecture, files=", ".join(file.name for file in files),
        ),
    }  # fmt: skip


def _requirements(engine: EngineKind) -> str:
    """This version of dualtoken, and that of the engine: the answers are then the same."""
    lines = [f"dualtoken=={metadata.version('dualtoken')}"]
    for package in (engine.package, *engine.also):
        lines.append(package)
        with suppress(metadata.PackageNotFoundError):  # where it is not installed, any version will do
            lines[-1] += f"=={metadata.version(package).partition('+')[0]}"
    return "\n".join(lines) + "\n"
