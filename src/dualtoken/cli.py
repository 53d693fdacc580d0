"""The command line: one typed function a verb. Work is imported inside the verb, so that `--help` answers at once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from dualtoken.errors import ConfigError, DataError, Terminated, UserError
from dualtoken.words import counted

DONE, WITH_FAILURES, USER_MISTAKE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
# The extra that brings a package, by the name that it is imported by.
EXTRAS = dict.fromkeys(
    ("torch", "torchvision", "timm", "lightning_fabric", "tensorboardX", "matplotlib", "jinja2", "safetensors"),
    "train",
) | {
    "onnxruntime": "runtime", "onnx": "onnx", "onnxscript": "onnx", "openvino": "openvino", "nncf": "openvino",
    "executorch": "executorch", "litert_torch": "litert", "coremltools": "coreml", "sklearn": "demo",
    "captum": "explain", "pycocotools": "detection", "segmentation_models_pytorch": "segmentation", "av": "video",
    "supervision": "supervision", "pyarrow": "parquet", "huggingface_hub": "hub",
}  # fmt: skip

app = typer.Typer(
    name="dualtoken",
    help="From a folder of images to a trained, evaluated and predicting light-weight vision model: classes, boxes or "
    "masks.",
    epilog="Add --debug to any command for the traceback of an error. Exit codes: 0 done, 1 finished with failures "
    "listed, 2 your mistake, 130 interrupted, 143 terminated.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run a verb; a user's mistake becomes its message and exit code 2, without a traceback."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except UserError as error:
        if debug:
            raise
        typer.secho(error.message, fg="red", bold=True, err=True)
        if error.hint:
            typer.echo(error.hint, err=True)
        sys.exit(USER_MISTAKE)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if debug or extra is None:
            raise
        typer.secho(f"This needs the package {error.name!r}, which is not installed.", fg="red", bold=True, err=True)
        typer.echo(f"Type: pip install 'dualtoken[{extra}]'", err=True)
        sys.exit(USER_MISTAKE)
    except KeyboardInterrupt as stop:
        if debug:
            raise
        sys.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)
    except BrokenPipeError:  # `dualtoken ... | head`: the reader left, which is not an error
        sys.stderr.close()
        sys.exit(DONE)
    sys.exit(DONE)


# ---------------------------------------------------------------- options that several verbs share

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Class folders, a CSV file, labels of COCO, YOLO or VOC, masks; a folder, file or zip."
    ),
]
LabelKind = Annotated[
    Literal["auto", "folders", "coco", "yolo", "voc", "masks"],
    typer.Option(help="Labels to read where DATA has several kinds."),
]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Model folder that `dualtoken train` wrote, exported file, dualtoken-vit-t-cifar10, hf-hub:USER/NAME.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Split to use. Default: test, else val, else everything.")]
Output = Annotated[Path | None, typer.Option(help="Folder to write results and pictures to.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a batch.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Loading processes. Default: one a core, at most 8.")]
Seed = Annotated[int, typer.Option(help="Decides everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
OnBadImage = Annotated[
    Literal["fail", "skip"], typer.Option(help="fail, or skip: leave out and list images that cannot be read.")
]
MaxPixels = Annotated[int | None, typer.Option(min=1, help="Refuse images with more pixels.")]
MaxBytes = Annotated[int | None, typer.Option(min=1, help="Refuse files with more bytes.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Open exported files that can run code (.pt2) too: you know who made them.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else.")]


def _limits(max_pixels: int | None, max_bytes: int | None) -> Any:
    from dualtoken.images import ImageLimits

    given = {"max_pixels": max_pixels, "max_bytes": max_bytes}
    return ImageLimits(**{name: value for name, value in given.items() if value is not None})


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


# ---------------------------------------------------------------- the verbs


@app.command(epilog="Example: dualtoken train photos/ --output runs/photos --epochs 50 --image-size 160")
def train(
    data: Data,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run and its model. Default with --resume: RUN.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name (see `dualtoken models`, or any of timm), or a model folder or hf-hub: to fine-tune."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification, detection, instance_segmentation, semantic_segmentation. Default: as labels."
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="For boxes: retinanet, fcos, faster_rcnn; for masks: fpn, deeplabv3plus, ...")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="folders, coco, yolo, voc, masks: what to read where DATA has several.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Settings to start from: a name of docs/train.md or a YAML file.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    limit_minutes: Annotated[float | None, typer.Option(help="Plan the whole run to end within this time.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
    image_size: Annotated[int | None, typer.Option(min=32, help="Side of the square input, in pixels.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate, for the batch as it is.")] = None,
    freeze: Annotated[str | None, typer.Option(help="none, or backbone: train the classifier alone.")] = None,
    workers: Workers = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps.")] = None,
    val_fraction: Annotated[float | None, typer.Option(help="Share held out where DATA has no val split.")] = None,
    on_bad_image: Annotated[
        str | None, typer.Option(help="fail, or skip: leave out and list unreadable images.")
    ] = None,
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue this run where it stopped.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the recipe; repeat.")
    ] = None,
) -> None:
    """Train on images with classes, boxes or masks and write a model folder with its report."""
    from dualtoken.training.checks import check_settings
    from dualtoken.training.folder import run_folder
    from dualtoken.training.recipes import load_recipe, parse_settings

    given = {
        "task": task, "head": head, "labels": labels, "model": model,
        "epochs": epochs, "limit_minutes": limit_minutes, "batch_size": batch_size,
        "image_size": image_size, "lr": lr, "freeze": freeze, "workers": workers, "seed": seed, "device": device,
        "val_fraction": val_fraction, "on_bad_image": on_bad_image, "max_pixels": max_pixels, "max_bytes": max_bytes,
    }  # fmt: skip
    if output is None and resume is None:
        raise ConfigError("--output is missing.", "Type: dualtoken train DATA --output RUN")
    settings = parse_settings(set_ or []) | {key: value for key, value in given.items() if value is not None}
    if resume is None:
        check_settings(load_recipe(recipe or "small", settings))  # mistakes are answered before torch is imported
    run_folder(output, resume)

    from dualtoken.training import train as run

    result = run(data, output or resume, recipe=recipe, resume=resume, **settings)
    folder = result.folder
    typer.echo(f"\nModel   {folder}\nReport  {folder / 'report.html'}\nNext    dualtoken predict {folder} IMAGE")


@app.command(epilog="Example: dualtoken evaluate runs/photos photos/ --split val --output results/photos")
def evaluate(
    model: Model,
    data: Data,
    split: Split = None,
    output: Output = None,
    labels: LabelKind = "auto",
    batch_size: BatchSize = 64,
    workers: Workers = None,
    seed: Seed = 0,
    device: Device = "auto",
    on_bad_image: OnBadImage = "fail",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    trust: Trust = False,
    json_: Json = False,
) -> None:
    """Measure a model: accuracy, average precision or overlap, and more, each with its interval."""
    from dualtoken.evaluation import evaluate as run

    evaluation = run(
        model, data, split=split, output=output, labels=labels, batch_size=batch_size, workers=workers, seed=seed,
        device=device, on_bad_image=on_bad_image, limits=_limits(max_pixels, max_bytes), progress=not json_,
        trust=trust,
    )  # fmt: skip
    if json_:
        _print_json(evaluation.to_dict())
    else:
        typer.echo(evaluation.summary())
        if output:
            typer.echo(f"\nReport  {output / 'report.html'}")


@app.command(
    epilog="Example: dualtoken predict photo.jpg; "
    "dualtoken predict runs/photos holiday/ 'more/*.jpg' --output answers.csv --sheet sheet.png; "
    "dualtoken predict runs/boxes street.mp4 big.tif --pictures seen/ --output found.jsonl"
)
def predict(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="As for other verbs. Without it the model of the package answers."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT", help="Files, folders, patterns, zip archives, videos (boxes and masks), - for stdin."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Table to write: .jsonl, .csv, .parquet (classes), .json (COCO), or a folder with --form."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(help="Boxes and masks: coco, yolo, masks, csv, jsonl, where the suffix leaves it open."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Boxes and masks: folder for pictures and videos of what was found.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Boxes: lowest score shown. Default: the model's own.")
    ] = None,
    tile: Annotated[
        int | None, typer.Option(min=32, help="Boxes and masks: answer big images in tiles of so many pixels.")
    ] = None,
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="Share of a tile that the next one repeats.")] = 0.25,
    sheet: Annotated[
        Path | None, typer.Option(help="Classes: contact sheets to draw, such as sheet.png; 40 images a page.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes listed for each image.")] = 5,
    batch_size: BatchSize = 32,
    workers: Workers = None,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    trust: Trust = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON lines for programs, and nothing else.")] = False,
) -> None:
    """Answer for images: classes, boxes or masks; a bad file is reported and the rest goes on (exit code 1 then)."""
    from dualtoken.hub import BUNDLED, DEFAULT, bundled_folder
    from dualtoken.prediction import load
    from dualtoken.prediction.command import Options, answer_files, print_answers, split_model
    from dualtoken.report import to_json_line

    chosen, inputs = split_model([*([] if model is None else [model]), *(inputs or [])])
    if chosen is None:
        typer.echo(f"Model    {DEFAULT}, which comes with the package and knows {BUNDLED[DEFAULT].knows}", err=True)

    options = Options(
        output=output, form=form, pictures=pictures, sheet=sheet, threshold=threshold, tile=tile, overlap=overlap,
        top=top, batch_size=batch_size, workers=workers, limits=_limits(max_pixels, max_bytes),
    )  # fmt: skip

    predictor = load(bundled_folder(DEFAULT) if chosen is None else chosen, device=device, trust=trust)

    def show(page: list[Any]) -> None:
        if json_:
            for answer in page:
                typer.echo(to_json_line(answer, top))
        elif not output:
            print_answers(predictor, page, top=min(top, 3))
        else:
            for answer in page:
                if isinstance(answer, tuple):
                    typer.secho(str(answer[1]), fg="red", err=True)

    answered, failed = answer_files(
        predictor, inputs, options, show, note=lambda text: typer.echo(f"Note     {text}", err=True)
    )
    if answered + failed == 0:
        raise DataError(f"{', '.join(inputs)} held no images.")
    if not json_:
        typer.echo(f"{counted(answered, 'image')} answered" + (f", {failed:,} could not be read" if failed else ""))
        for place in (output, sheet, pictures):
            if place and answered:
                typer.echo(f"Written  {place}")
    if failed:
        raise typer.Exit(WITH_FAILURES)


@app.command(epilog="Example: dualtoken compare runs/a runs/b photos/ --split val")
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A model folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    data: Data,
    split: Split = None,
    labels: LabelKind = "auto",
    batch_size: BatchSize = 64,
    workers: Workers = None,
    seed: Seed = 0,
    device: Device = "auto",
    on_bad_image: OnBadImage = "fail",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    trust: Trust = False,
    json_: Json = False,
) -> None:
    """Say whether one model is better than another on the same images, or that they cannot be told apart."""
    from dualtoken.evaluation import compare as run

    comparison = run(
        a, b, data, split=split, labels=labels, batch_size=batch_size, workers=workers, seed=seed, device=device,
        on_bad_image=on_bad_image, limits=_limits(max_pixels, max_bytes), progress=not json_, trust=trust,
    )  # fmt: skip
    if json_:
        _print_json(comparison.to_dict())
    else:
        typer.echo(comparison.summary())


@app.command(epilog="Example: dualtoken explain runs/photos cat.jpg --output why --pixel 120,80")
def explain(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="As for predict, but no exported file; or a name of timm: fresh weights."),
    ],
    inputs: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, patterns, zip archives.")],
    output: Annotated[Path, typer.Option(help="Folder to make, for figures and explanation.json.")],
    target: Annotated[str | None, typer.Option(metavar="CLASS", help="Explain this class alone.")] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="Parts of an answer. Default: 1 class, 3 objects, all regions.")
    ] = None,
    method: Annotated[str, typer.Option(help="hirescam, gradcam, integrated_gradients.")] = "hirescam",
    stride: Annotated[int | None, typer.Option(help="Classes: pixels for one position of the map to read.")] = None,
    pixel: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Whose attention to draw. Default: where the map is strongest.")
    ] = None,
    blocks: Annotated[str, typer.Option(help="last of each stage, all, or such as 1.2,3.1: stage and block.")] = "last",
    baseline: Annotated[Literal["blur", "grey"], typer.Option(help="What stands where pixels are away.")] = "blur",
    steps: Annotated[int, typer.Option(help="Parts in which pixels are taken away, 2 to 1000.")] = 16,
    seed: Seed = 0,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    json_: Json = False,
) -> None:
    """Show where a model looks, what that is worth, and what the global tokens do (needs the extra `explain`)."""
    failed, seen = 0, []
    try:
        from dualtoken.explanation import explain_each

        for result in explain_each(
            model, inputs, output, target=target, most=most, method=method, stride=stride, pixel=_parse_pixel(pixel),
            blocks=blocks if blocks in ("last", "all") else _parse_list(blocks), baseline=baseline, steps=steps,
            seed=seed, device=device, limits=_limits(max_pixels, max_bytes), progress=not json_,
        ):  # fmt: skip
            if isinstance(result, tuple):
                failed += 1
                typer.secho(str(result[1]), fg="red", err=True)
                continue
            seen.append(result.to_dict() if json_ else result.path)
            if not json_:
                typer.echo(f"{result.path}\n{result.summary()}\n")
    except KeyboardInterrupt:
        held = f"{output / 'explanation.json'} holds them" if seen else "nothing was written"
        typer.echo(f"\nStopped: {counted(len(seen), 'image')} done, {held}.", err=True)
        raise
    if not seen and not failed:
        raise DataError(f"{', '.join(inputs)} held no images.")
    if json_:
        _print_json(seen)
    else:
        typer.echo(f"Written  {output}" if seen else "No image could be explained: nothing was written.", err=not seen)
    if failed:
        raise typer.Exit(WITH_FAILURES)


def _parse_pixel(text: str | None) -> tuple[float, float] | None:
    """`X,Y`"""
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--pixel is {text!r}, expected two numbers with a comma between, such as 120,80.") from None
    return x, y


@app.command(epilog="Example: dualtoken convert coco/ --to yolo --output coco-yolo")
def convert(
    data: Data,
    to: Annotated[Literal["coco", "yolo", "voc", "masks"], typer.Option(help="Kind of labels to write.")],
    output: Annotated[Path, typer.Option(help="Folder to make: images byte for byte, labels anew.")],
    labels: LabelKind = "auto",
    on_bad_image: OnBadImage = "fail",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
) -> None:
    """Write a data set with boxes or masks anew, with another kind of labels."""
    from dualtoken.data import convert as run

    if labels == "folders":
        raise ConfigError(
            "labels is 'folders': class folders have nothing to convert.", "Give coco, yolo, voc or masks."
        )
    done = run(data, output, to, labels=labels, on_bad_image=on_bad_image, limits=_limits(max_pixels, max_bytes))
    typer.echo(done.summary())
    for note in done.notes:
        typer.echo(f"Note     {note}")
    typer.echo(f"Written  {done.output}")


@app.command(epilog="Example: dualtoken export runs/photos --output photos.onnx --images photos/val")
def export(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Model folder, dualtoken-vit-t-cifar10, or hf-hub:USER/NAME."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="File to write; its suffix chooses the format. Default: in the model folder.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="onnx, openvino, torch, executorch, litert, coreml. Default: onnx.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Pictures to compare answers on: file, folder, pattern, zip; repeat. Default: the run's own."
        ),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Input in pixels, such as 320 or 192x256. Default: the model's.")
    ] = None,
    dynamic_size: Annotated[bool, typer.Option("--dynamic-size", help="Leave the size of the input open.")] = False,
    limit: Annotated[
        float | None, typer.Option(help="How far raw outputs may differ, relative to the largest. Default: 1e-4.")
    ] = None,
    json_: Json = False,
) -> None:
    """Write a model for another engine, proved to give the same answers, with all that it needs inside."""
    from dualtoken.engines import ENGINES
    from dualtoken.export.formats import find_format
    from dualtoken.hub import is_named

    if output is None and is_named(model):
        raise ConfigError(f"--output is missing: {str(model)!r} is no folder of yours to write into.", "Name a file.")
    form, place = find_format(format_, output or model / "model")
    size = _parse_size(image_size)

    from dualtoken.export import export as run

    result = run(
        model, place, format=form, images=images, image_size=size, dynamic_size=dynamic_size, limit=limit,
        progress=not json_,
    )  # fmt: skip
    if json_:
        _print_json({"files": [str(file) for file in result.files], "parity": result.parity.to_dict()})
        return
    trust = " --trust" if ENGINES[form].runs_code else ""
    typer.echo(f"{result.line()}\n{result.parity.line()}\nNext    dualtoken predict {result.path} IMAGE{trust}")


@app.command(epilog="Example: dualtoken verify photos.onnx runs/photos --images photos/val")
def verify(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Exported file, such as model.onnx.")],
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder that it came from.")],
    images: Annotated[
        list[str] | None, typer.Option(help="Pictures to compare answers on: file, folder, pattern, zip; repeat.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Engine to run the export in. Default: its format's.")] = "auto",
    limit: Annotated[
        float | None, typer.Option(help="How far raw outputs may differ, relative to the largest. Default: 1e-4.")
    ] = None,
    trust: Trust = False,
    json_: Json = False,
) -> None:
    """Compare an export with its model again: from files to final answers (exit code 1 where they differ)."""
    from dualtoken.export import verify as run

    parity = run(export, model, images=images, engine=engine, limit=limit, trust=trust)
    if json_:
        _print_json(parity.to_dict())
    else:
        typer.echo(parity.line())
    if not parity.passed:
        raise typer.Exit(WITH_FAILURES)


@app.command(
    epilog="Example: dualtoken quantize photos.onnx photos/ --output photos.int8.onnx --max-drop 0.5; "
    "dualtoken quantize photos.onnx --output photos.fp16.onnx --precision fp16"
)
def quantize(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Exported .onnx or .xml in float32.")],
    output: Annotated[Path, typer.Option(help="File to write, of the same kind.")],
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="INT8: your labelled images, to calibrate and to measure on."),
    ] = None,
    precision: Annotated[
        Literal["int8", "fp16", "weights-int8", "weights-int4"],
        typer.Option(help="int8 computes in integers; the others store the weights in fewer bits."),
    ] = "int8",
    max_drop: Annotated[
        float, typer.Option(min=0, max=99, help="INT8: points of the main figure, 0 to 100, that may be lost.")
    ] = 0.5,
    split: Split = None,
    labels: LabelKind = "auto",
    batch_size: BatchSize = 16,
    on_bad_image: OnBadImage = "fail",
    json_: Json = False,
) -> None:
    """Write an export in INT8 that was measured to lose little, or with weights of fewer bits."""
    from dualtoken.export.quantization import compress_weights, export_size, quantize_export

    if precision != "int8":
        if data is not None:
            raise ConfigError(f"{precision} needs no images, but DATA is {str(data)!r}.", "Leave it out.")
        bits = {"fp16": 16, "weights-int8": 8, "weights-int4": 4}[precision]
        size, before = compress_weights(export, output, bits), export_size(export)
        if json_:
            _print_json({"path": str(output), "bytes": size, "bytes_before": before})
        else:
            typer.echo(f"Written  {output} ({size / 1e6:.1f} MB instead of {before / 1e6:.1f})")
        return
    if data is None:
        raise ConfigError(
            "INT8 is calibrated and measured on images, and DATA is missing.",
            f"Type: dualtoken quantize {export} DATA --output {output}",
        )
    report = quantize_export(
        export, output, data, max_drop=max_drop / 100, progress=not json_, split=split, labels=labels,
        batch_size=batch_size, on_bad_image=on_bad_image,
    )  # fmt: skip
    if json_:
        _print_json(report.to_dict())
    else:
        kept = f"In float {', '.join(report.kept)}\n" if report.kept else ""
        typer.echo(f"{report.line()}\n{kept}Written  {output}")


@app.command(
    epilog="Example: dualtoken benchmark runs/photos mobilenetv4_conv_small --engine eager,onnx --output speed.jsonl"
)
def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Names of ours or timm's, model folders, exported files; first: ratio 1."
        ),
    ],
    engine: Annotated[str, typer.Option(help="Any of eager, compile, onnx, openvino.")] = "eager,onnx,openvino",
    batch: Annotated[str, typer.Option(help="Images at a time.")] = "1,8",
    size: Annotated[str, typer.Option(help="Sides of the square input, in pixels.")] = "224",
    threads: Annotated[str | None, typer.Option(help="Numbers of threads. Default: one a core.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each model.")] = 10,
    output: Annotated[Path | None, typer.Option(help="JSON lines file to append rows to.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to draw: accuracy or cost against time.")] = None,
    table: Annotated[Path | None, typer.Option(help="Markdown table to write.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep exported graphs in for the next time.")] = None,
    json_: Json = False,
) -> None:
    """Time models side by side, turn by turn, with memory, size and spread."""
    from dualtoken.lab.benchmark import benchmark as run
    from dualtoken.lab.benchmark_tables import print_rows

    rows = run(
        models, engines=_parse_list(engine), batches=_parse_numbers("batch", batch), sizes=_parse_numbers("size", size),
        threads=_parse_numbers("threads", threads or str(os.cpu_count() or 1)), rounds=rounds, output=output, plot=plot,
        table=table, cache=cache, progress=not json_,
    )  # fmt: skip
    if json_:
        _print_json(rows)
    else:
        print_rows(rows)
        for place in (output, plot, table):
            if place:
                typer.echo(f"Written  {place}")
    if any("error" in row for row in rows):
        raise typer.Exit(WITH_FAILURES)


def _parse_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse_numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in _parse_list(text)]
    except ValueError:
        raise ConfigError(f"--{name} is {text!r}, expected whole numbers with commas between, such as 1,8.") from None


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """`N` or `HxW`"""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ConfigError(
            f"--image-size is {text!r}, expected a number of pixels, or height x width.", "Type: 320, or 192x256."
        )
    return int(sides[0]), int(sides[-1])


@app.command(epilog="Example: dualtoken study ablations cifar10.zip --output studies/ablations --budget 2h --scale cpu")
def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="ablations, peers or dense.")],
    data: Data,
    output: Annotated[Path, typer.Option(help="Folder of the study, new or to go on with.")],
    budget: Annotated[
        str | None, typer.Option(help="Time to spend, such as 2h, 25m or 1h30m. Default: no end.")
    ] = None,
    scale: Annotated[
        Literal["cpu", "gpu"] | None,
        typer.Option(help="How large the runs are. Default: cpu; with --table as in the folder."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 3,
    only: Annotated[str | None, typer.Option(metavar="ARM,...", help="These arms, beside the base.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting for all arms alike; repeat.")
    ] = None,
    rows: Annotated[Path | None, typer.Option(help="JSON lines file to append new rows to as well.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Train nothing; show what is there.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Markdown file to write the table to, or to renew.")] = None,
    workers: Workers = None,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what is left of it.")] = False,
) -> None:
    """Train networks that differ in one thing, seed by seed, and say which differences are more than chance."""
    from dualtoken.lab.study_command import run
    from dualtoken.training.recipes import parse_settings

    failed = run(
        name, data, output, budget=budget, scale=scale, seeds=seeds,
        only=None if only is None else _parse_list(only), settings=parse_settings(set_ or []), rows=rows, table=table,
        markdown=markdown, workers=workers, device=device, dry_run=dry_run,
    )  # fmt: skip
    if failed:
        raise typer.Exit(WITH_FAILURES)


@app.command(epilog="Example: dualtoken tables --markdown docs/paper.md")
def tables(
    markdown: Annotated[Path | None, typer.Option(help="Page whose tables to renew, between its markers.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder, or file, with rows of studies. Default: results, where it is there.")
    ] = None,
) -> None:
    """Print the paper's tables: published, what our networks cost, and what studies measured on small images."""
    from dualtoken.lab.pages import USUAL, rows_for

    rows = rows_for(results, markdown)
    place = str(results or USUAL)
    found = f"{counted(len(rows), 'row')} of studies in {place!r}"
    nothing = f"no rows of studies in {place!r}: the column of what was measured is empty"
    typer.echo(f"Rows     {found if rows else nothing}", err=True)
    typer.echo("Counting parameters and multiply-accumulates of every network ...", err=True)

    from dualtoken.lab.paper import print_tables, renew

    if markdown is None:
        print_tables(rows)
    else:
        renew(markdown, rows)
        typer.echo(f"Written  {markdown}")


@app.command(epilog="Example: dualtoken runtime-bundle model.onnx --output bundle")
def runtime_bundle(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Exported file, such as model.onnx.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
) -> None:
    """Write a folder that runs an exported model elsewhere, without torch: the model, requirements, an example."""
    from dualtoken.export.bundle import write_bundle

    folder = write_bundle(export, output)
    typer.echo(f"Written  {folder}\nNext     pip install -r {folder}/requirements.txt")


@app.command(epilog="Example: dualtoken push runs/pets anna/pets --private --license apache-2.0 --dry-run")
def push(
    model: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder that `dualtoken train` wrote.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="USER/NAME on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Let only you, or your organisation, see it.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Ask the owner, instead of writing.")] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="Of the weights, for the card, such as apache-2.0.")
    ] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Add model",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing: show the card and the files.")] = False,
) -> None:
    """Put a model on the Hugging Face Hub with its card; the token is HF_TOKEN or that of `hf auth login`."""
    from dualtoken.hub import push_to_hub

    pushed = push_to_hub(
        model, repo_id, private=private, create_pr=create_pr, license=license_, message=message, dry_run=dry_run
    )
    if dry_run:
        typer.echo(pushed.card)
    typer.echo(pushed.summary())


@app.command(epilog="Example: dualtoken models --json")
def models(json_: Json = False) -> None:
    """List our networks with parameters, multiply-accumulates and published accuracy."""
    from dualtoken.backbone.table import models_table, print_models
    from dualtoken.hub import BUNDLED

    if json_:
        _print_json(models_table())
        return
    print_models()
    for name, bundled in BUNDLED.items():
        typer.echo(f"Trained, in the package: {name} ({bundled.knows})")


@app.command(epilog="Example: dualtoken demo --output digits-demo")
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the data, the run and the pictures.")] = Path("digits-demo"),
    minutes: Annotated[float, typer.Option(help="Time for training.")] = 3.0,
    workers: Workers = None,
    seed: Seed = 0,
) -> None:
    """Handwritten digits, start to end: write them as images, train, evaluate, predict (needs the extra `demo`)."""
    from dualtoken.lab.demo import run

    run(output, minutes=minutes, workers=workers, seed=seed)


if __name__ == "__main__":
    main()
