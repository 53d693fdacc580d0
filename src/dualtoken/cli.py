"""The command line: a verb is one public function, and its options are that function's own signature and docstring.

Signatures are read from the source (`options`, `static`), and work is imported when a verb does it, so that `--help`
answers at once.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from dualtoken import static
from dualtoken.errors import ConfigError, DataError, Terminated, UserError, missing_package
from dualtoken.options import (
    DONE,
    INTERRUPTED,
    TERMINATED,
    USER_MISTAKE,
    WITH_FAILURES,
    Verb,
    command,
    ended,
    legible,
    print_json,
    show,
    tell,
)
from dualtoken.static import Parameter
from dualtoken.words import counted, typed

# The extra that brings a package, by the name that it is imported by.
EXTRAS = dict.fromkeys(
    ("torch", "torchvision", "timm", "lightning_fabric", "tensorboardX", "matplotlib", "jinja2", "safetensors"),
    "train",
) | {
    "onnxruntime": "runtime", "onnx": "onnx", "onnxscript": "onnx", "openvino": "openvino", "nncf": "openvino",
    "executorch": "executorch", "litert_torch": "litert", "coremltools": "coreml", "sklearn": "demo",
    "captum": "explain", "pycocotools": "detection", "segmentation_models_pytorch": "segmentation", "av": "video",
    "supervision": "supervision", "pyarrow": "parquet", "fsspec": "shards", "datasets": "huggingface",
    "huggingface_hub": "hub", "ray": "ray",
}  # fmt: skip

FIRST_STEPS = """\
Light-weight vision models, trained on your own images.

  See one at work      dualtoken predict photo.jpg
  Train on a folder    dualtoken train photos/ --output runs/photos
  Try it on digits     dualtoken demo
  Try it in a browser  dualtoken app runs/photos

  All commands         dualtoken --help
  Options of one       dualtoken train --help
  Completion by tab    dualtoken --install-completion"""


def main() -> NoReturn:
    """Run a verb; a user's mistake becomes its message and exit code 2, without a traceback."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        with _terminable():
            app(_without_plugins(arguments))  # `sys.argv` stays: processes that are started beside this one take it
    except UserError as error:
        if debug:
            raise
        _tell(error)
    except ModuleNotFoundError as error:
        name = error.name or ""
        extra = EXTRAS.get(name.partition(".")[0])
        if debug or extra is None:
            raise
        _tell(missing_package(name, extra))
    except KeyboardInterrupt as stop:
        if debug:
            raise
        sys.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)
    except BrokenPipeError:  # `dualtoken ... | head`: the reader left, which is not an error
        sys.stderr.close()
        sys.exit(DONE)
    sys.exit(DONE)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a verb as Ctrl-C does, so that nothing temporary is left; a second one ends it at once."""

    def stop(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(error: UserError) -> NoReturn:
    tell(error.message, bold=True)
    if error.hint:
        typer.echo(error.hint, err=True)
    sys.exit(USER_MISTAKE)


def _without_plugins(arguments: list[str]) -> list[str]:
    """`--plugin MODULE`, anywhere in the line and as often as wanted: what it registers is there in every verb."""
    if "--plugin" in arguments:
        sys.path.insert(0, "")  # a module beside the user, as with `python -m`; else nothing there is ever imported
    while "--plugin" in arguments:
        at = arguments.index("--plugin")
        name = arguments[at + 1] if len(arguments) > at + 1 else ""
        try:
            importlib.import_module(name)
        except (ValueError, ModuleNotFoundError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name != name:
                raise  # the plug-in is there, something that it needs is not
            raise ConfigError(f"--plugin is {name!r}, which is not a module that can be imported.") from None
        arguments = [*arguments[:at], *arguments[at + 2 :]]
    return arguments


# ---------------------------------------------------------------- before and after a function

COMMON = (
    "task", "head", "labels", "model", "epochs", "limit_minutes", "batch_size", "image_size", "lr", "freeze", "workers",
    "seed", "device", "devices", "nodes", "val_fraction", "on_bad_image", "on_bad_label", "max_pixels", "max_bytes",
)  # fmt: skip
DISTILLED = (
    "model", "probe", "epochs", "limit_minutes", "batch_size", "image_size", "lr", "workers", "seed", "device",
    "devices", "nodes",
)  # fmt: skip


def _settings(names: Sequence[str], example: str, *configs: tuple[str, str]) -> list[Parameter]:
    """The settings of a run that have an option of their own, and `--set` for the rest; recipes decide defaults."""
    fields = {part.name: part for home in configs for part in static.signature(*home)[1]}
    return [*(replace(fields[name], default="None") for name in names), _set(f"Any other setting, such as {example}")]


def _set(about: str) -> Parameter:
    return Parameter("set", static.expression("str | list[str] | None"), "None", True, f"{about}; repeat")


def _train(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Judge the settings before torch is imported, and look whether there is any data, then train."""
    from dualtoken.data.tree import require_there
    from dualtoken.training.checks import check_settings
    from dualtoken.training.folder import run_folder
    from dualtoken.training.recipes import load_recipe, parse_settings
    from dualtoken.training.start import starting_point

    if "output" not in given and "resume" not in given:
        raise ConfigError("--output is missing.", f"Type: dualtoken train {typed(given['data'])} --output RUN")
    own = {name: given.pop(name) for name in ("data", "output", "recipe", "resume", "from_scratch") if name in given}
    settings = parse_settings(given.pop("set", [])) | given
    if "resume" not in own:
        scratch = own.get("from_scratch", False)
        start = starting_point(own.get("recipe"), settings, fresh="auto", tuned="finetune", from_scratch=scratch)
        check_settings(load_recipe(*start))
    require_there(own["data"])
    run_folder(own.get("output"), own.get("resume"))
    return function(**own, **settings)


def _with_set(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    from dualtoken.training.recipes import parse_settings

    return function(**parse_settings(given.pop("set", [])) | given)


def _distill(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    from dualtoken.training.recipes import parse_settings

    if "output" not in given and "resume" not in given:
        raise ConfigError("--output is missing.", "Type: dualtoken distill IMAGES --teacher TEACHER --output RUN")
    settings = parse_settings(given.pop("set", []))
    return function(**settings | given)


def _trained(run: Any, *_: Any) -> None:
    typer.echo(f"\nModel   {run.folder}\nReport  {run.folder}/report.html")
    typer.echo(f"Next    dualtoken predict {typed(run.folder)} IMAGE")


def _distilled(run: Any, *_: Any) -> None:
    typer.echo(f"\nModel   {run.folder}\nNext    dualtoken train DATA --model {typed(run.folder)} --output NEW")


def _evaluated(result: Any, as_json: bool, given: dict[str, Any]) -> None:
    show(result, as_json, {})
    if not as_json and "output" in given:
        typer.echo(f"\nReport  {Path(given['output']) / 'report.html'}")


def _explain(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    blocks = [name for text in given.get("blocks", ["last"]) for name in text.split(",")]
    return function(**given | {"blocks": blocks[0] if blocks in (["last"], ["all"]) else blocks})


def _explained(results: Any, as_json: bool, given: dict[str, Any]) -> int:
    """Say of each image what was seen as soon as it is; one that cannot be read does not stop the rest."""
    failed, seen, output = 0, [], Path(given["output"])
    try:
        for result in results:
            if isinstance(result, tuple):
                failed += 1
                tell(str(result[1]))
                continue
            seen.append(result.to_dict() if as_json else result.path)
            if not as_json:
                typer.echo(f"{result.path}\n{result.summary()}\n")
    except KeyboardInterrupt:
        held = f"{output / 'explanation.json'} holds them" if seen else "nothing was written"
        typer.echo(f"\nStopped: {counted(len(seen), 'image')} done, {held}.", err=True)
        raise
    if not seen and not failed:
        raise DataError(f"{', '.join(given['inputs'])} held no images.")
    if as_json:
        print_json(seen)
    else:
        typer.echo(f"Written  {output}" if seen else "No image could be explained: nothing was written.", err=not seen)
    return ended(len(seen), failed)


def _converted(result: Any, *_: Any) -> None:
    typer.echo(result.summary())
    for note in result.notes:
        typer.echo(f"Note     {note}")
    typer.echo(f"Written  {result.output}")


def _weights_converted(result: Any, *_: Any) -> None:
    typer.echo(f"{result.summary()}\nWritten  {result.folder}\nNext     dualtoken predict {typed(result.folder)} IMAGE")


def _export(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Find a wrong format or place before torch is imported."""
    from dualtoken.export.formats import find_format
    from dualtoken.hub import is_named

    model = given["model"]
    if "output" not in given and is_named(model):
        raise ConfigError(f"--output is missing: {model!r} is not a folder of yours to write into.", "Name a file.")
    form, place = find_format(given.get("format"), Path(given.get("output") or Path(model) / "model"))
    given |= {"output": place, "format": form}
    return function(**given)


def _exported(result: Any, as_json: bool, _: Any) -> None:
    from dualtoken.engines import engine_of

    if as_json:
        print_json({"files": [str(file) for file in result.files], "parity": result.parity.to_dict()})
        return
    trust = " --trust" if engine_of(result.path).runs_code else ""
    typer.echo(f"{result.line()}\n{result.parity.line()}\nNext    dualtoken predict {typed(result.path)} IMAGE{trust}")


def _bundled(folder: Path, *_: Any) -> None:
    typer.echo(f"Written  {folder}\nNext     pip install -r {typed(folder / 'requirements.txt')}")


def _verified(parity: Any, as_json: bool, _: Any) -> int:
    print_json(parity.to_dict()) if as_json else typer.echo(parity.line())
    return DONE if parity.passed else WITH_FAILURES


def _measured(rows: Any, as_json: bool, given: dict[str, Any]) -> int:
    from dualtoken.lab.benchmark_tables import print_rows

    if as_json:
        print_json(rows)
    else:
        print_rows(rows)
        for place in ("output", "plot", "table"):
            if place in given:
                typer.echo(f"Written  {given[place]}")
    return WITH_FAILURES if any("error" in row for row in rows) else DONE


def _study(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    from dualtoken.training.recipes import parse_settings

    return function(**given | {"settings": parse_settings(given.pop("set", []))})


def _reproduced(found: Any, _: bool, __: dict[str, Any]) -> int:
    typer.echo(f"\n{found.summary()}")
    return WITH_FAILURES if found.difference else DONE


def _resumed(found: Any, as_json: bool, _: Any) -> int:
    print_json(found.to_dict()) if as_json else typer.echo(found.summary())
    return DONE if found.passed else WITH_FAILURES


def _pushed(pushed: Any, _: bool, given: dict[str, Any]) -> None:
    typer.echo((f"{pushed.card}\n" if given.get("dry_run") else "") + pushed.summary())


OWN, EVALUATE = "dualtoken.verbs", "dualtoken.evaluation:evaluate"
TRAIN_CONFIG = "dualtoken.training.config", "TrainConfig"
DISTILL_CONFIG = "dualtoken.training.distillation", "DistillConfig"
VERBS = {
    "train": Verb(
        "dualtoken.training:train",
        "dualtoken train photos/ --output runs/photos --epochs 50 --image-size 160",
        more=partial(_settings, COMMON, "mixup=0.2", TRAIN_CONFIG), json=False, call=_train,
        show=_trained,
        opens=("data",),
    ),
    "distill": Verb(
        "dualtoken.training.distillation:distill",
        "dualtoken distill photos/ more.zip --teacher runs/large --output runs/small; "
        "dualtoken distill photos/ --teacher big.onnx --set teacher_size=224 --probe labelled/ --output runs/small",
        flags={"images": "IMAGES", "teachers": "--teacher"}, many=("images", "teachers"),
        optional=("images", "teachers", "output"),
        more=partial(_settings, DISTILLED, "teacher_size=160", TRAIN_CONFIG, DISTILL_CONFIG), json=False, call=_distill,
        show=_distilled,
        opens=("images", "teachers"),
    ),
    "reproduce": Verb(
        "dualtoken.training.reproduce:reproduce", "dualtoken reproduce runs/photos photos/ --output runs/again",
        json=False, show=_reproduced,
        opens=("run",),
    ),
    "verify-resume": Verb(
        "dualtoken.training.verify_resume:verify_resume",
        "dualtoken verify-resume photos/ --epochs 3 --image-size 64 --workers 2",
        like="dualtoken.training:train", more=partial(_settings, COMMON, "mixup=0.2", TRAIN_CONFIG), call=_with_set,
        show=_resumed,
    ),
    "throughput": Verb(
        "dualtoken.training.throughput:throughput",
        "dualtoken throughput photos/ --image-size 224 --workers 2",
        like="dualtoken.training:train", more=partial(_settings, COMMON, "mixup=0.2", TRAIN_CONFIG), call=_with_set,
        opens=("data",),
    ),
    "evaluate": Verb(
        EVALUATE, "dualtoken evaluate runs/photos photos/ --split val --output results/photos", hidden=("resamples",),
        show=_evaluated,
        opens=("model",),
    ),
    "compare": Verb(
        "dualtoken.evaluation:compare", "dualtoken compare runs/a runs/b photos/ --split val", like=EVALUATE,
        hidden=("resamples",),
        opens=("a", "b"),
    ),
    "predict": Verb(
        f"{OWN}:predict",
        "dualtoken predict photo.jpg; "
        "dualtoken predict runs/photos holiday/ 'more/*.jpg' --output predictions.csv --sheet sheet.png; "
        "dualtoken predict runs/boxes street.mp4 big.tif --pictures seen/ --output found.jsonl; "
        "dualtoken predict photos.onnx shards/ --engine ray --output predictions",
        like=EVALUATE, flags={"inputs": "INPUT", "runner": "--engine"},
        more=lambda: static.signature("dualtoken.prediction.command", "Options")[1],
    ),
    "explain": Verb(
        "dualtoken.explanation:explain_each",
        "dualtoken explain runs/photos cat.jpg --output why --pixel 120,80",
        flags={"inputs": "IMAGE"}, many=("inputs",), required=("output",), call=_explain, show=_explained,
        opens=("model",),
    ),
    "app": Verb(
        "dualtoken.service.app:app",
        "dualtoken app runs/photos; dualtoken app runs/a runs/b --examples photos/",
        flags={"models": "MODEL"}, many=("models",), json=False,
        opens=("models",),
    ),
    "serve": Verb(
        "dualtoken.service.serving:serve",
        "dualtoken serve photos.onnx; dualtoken serve a.onnx b.onnx --host 0.0.0.0 --token-file token.txt",
        flags={"models": "MODEL"}, many=("models",), json=False,
        more=lambda: static.signature("dualtoken.service.batches", "Settings")[1],
        opens=("models",),
    ),
    "convert": Verb(
        "dualtoken.data:convert", "dualtoken convert coco/ --to yolo --output coco-yolo",
        like=EVALUATE, flags={"source": "DATA", "to": "--to"}, hidden=("task",), json=False,
        show=_converted,
    ),
    "convert-weights": Verb(
        "dualtoken.hub.conversion:convert_weights",
        "dualtoken convert-weights cas_vit_xs.safetensors --model cas_vit_xs --output runs/cas_vit_xs",
        flags={"checkpoint": "CHECKPOINT", "model": "--model"}, json=False,
        show=_weights_converted,
    ),
    "pack": Verb(
        "dualtoken.data:pack", "dualtoken pack photos/ shards/; dualtoken pack coco/ shards/ --shard-mb 500",
        like=EVALUATE, flags={"source": "DATA", "output": "OUT"}, json=False, show=_converted,
    ),
    "export": Verb(
        "dualtoken.export:export", "dualtoken export runs/photos --output photos.onnx --images photos/val",
        optional=("output",), call=_export, show=_exported,
        opens=("model",),
    ),
    "verify": Verb(
        "dualtoken.export:verify", "dualtoken verify photos.onnx runs/photos --images photos/val", show=_verified,
        opens=("export", "model"),
    ),
    "quantize": Verb(
        f"{OWN}:quantize",
        "dualtoken quantize photos.onnx photos/ --output photos.int8.onnx --max-drop 0.5; "
        "dualtoken quantize photos.onnx --output photos.fp16.onnx --precision fp16",
        opens=("export",),
    ),
    "benchmark": Verb(
        "dualtoken.lab.benchmark:benchmark",
        "dualtoken benchmark runs/photos mobilenetv4_conv_small --engine eager,onnx --output speed.jsonl",
        flags={"models": "MODEL", "engines": "--engine", "batches": "--batch", "sizes": "--size"}, show=_measured,
        opens=("models",),
    ),
    "study": Verb(
        "dualtoken.lab.study_command:run",
        "dualtoken study ablations cifar10.zip --output studies/ablations --budget 2h --scale cpu",
        flags={"name": "STUDY"}, hidden=("settings",),
        more=lambda: [_set("A setting that all arms share, such as epochs=2")], json=False, call=_study,
    ),
    "tables": Verb("dualtoken.lab.pages:tables", "dualtoken tables --markdown docs/paper.md", json=False),
    "runtime-bundle": Verb(
        "dualtoken.export.bundle:write_bundle", "dualtoken runtime-bundle model.onnx --output bundle",
        flags={"folder": "--output"}, json=False,
        show=_bundled,
    ),
    "push": Verb(
        "dualtoken.hub:push_to_hub",
        "dualtoken push runs/pets anna/pets --private --license apache-2.0 --dry-run",
        hidden=("token",), json=False, show=_pushed,
    ),
    "models": Verb(f"{OWN}:models", "dualtoken models --json"),
    "demo": Verb("dualtoken.lab.demo:run", "dualtoken demo --output digits-demo", json=False),
}  # fmt: skip


# ---------------------------------------------------------------- what names may be


def _names(*homes: str) -> Callable[[], list[str]]:
    """The names in tables or lists of MODULE:NAME, imported when they are asked for; a plain word is one itself."""

    def listed() -> list[str]:
        found: list[str] = []
        for module, _, name in (home.partition(":") for home in homes):
            table = getattr(importlib.import_module(module), name) if name else [module]
            found += table() if callable(table) else table
        return found

    return listed


CHOICES = {
    "task": _names("dualtoken.training.config:task_names"),
    "labels": _names("auto", "dualtoken.data.formats:by_rank"),
    "to": _names("dualtoken.data.formats:writable"),
    "engine": _names("auto", "dualtoken.engines:runnable"),
    "runner": _names("auto", "ray", "dualtoken.engines:runnable"),
    "format": _names("dualtoken.export.formats:FORMATS"),
    "engines": _names("dualtoken.lab.worker_engines:ENGINES"),
    "head": _names("dualtoken.decode:HEADS", "dualtoken.heads:DECODERS"),
}
SUGGESTIONS = {
    **dict.fromkeys(("model", "models"), _names("dualtoken.hub:BUNDLED", "dualtoken.training.checks:network_names")),
    "recipe": _names("dualtoken.training.recipes:recipe_names"),
}
BOUNDS = {
    **dict.fromkeys(("batch_size", "top", "rounds", "seeds", "most", "max_pixels", "max_bytes", "epochs"), (1, None)),
    "part_images": (1, None),
    "workers": (0, None), "tile": (32, None), "overlap": (0, 0.9), "threshold": (0, 1), "max_drop": (0, 99),
    "max_objects": (1, 5000), "shard_mb": (1, None), "devices": (1, None), "nodes": (1, None), "port": (0, 65535),
    "max_gmacs": (0, None),
}  # fmt: skip


# ---------------------------------------------------------------- the program


class _Commands(dict[str, Any]):
    """The verbs for typer, each made when it is asked for."""

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        if self[name] is None:
            self[name] = command(name, VERBS[name], CHOICES, SUGGESTIONS, BOUNDS)
        return self[name]


class _Group(TyperGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands(dict.fromkeys(VERBS))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of all verbs needs their first words alone."""
        self.commands = {name: TyperCommand(name, help=static.summary(*verb.home)) for name, verb in VERBS.items()}
        legible()
        super().format_help(ctx, formatter)


app = typer.Typer(
    name="dualtoken",
    cls=_Group,
    help="From a folder of images to a trained, evaluated and predicting light-weight vision model: classes, boxes or "
    "masks.",
    epilog="Add --debug to any command for the traceback of an error, and --plugin MODULE to load what a module of "
    "yours registers. Exit codes: 0 done, 1 finished with failures listed, 2 your mistake, 130 interrupted, 143 "
    "terminated.",
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def first_steps(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(FIRST_STEPS)


if __name__ == "__main__":
    main()
