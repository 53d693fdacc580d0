"""A model card: what a model knows, how good it is and where it must not be trusted, from its folder alone."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from dualtoken.answers import CLASSIFIER, kind_of
from dualtoken.answers.kinds import Card
from dualtoken.model_folder import ModelConfig
from dualtoken.outputs import Interval, Metric

_SHOWN = 100  # classes listed by name


def model_card(
    config: ModelConfig,
    weights: str | Path,
    *,
    name: str,
    address: str | None = None,
    license: str | None = None,
    about: str = "",
) -> str:
    """Markdown with the header that the Hub reads: task, classes, figures with intervals, data, use, limits.

    Args:
        config: of the model; take `portable(config)` for others to read.
        weights: its `model.safetensors`.
        name: what the model is called.
        address: what to type for it: `hf-hub:USER/NAME` or the name of a model in the package; None for `name`.
        license: of the weights, as the Hub abbreviates it, such as `apache-2.0`; None where it is not known.
        about: a sentence or two that the folder does not know.
    """
    sections = [
        f"# {name}",
        " ".join(filter(None, (_about(config, Path(weights)), about))),
        f"## Classes\n\n{_classes(config)}",
        f"## How good it is\n\n{_measured(config, address or name)}",
        f"## How to use it\n\n{_use(config, address or name)}",
        f"## How it was made\n\n{_made(config)}",
        f"## Limits\n\n{_limits(config)}",
        f"## Licence\n\n{_LICENCES.get(license or '', license) or 'Not stated by its author: ask before you use it.'}",
    ]
    return _header(config, name, license) + "\n\n".join(sections) + "\n"


_LICENCES = {"apache-2.0": "Apache-2.0, weights and code."}


def _header(config: ModelConfig, name: str, license: str | None) -> str:
    """The YAML that the Hub's search and its tables of results read."""
    task = _card(config).task
    head: dict[str, Any] = {"license": license} if license else {}
    head |= {
        "library_name": "dualtoken",
        "pipeline_tag": task,
        "tags": [task, "dualtoken", *(["timm"] if config.task == CLASSIFIER else []), config.architecture],
    }
    figures = [
        {"type": metric.hub, "value": round(100 * interval.value, 2), "name": f"{metric.title}, %"}
        for metric, interval in _measures(config)
        if metric.hub
    ]
    if figures:
        source = _measured_on(config)
        data = {"type": re.sub(r"[^a-z0-9]+", "-", Path(source).stem.lower()).strip("-") or "own", "name": source}
        data["split"] = str(config.metrics.get("split", "val"))
        results = [{"task": {"type": task}, "dataset": data, "metrics": figures}]
        head["model-index"] = [{"name": name, "results": results}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n"


def _about(config: ModelConfig, weights: Path) -> str:
    height, width = config.preprocessing.image_size
    stands = f"{config.head} on {config.architecture}" if config.head else config.architecture
    kinds, numbers = _contents(weights)
    return (
        f"A model that {_card(config).does}: `{stands}` at {height} x {width} pixels,"
        f" {numbers / 1e6:.2f} M numbers in {kinds}, {weights.stat().st_size / 1e6:.1f} MB."
    )


def _contents(weights: Path) -> tuple[str, int]:
    """The type of most numbers in a safetensors file, and how many there are; from its header, without torch."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    sizes: Counter[str] = Counter()
    for entry in header.values():
        sizes[entry["dtype"]] += math.prod(entry["shape"])
    names = {"F16": "float16", "F32": "float32", "BF16": "bfloat16"}
    ((most, _),) = sizes.most_common(1)
    return names.get(most, most), sizes.total()


def _classes(config: ModelConfig) -> str:
    shown = ", ".join(config.classes[:_SHOWN])
    rest = len(config.classes) - _SHOWN
    return f"{len(config.classes)}: {shown}" + (f", and {rest} more in `config.json`." if rest > 0 else ".")


def _measured(config: ModelConfig, address: str) -> str:
    rows = [f"| {metric.title} | {metric.write(interval)} | {metric.about} |" for metric, interval in _measures(config)]
    if not rows:
        return "It was not measured."
    split, images = config.metrics.get("split", "val"), config.metrics.get("images")
    lines = [
        f"On {images:,} images, split `{split}` of `{_measured_on(config)}`; in brackets 95 % intervals, bootstrap over"
        " the images.",
        "",
        "| | value | |",
        "| --- | --- | --- |",
        *rows,
        "",
        f"Measured again by `dualtoken evaluate {address} {_measured_on(config)} --split {split}`"
        " (where training held `val` out of the data by itself, the same images are held out).",
    ]
    return "\n".join(lines + _rounded(config.provenance.get("rounded")))


def _rounded(facts: dict[str, Any] | None) -> list[str]:
    """What writing the weights with fewer bits changed, where `lab.ship` measured it."""
    if not facts or "images" not in facts:
        return []
    before, after = facts["top1_before"], facts["top1"]
    return [
        "",
        f"The weights were trained in {facts['from']} and are stored in {facts['to']}, on which the metrics above are"
        f" measured. Of the {facts['images']:,} images {facts['changed']:,} get another"
        f" prediction than before; top-1 was {100 * before:.2f} % and is {100 * after:.2f} % (`{facts['command']}`).",
    ]


def _use(config: ModelConfig, address: str) -> str:
    card = _card(config)
    load, extras = f'dualtoken.load("{address}")', card.extras
    extras += ",hub" if address.startswith("hf-hub:") else ""
    text = [
        f"```\npip install 'dualtoken[{extras}]'\ndualtoken predict {address} photo.jpg\n```",
        f"```python\nimport dualtoken\n\nmodel = {load}\n{card.example}\n```",
    ]
    if config.task == CLASSIFIER and address.startswith("hf-hub:"):
        text += [
            "timm loads it as well, pre-processing in its `pretrained_cfg`:",
            f'```python\nimport dualtoken, timm  # dualtoken registers its networks in timm\n\n'
            f'network = timm.create_model("{address}", pretrained=True)\n```',
        ]  # fmt: skip
    return "\n\n".join(text)


def _made(config: ModelConfig) -> str:
    provenance = config.provenance
    data, settings = provenance.get("data") or {}, provenance.get("settings") or {}
    images = data.get("images") or {}
    lines = []
    if images:
        counts = " and ".join(f"{count:,} in `{split}`" for split, count in images.items())
        lines.append(f"- Data: `{_source(config)}`, {counts}; fingerprint `{str(data.get('fingerprint'))[:16]}`.")
    lines += [f"- Learned from images of {one}." for one in data.get("sets", [])]
    lines += [f"- Its teacher: `{one['name']}` (digest `{one['key']}`)." for one in provenance.get("teachers", [])]
    if provenance.get("teachers"):
        lines.append("- The licences of its teachers and images bind whoever uses these weights: ask for them.")
    if origin := provenance.get("converted_from"):
        lines.append(f"- Weights of `{origin['file']}`, converted; their licence binds whoever uses these.")
    if "seed" in provenance and settings.get("epochs"):
        lines.append(
            f"- At most {settings['epochs']} epochs, seed {provenance['seed']}; all settings in `config.json`."
        )
    if provenance.get("command"):
        lines.append(f"- Command: `{provenance['command']}`")
    if provenance.get("fine_tuned_from"):
        lines.append(f"- It started from the weights of `{provenance['fine_tuned_from']}`.")
    for run in provenance.get("earlier", []):
        lines.append(f"- Before that, `{run['name']}`: `{run['command']}`")
    if provenance.get("versions"):
        lines.append("- With " + ", ".join(f"{key} {value}" for key, value in provenance["versions"].items()) + ".")
    return "\n".join(lines) or "Its author did not record it."


def _limits(config: ModelConfig) -> str:
    height, width = config.preprocessing.image_size
    lines = [
        _card(config).unknown,
        "The metrics hold for images like those that it was measured on. For other cameras, light, distances or sizes"
        " measure it on some of yours: `dualtoken evaluate`.",
        f"Images become {height} x {width} pixels: what is small in them is lost.",
    ]
    if config.metrics.get("split") == "val":
        lines.append(
            "The images of `val` also chose the epoch that was kept and set its temperature or threshold: the metrics"
            " may be a little too good."
        )
    lines.append(
        "It was not examined how it treats different groups of people: let it decide nothing that can do them harm."
    )
    return "\n".join(f"- {line}" for line in lines)


def _card(config: ModelConfig) -> Card:
    return kind_of(config.task).card or Card(
        "other", f"predicts for {config.task}", "It was made for its classes only."
    )


def _measured_on(config: ModelConfig) -> str:
    """The images that the metrics are of: those that it was rounded with, else those of the run."""
    return str((config.provenance.get("rounded") or {}).get("data") or _source(config))


def _source(config: ModelConfig) -> str:
    return str((config.provenance.get("data") or {}).get("source", "its data"))


def _measures(config: ModelConfig) -> list[tuple[Metric, Interval]]:
    """What was measured and is known to its kind of answers."""
    table, ends = kind_of(config.task).metrics, {"value", "low", "high"}
    return [
        (table[key], Interval(value["value"], value["low"], value["high"]))
        for key, value in config.metrics.items()
        if key in table and isinstance(value, dict) and ends <= value.keys()
    ]
