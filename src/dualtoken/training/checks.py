"""Names in the settings that nothing knows, found before torch is imported and before any image is opened.

What only the network itself can judge, such as arguments of timm's networks, is said when it is made.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, replace
from functools import cache
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, cast

from dualtoken import static
from dualtoken.backbone import VARIANTS
from dualtoken.decode import HEAD_ARGS, HEADS
from dualtoken.errors import ConfigError, nearest, unknown_name
from dualtoken.heads import DECODERS
from dualtoken.hub import find_model, missing_model
from dualtoken.model_folder import load_config
from dualtoken.training.config import TrainConfig


def check_settings(config: TrainConfig) -> None:
    """Refuse a mistyped model, argument of the model, head, or argument of the head, and impossible bands.

    Raises:
        ModelError: no such model; the message names the nearest.
        ConfigError: no such argument or head, or a value that the network of this name cannot have.
    """
    _check_model_args(_architecture(config.model), config.model_args)
    _check_head(config.head, config.head_args)
    _ = config.bands


def network_names() -> list[str]:
    """Names of timm's registry, ours among them; as long as timm is not imported, as its source has them."""
    if "timm" in sys.modules:  # what others registered counts too
        import timm

        return sorted({*VARIANTS, *timm.list_models()})
    return sorted({*VARIANTS, *_timm_names()})


@cache
def _timm_names() -> frozenset[str]:
    spec = find_spec("timm")
    files = Path(spec.origin).parent.joinpath("models").glob("*.py") if spec and spec.origin else ()
    entry = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
    return frozenset(name for file in files for name in entry.findall(file.read_text(encoding="utf-8")))


def _architecture(model: str) -> str:
    """The network's name in timm's registry."""
    folder = find_model(model)
    if folder.is_dir():
        return load_config(folder).architecture
    name = model.partition(".")[0]  # behind the dot stands which weights
    names = network_names()
    if name not in names:
        raise missing_model(model, names)
    return name


def _check_model_args(architecture: str, args: Mapping[str, Any]) -> None:
    """Ours are known to the last; those of timm's other networks it knows itself."""
    config = VARIANTS[architecture].config if architecture in VARIANTS else None
    if not args or config is None:
        return
    switches = [field.name for field in fields(config)]
    own = set(static.parameters("dualtoken.backbone", config.network)) - {"config"}
    _check_names("model argument", "model_args", args, {*switches, *own}, closed=True)
    replace(cast(Any, config), **{name: value for name, value in args.items() if name in switches})


def _check_head(head: str | None, args: Mapping[str, Any]) -> None:
    if head is not None and head not in (*HEADS, *DECODERS):
        raise ConfigError(unknown_name("head", head, (*HEADS, *DECODERS)), "docs/train.md lists them by task.")
    detector = head is None or head in HEADS
    decoders = [head] if head is not None and head in DECODERS else [] if head in HEADS else list(DECODERS)
    taken = [_decoder_args(DECODERS[name][0]) for name in decoders]
    known = {*(HEAD_ARGS if detector else ()), *(name for names in taken for name in names)}
    _check_names("head argument", "head_args", args, known, closed=not decoders)


def _decoder_args(name: str | Callable[..., Any]) -> list[str]:
    """What a decoder takes; nothing where segmentation_models.pytorch has it and is not installed."""
    if callable(name):
        return list(signature(name).parameters)
    spec = find_spec("segmentation_models_pytorch")
    root = Path(spec.origin).parent if spec and spec.origin else Path()
    for file in root.glob("decoders/*/model.py"):
        for made in _classes(file):
            if made.lower() == name:
                return static.parameters(f"segmentation_models_pytorch.decoders.{file.parent.name}.model", made)
    return []


def _classes(file: Path) -> Iterator[str]:
    return (node.name for node in static.parsed(file).body if isinstance(node, ast.ClassDef))


def _check_names(what: str, setting: str, args: Mapping[str, Any], known: Collection[str], *, closed: bool) -> None:
    """Refuse a name that is not known; where others may be meant too, only one that is near to a known one."""
    for name in args:
        if name not in known and (closed or nearest(name, known)):
            raise ConfigError(unknown_name(what, name, sorted(known)), f"They are set by {setting}.")
