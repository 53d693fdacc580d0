"""What a trained vision transformer loses when it carries fewer tokens, without being trained again.

    python -m dualtoken.lab.reductions RUN DATA --keep 0.9,0.7,0.5 --output results/reductions.jsonl
    python -m dualtoken.lab.reductions --table results/reductions.jsonl

RUN is the model folder of one of timm's plain vision transformers. A row holds a reduction and a share, the cost and
the accuracy on the images that `dualtoken evaluate` would take, and the difference from the whole network on the same
images. Reductions with weights of their own are left out unless named: random ones know nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from dualtoken.answers.comparison import compare_meters
from dualtoken.backbone import count_macs
from dualtoken.backbone.reductions import REDUCTIONS, added_weights
from dualtoken.data import find_split
from dualtoken.errors import ConfigError
from dualtoken.evaluation.measuring import measure
from dualtoken.evaluation.sources import open_data, open_predictor, split_name
from dualtoken.images import DEFAULT_LIMITS
from dualtoken.lab.columns import markdown_table
from dualtoken.lab.rows import append_rows, provenance, read_rows
from dualtoken.model_folder import (
    WEIGHTS,
    ModelConfig,
    build_model,
    load_config,
    load_weights,
    read_weights,
    save_model,
)
from dualtoken.outputs import Interval

Row = dict[str, Any]
SHARES = (0.9, 0.7, 0.5)


def reduced(source: str | Path, reduction: str, keep: float) -> tuple[nn.Module, ModelConfig]:
    """The network of a model folder, with its weights, that carries fewer tokens; what a reduction adds is random.

    Args:
        source: model folder of a plain vision transformer of timm.
        reduction, keep: as in `dualtoken train`.

    Returns:
        What `save_model` takes.

    Raises:
        ConfigError: no such reduction, a share out of range, or another kind of network.
        ModelError: the folder cannot be read.
    """
    source = Path(source)
    config = load_config(source)
    config = replace(config, model_args=config.model_args | {"reduction": reduction, "keep": keep}, metrics={})
    model = build_model(config)
    own, weights = model.state_dict(), source / WEIGHTS
    load_weights(model, weights, {name: own[name] for name in added_weights(model)} | read_weights(weights))
    return model, config


def measure_reductions(
    source: str | Path, data: str | Path, reductions: Sequence[str] = (), shares: Sequence[float] = SHARES,
    batch_size: int | None = None,
) -> list[Row]:  # fmt: skip
    """A row for the whole network, then one for each reduction and share that it knows.

    Args:
        source: model folder.
        data: as for `dualtoken.evaluate`; the split is chosen in the same way.
        reductions: names; all that need no training if there are none.
        shares: of each.
        batch_size: images in a batch.
    """
    whole = open_predictor(source, "cpu")
    found, _ = open_data(data, whole, on_bad_image="fail", limits=DEFAULT_LIMITS, progress=False)
    samples = find_split(found, None)
    side = whole.config.preprocessing.image_size
    told = provenance() | {
        "data": Path(found.source).name, "split": split_name(found, samples), "image_size": list(side),
        "model": whole.config.architecture, "model_args": whole.config.model_args,
        "trained_with_seed": whole.config.provenance.get("seed"),
    }  # fmt: skip
    before, _ = measure(whole, samples, batch_size=batch_size, workers=0, progress=False)
    rows: list[Row] = []

    def row(reduction: str | None, keep: float, folder: str | Path) -> None:
        predictor = open_predictor(folder, "cpu")
        after, _ = measure(predictor, samples, classes=whole.classes, batch_size=batch_size, workers=0, progress=False)
        found_out = compare_meters(
            before, after, names=("whole", reduction or "whole"), source=found.source, split=told["split"], seed=0,
            resamples=None,
        )  # fmt: skip
        macs = count_macs(build_model(load_config(folder)), side)
        rows.append({
            "reduction": reduction, "keep": keep, "gmacs": macs / 1e9, "images": found_out.images,
            found_out.metric: found_out.value_b, "difference": asdict(found_out.difference),
        } | told)  # fmt: skip
        print(f"{reduction or 'whole':<12} {keep:<5} {macs / 1e9:.4f} G  {100 * found_out.value_b:.1f} %", flush=True)

    row(None, 1.0, source)
    for reduction, keep in product(reductions or REDUCTIONS, shares):
        try:
            model, config = reduced(source, reduction, keep)
        except ConfigError as error:
            print(f"{reduction:<12} {keep:<5} left out: {error}", flush=True)
            continue
        if added_weights(model) and not reductions:
            print(f"{reduction:<12} {keep:<5} left out: it needs training", flush=True)
            continue
        with TemporaryDirectory() as folder:
            save_model(model, config, folder)
            row(reduction, keep, folder)
    return rows


def table(path: str | Path) -> str:
    """The rows of a JSON lines file as Markdown."""
    rows = read_rows(path)
    cost = next(row["gmacs"] for row in rows if row["reduction"] is None)
    lines = []
    for row in rows:
        lost = Interval(**row["difference"])
        lines.append((
            f"`{row['reduction']}`" if row["reduction"] else "whole network", f"{row['keep']:g}",
            f"{1000 * row['gmacs']:.1f} ({100 * row['gmacs'] / cost:.0f} %)", f"{100 * row['top1']:.1f}",
            f"{100 * lost.value:+.1f} ({100 * lost.low:+.1f} to {100 * lost.high:+.1f})" if row["reduction"] else "",
        ))  # fmt: skip
    return markdown_table(("reduction", "keep", "MACs, M", "top-1, %", "difference"), lines, numbers=range(1, 5))


def main() -> None:
    """Append rows, or print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="model folder")
    parser.add_argument("data", nargs="?", help="labelled images, as for `dualtoken evaluate`")
    parser.add_argument("--only", help="reductions, by commas")
    parser.add_argument("--keep", default=",".join(map(str, SHARES)), help="shares, by commas")
    parser.add_argument("--batch-size", type=int, help="images in a batch")
    parser.add_argument("--output", help="JSON lines file to append to")
    parser.add_argument("--table", metavar="FILE", help="print the rows of FILE as Markdown instead")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    if arguments.data is None:
        parser.error("RUN and DATA are needed, or --table FILE")
    only = arguments.only.split(",") if arguments.only else ()
    shares = [float(share) for share in arguments.keep.split(",")]
    rows = measure_reductions(arguments.run, arguments.data, only, shares, arguments.batch_size)
    print(json.dumps(rows[0], indent=2))
    if arguments.output:
        append_rows(arguments.output, rows)


if __name__ == "__main__":
    main()
