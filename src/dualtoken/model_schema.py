"""What `config.json` of a model folder may hold, and the text of an exported file with it: all of it, and nothing else.

A config comes from whoever made the model. It names a network and its sizes, never a place to fetch anything from.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from dualtoken.bands import MOST_BANDS, MOST_STORED, Bands
from dualtoken.preprocess import MOST_PIXELS_A_SIDE

MOST_CLASSES = 100_000
MOST_SIZE = 65_536  # of a number among a network's arguments: channels, blocks, tokens
# What timm's builders take beside the arguments of a network: where weights come from, and what is wrapped around it.
NOT_OF_A_NETWORK = frozenset({
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn",
    "pretrained_model_args", "pretrained_custom_load", "checkpoint_path", "cache_dir", "model_cfg", "feature_cfg",
    "feature_cls", "features_only", "kwargs_filter", "pruned", "scriptable", "exportable", "no_jit", "device", "dtype",
})  # fmt: skip
ELSEWHERE = ("num_classes", "in_chans")  # which follow from the classes and the pre-processing
# The same of segmentation_models.pytorch's decoders.
_NOT_OF_A_HEAD = NOT_OF_A_NETWORK | {"encoder_weights", "encoder_name", "weights", "weights_backbone", "in_channels"}


def refuse_loading(args: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Arguments of a network as they are, if none of them reaches for weights and all are of a bearable size.

    Raises:
        ValueError: one does.
    """
    for name, value in args.items():
        if name in NOT_OF_A_NETWORK or name.startswith(("pretrained", "checkpoint")):
            raise ValueError(f"{name!r} is no argument of a network: it says where weights come from")
        _refuse_endless(name, value)
    return args


def _refuse_loading_of_head(args: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name in args:
        if name in _NOT_OF_A_HEAD or name.endswith("weights"):
            raise ValueError(f"{name!r} is no argument of a head")
    return refuse_loading(args)


def _refuse_endless(name: str, value: JsonValue) -> None:
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_endless(name, item)
    elif isinstance(value, int | float) and abs(value) > MOST_SIZE:
        raise ValueError(f"{name!r} is {value!r}, expected at most {MOST_SIZE:,}")


def _differ(names: list[str]) -> list[str]:
    ((name, times),) = Counter(names).most_common(1)
    if times > 1:
        raise ValueError(f"{name!r} is there twice")
    return names


ClassName = Annotated[str, Field(min_length=1, max_length=1000)]
Side = Annotated[int, Field(ge=1, le=MOST_PIXELS_A_SIDE)]
Channels = Annotated[list[Annotated[float, Field(ge=-1000, le=1000)]], Field(min_length=1, max_length=MOST_BANDS)]
Deviations = Annotated[list[Annotated[float, Field(gt=0, le=1000)]], Field(min_length=1, max_length=MOST_BANDS)]
Value = Annotated[float, Field(ge=-1e30, le=1e30)]
Share = Annotated[float, Field(ge=0, le=1)]
Facts = dict[str, JsonValue]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Fitting(_Strict):
    """From an image to the network's input, under timm's names."""

    input_size: tuple[Annotated[int, Field(ge=1, le=MOST_BANDS)], Side, Side]
    crop_pct: Annotated[float, Field(gt=0, le=1)]
    crop_mode: Literal["center", "squash", "border"] = "center"
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"]
    mean: Channels
    std: Deviations
    num_classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)]


class SeenBands(_Strict):
    """Which bands of an image the network sees, and how: `Bands`, fixed."""

    stored: Annotated[int, Field(ge=1, le=MOST_STORED)]
    channels: Annotated[list[Annotated[int, Field(ge=0, lt=MOST_STORED)]], Field(min_length=1, max_length=MOST_BANDS)]
    pages: bool
    low: Annotated[list[Value], Field(min_length=1, max_length=MOST_BANDS)]
    high: Annotated[list[Value], Field(min_length=1, max_length=MOST_BANDS)]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if not len(self.channels) == len(self.low) == len(self.high):
            raise ValueError("channels, low and high must have as many numbers as each other")
        self.made()
        return self

    def made(self) -> Bands:
        """What it says."""
        return Bands(self.stored, tuple(self.channels), self.pages, tuple(self.low), tuple(self.high))


class Own(_Strict):
    """What timm has no place for; what came later than the first models has a default."""

    format: Annotated[int, Field(ge=1)]
    task: str
    head: str = ""
    head_args: Annotated[Facts, AfterValidator(_refuse_loading_of_head)] = {}
    temperature: Annotated[float, Field(gt=0, le=1e6)]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    bands: SeenBands | None = None
    thresholds: list[Share] = []
    offsets: list[Annotated[float, Field(ge=-1e6, le=1e6)]] = []
    metrics: Facts
    provenance: Facts


class ModelFile(_Strict):
    """`config.json` as this package writes it."""

    architecture: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.\-]+$")]
    num_classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    label_names: Annotated[list[ClassName], Field(min_length=1, max_length=MOST_CLASSES), AfterValidator(_differ)]
    model_args: Annotated[Facts, AfterValidator(refuse_loading)]
    pretrained_cfg: Fitting
    dualtoken: Own

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        for name, count in (("num_classes", self.num_classes), ("pretrained_cfg", self.pretrained_cfg.num_classes)):
            if count != len(self.label_names):
                raise ValueError(f"{name} says {count} classes, but label_names has {len(self.label_names)}")
        for name in ("thresholds", "offsets"):
            if len(getattr(self.dualtoken, name)) not in (0, len(self.label_names)):
                raise ValueError(f"{name} must be as many as label_names, or none")
        return self


class TimmFitting(Fitting):
    """The same in a config that timm wrote, which says much more; of that only the names of the classes are read."""

    model_config = ConfigDict(extra="ignore")
    label_names: list[str] | dict[str, str] | None = None


class TimmFile(_Strict):
    """`config.json` of a classifier that timm wrote; what this package does not read may be there."""

    model_config = ConfigDict(extra="ignore")
    architecture: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.\-]+$")]
    num_classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    label_names: list[str] | dict[str, str] | None = None
    label_descriptions: dict[str, str] | None = None
    model_args: Annotated[Facts, AfterValidator(refuse_loading)] = {}
    pretrained_cfg: TimmFitting
