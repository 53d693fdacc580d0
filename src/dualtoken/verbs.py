"""Verbs that belong to no other room: each puts several of them to work and says what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import typer

from dualtoken.errors import ConfigError, DataError
from dualtoken.options import DONE, ended, opening, print_json, tell
from dualtoken.words import counted, typed


def predict(
    model: str | None = None,
    inputs: list[str] | None = None,
    *,
    device: str = "auto",
    runner: str = "auto",
    address: str | None = None,
    part_images: int | None = None,
    trust: bool = False,
    progress: bool = True,
    **options: Any,
) -> int:
    """Predict classes, boxes or masks for images; a file that cannot be read is reported, and the rest goes on.

    Args:
        model: as for `evaluate`. Left out: the model of the package.
        inputs: files, folders, patterns, zip archives, shards, videos (for boxes and masks), or - for stdin.
        runner: what computes: for an exported file an engine that runs it; `ray` spreads the work over `--workers`
            processes, here or on a cluster, and can go on where it was stopped.
        address: for `--engine ray`: a running cluster, `auto` for that of this machine. Left out, one starts here.
        part_images: for `--engine ray`: files that are answered and written together. Left out: 1,000. Of shards every
            tar is a part.
    """
    from dualtoken.hub import BUNDLED, DEFAULT, bundled_folder
    from dualtoken.prediction import load
    from dualtoken.prediction.command import Options, answer_files, split_model
    from dualtoken.report import print_table, to_json_line

    chosen, inputs = split_model([*([] if model is None else [model]), *(inputs or [])])
    if chosen is None:
        typer.echo(f"Model    {DEFAULT}, which comes with the package and knows {BUNDLED[DEFAULT].knows}", err=True)
    elif progress:
        opening([chosen])
    wanted = Options(**options)
    name = str(bundled_folder(DEFAULT)) if chosen is None else chosen
    if runner == "ray":
        return _predict_parts(name, inputs, wanted, device, address, part_images, trust, progress)
    for option, given in (("--address", address), ("--part-images", part_images)):
        if given is not None:
            raise ConfigError(f"{option} is for --engine ray.", "Add --engine ray, or leave it out.")
    predictor = load(name, device=device, engine=runner, trust=trust)

    def show_page(page: list[Any]) -> None:
        if not progress:
            for answer in page:
                typer.echo(to_json_line(answer, wanted.top))
        elif not wanted.output:
            print_table(page, predictor.kind, top=wanted.top if chosen is None else min(wanted.top, 3))
        else:
            for answer in page:
                if isinstance(answer, tuple):
                    tell(answer[1].message)

    def note(text: str) -> None:
        typer.echo(f"Note     {text}", err=True)

    predicted, failed = answer_files(predictor, inputs, wanted, show_page, note=note)
    if predicted + failed == 0:
        raise DataError(f"{', '.join(inputs)} held no images.")
    if progress:
        unread = f", {failed:,} could not be read" if failed else ""
        typer.echo(f"Predictions for {counted(predicted, 'image')}{unread}")
        for place in (wanted.output, wanted.sheet, wanted.pictures):
            if place and predicted:
                typer.echo(f"Written  {place}")
    return ended(predicted, failed)


def _predict_parts(
    model: str, inputs: list[str], wanted: Any, device: str, address: str | None, part_images: int | None,
    trust: bool, progress: bool,
) -> int:  # fmt: skip
    """`dualtoken predict --engine ray`: what is written is told, answers are not."""
    from dualtoken.prediction.cluster import PART_IMAGES, Job, predict_parts

    useless = [
        f"--{key}" for key in ("form", "pictures", "sheet", "tile", "overlap") if getattr(wanted, key) is not None
    ]
    if useless:
        raise ConfigError(
            f"{', '.join(useless)} has no meaning with --engine ray, which writes parquet.", "Leave it out."
        )
    if wanted.output is None:
        raise ConfigError("--engine ray writes into a folder, and --output is missing.", "Type: --output predictions")
    job = Job(
        model, str(wanted.output.absolute()), device, trust, wanted.threshold, wanted.max_objects, wanted.top,
        wanted.batch_size, wanted.limits,
    )  # fmt: skip
    predicted, failed = predict_parts(
        job, inputs, part_images=part_images or PART_IMAGES, workers=wanted.workers, address=address, progress=progress,
        note=lambda text: typer.echo(f"Note     {text}", err=True),
    )  # fmt: skip
    if progress:
        unread = f", {failed:,} could not be read: {wanted.output}/unread" if failed else ""
        typer.echo(f"Predictions for {counted(predicted, 'image')}{unread}\nWritten  {wanted.output}/predictions")
    else:
        print_json({"output": str(wanted.output), "images": predicted, "unread": failed})
    return ended(predicted, failed)


def quantize(
    export: Path,
    data: str | Path | None = None,
    *,
    output: Path,
    precision: Literal["int8", "fp16", "weights-int8", "weights-int4"] = "int8",
    max_drop: float = 0.5,
    split: str | None = None,
    labels: str = "auto",
    batch_size: int = 16,
    on_bad_image: Literal["fail", "skip"] = "fail",
    progress: bool = True,
) -> int:
    """Write an export in INT8, measured to lose little, or with weights of fewer bits.

    Args:
        export: exported .onnx or .xml in float32
        data: for INT8: your labelled images, to calibrate and to measure on
        output: file to write, of the same kind
        precision: `int8` computes in integers; the others store the weights in fewer bits
        max_drop: for INT8: points of the main metric, 0 to 100, that may be lost
        split: for INT8: split to measure on. Left out: test, else val, else all images
        labels: for INT8: label format to read where DATA has several
        batch_size: images in a batch
        on_bad_image: stop at an image that cannot be read, or skip: leave it out and list it
    """
    from dualtoken.export.quantization import compress_weights, export_size, quantize_export

    if precision != "int8":
        if data is not None:
            raise ConfigError(f"{precision} needs no images, but DATA is {str(data)!r}.", "Leave it out.")
        bits = {"fp16": 16, "weights-int8": 8, "weights-int4": 4}[precision]
        size, before = compress_weights(export, output, bits), export_size(export)
        if progress:
            typer.echo(f"Written  {output} ({size / 1e6:.1f} MB instead of {before / 1e6:.1f})")
        else:
            print_json({"path": str(output), "bytes": size, "bytes_before": before})
        return DONE
    if data is None:
        raise ConfigError(
            "INT8 is calibrated and measured on images, and DATA is missing.",
            f"Type: dualtoken quantize {typed(export)} DATA --output {typed(output)}",
        )
    report = quantize_export(
        export, output, data, max_drop=max_drop / 100, progress=progress, split=split, labels=labels,
        batch_size=batch_size, on_bad_image=on_bad_image,
    )  # fmt: skip
    if progress:
        kept = f"In float {', '.join(report.kept)}\n" if report.kept else ""
        typer.echo(f"{report.line()}\n{kept}Written  {output}")
    else:
        print_json(report.to_dict())
    return DONE


def models(*, family: str | None = None, max_gmacs: float | None = None, progress: bool = True) -> int:
    """List networks by name, ours and other papers', with parameters, multiply-accumulates and published accuracy.

    Args:
        family: networks of one family, such as cas_vit
        max_gmacs: networks of at most so many 10^9 multiply-accumulates
    """
    from dualtoken.backbone.table import models_table, print_models
    from dualtoken.hub import BUNDLED

    if not progress:
        print_json(models_table(family, max_gmacs))
        return DONE
    print_models(family, max_gmacs)
    for name, bundled in BUNDLED.items():
        typer.echo(f"Trained, in the package: {name} ({bundled.knows})")
    return DONE
