"""All settings of a run, with a sentence under each. The command line, YAML and Python use the same names."""

from __future__ import annotations

import json
from types import NoneType
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from dualtoken.bands import Bands
from dualtoken.errors import ConfigError, nearest, unknown_name
from dualtoken.preprocess import MOST_PIXELS_A_SIDE

_NUMBERS = {int: "whole number", float: "number"}
_OTHERS = {bool: "true or false", str: "a name"}
_BOUNDS = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}


class TrainConfig(BaseModel):
    """Settings of `dualtoken train`. Times are minutes, rates a step, sizes pixels."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )

    # What is trained
    task: str = "auto"
    """What is learned; `auto` follows the labels: one class an image or several, boxes or masks."""
    model: str = "dualtoken_vit_t_mix"
    """A network of ours or of timm by name, with fresh weights; or a model folder or hf-hub:USER/NAME to fine-tune."""
    model_args: dict[str, Any] = {}
    """Further arguments of the model, such as `token_grid: 5`."""
    reduction: str | None = None
    """With classes, for timm's plain vision transformers: how they drop or merge tokens, such as `evit`."""
    keep: float | None = Field(None, gt=0, le=1)
    """With a reduction: the share that it keeps. Left out: 0.7."""
    head: str | None = None
    """Detector or decoder on the backbone, for boxes or masks. Left out: the usual one of the task."""
    head_args: dict[str, Any] = {}
    """Further arguments of the head, such as `channels: 256`."""
    max_objects: int | None = Field(None, ge=1, le=5000)
    """With boxes: most objects of an image that are found, counted and exported. Left out: 100, as COCO has it."""
    freeze: Literal["none", "backbone"] = "none"
    """`backbone` trains the classifier or head alone; a classifier then learns from features that are computed once."""
    solver: Literal["steps", "closed", "both"] = "steps"
    """With classes: learn the classifier by steps, in closed form (frozen backbone), or both: begin with that."""

    # On what
    labels: str = "auto"
    """Label format to read where the data has several."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width of the input; one number for a square."""
    channels: tuple[int, ...] | None = Field(None, examples=[[0, 1, 3]])
    """Bands of the images that the network sees, counted from 0, or `all`. Left out: red, green and blue."""
    pages: bool = False
    """The pages of a TIFF are its bands. Else its first page is the image."""
    window: tuple[float, float] | None = Field(None, examples=[[-1000, 400]])
    """Stored values that become black and white. Left out: what `percentiles` say."""
    percentiles: tuple[float, float] | None = Field(None, examples=[[0.5, 99.5]])
    """With bands: percentiles of the training images' values that become black and white, band by band."""
    crop_pct: float = Field(0.95, gt=0, le=1)
    """Share of the resized image that evaluation's central crop keeps."""
    val_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of each class that is held out where the data has no val split."""
    images_per_split: int | None = Field(None, ge=1)
    """Use so many images of each split only, drawn by the seed: to try things out."""
    on_bad_label: Literal["fail", "drop", "clip"] = "fail"
    """What to do with a box or outline that cannot be used: stop, leave it out, or cut it at the image's edge."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """Stop at an image that cannot be read, or leave it out and list it."""
    max_pixels: int = Field(100_000_000, ge=1)
    """Refuse images with more pixels than this."""
    max_bytes: int = Field(256 * 2**20, ge=1)
    """Refuse files with more bytes than this."""
    workers: int | None = Field(None, ge=0)
    """Loading processes. Left out: one a core, at most 8."""
    resident: bool = False
    """With classes: decode the training images once and keep them on the device, cropped and mirrored there."""

    # How long
    adapt: bool = False
    """Fit augmentation, batch size, averaging and warm-up to the passes that the run has; what is given stays."""
    epochs: int = Field(100, ge=1)
    """Passes over the training images."""
    steps: int | None = Field(None, ge=1)
    """At most so many weight updates, schedule included; none takes all of `epochs`."""
    limit_minutes: float | None = Field(None, gt=0)
    """Plan the run, schedule included, to end within this time; fewer epochs if need be."""
    validate_every: int = Field(1, ge=1)
    """Epochs from one validation to the next; the last epoch has one too."""
    early_stop: int | None = Field(None, ge=1)
    """Stop after so many epochs without a better validation result."""

    # Optimiser
    batch_size: int = Field(64, ge=1)
    """Batch size: images a step on each device."""
    accumulate: int = Field(1, ge=1)
    """Steps whose gradients are added before the weights move."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate, for the batch size as it is. Left out: `base_lr`, scaled by the batch size."""
    base_lr: float = Field(1e-3, gt=0)
    """Peak learning rate for a batch of `base_batch`."""
    base_batch: int = Field(128, ge=1)
    """The batch that `base_lr` is meant for; others scale it linearly."""
    min_lr: float = Field(1e-6, ge=0)
    """Learning rate at the end of the cosine."""
    warmup_epochs: float = Field(0.5, ge=0)
    """Linear rise to the peak, at most a tenth of the run."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the rise: a cosine to the end, or a constant rate that falls at the end and lets a run be made longer."""
    cooldown: float = Field(0.2, ge=0, le=1)
    """With the constant schedule: share of the run in which the rate falls to `min_lr`."""
    weight_decay: float = Field(0.05, ge=0)
    """Of AdamW; norms, biases and tokens have none."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Factor of the learning rate from each layer to the one before, for fine-tuning."""
    clip_grad: float | None = Field(1.0, gt=0)
    """Longest gradient, as a norm."""
    ema_decay: float | None = Field(0.9998, gt=0, lt=1)
    """Decay of the averaged weights, which are the ones evaluated and kept; it warms up, so short runs lose nothing."""

    # Rare classes
    loss: Literal["cross_entropy", "focal", "asymmetric", "logit_adjusted"] = "cross_entropy"
    """With classes or labels: what training lowers; the others than cross-entropy give rare classes more room."""
    class_weights: Literal["none", "inverse", "effective"] = "none"
    """With classes or labels: weights in the loss, one over the number of images, or over the effective number."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """With classes or labels: each image once an epoch, or as many images of each class, rare ones again and again."""

    # Regularisation and augmentation
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target that is spread over all classes."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping a residual branch in the last block, less in those before."""
    drop_rate: float = Field(0.0, ge=0, lt=1)
    """Dropout before the classifier."""
    scale: tuple[float, float] = (0.35, 1.0)
    """Least and greatest share of an image that the random crop keeps."""
    zoom: tuple[float, float] = (0.5, 1.5)
    """With boxes or masks: least and greatest size of the image, 1 where it just fits into the input."""
    mosaic: float = Field(0.0, ge=0, le=1)
    """With boxes or masks: probability of four images in one."""
    copy_paste: float = Field(0.0, ge=0, le=1)
    """With outlines: probability that objects of another image are pasted in."""
    dice: float = Field(0.0, ge=0)
    """With masks: weight of the Dice loss beside the cross-entropy."""
    hflip: float = Field(0.5, ge=0, le=1)
    """Probability of a mirror image; 0 where left and right matter, as in digits."""
    rand_augment: str | None = None
    """timm's RandAugment policy, such as rand-m9-mstd0.5-inc1."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Strength of random brightness, contrast and saturation."""
    random_erasing: float = Field(0.0, ge=0, le=1)
    """Probability that a rectangle is replaced by noise."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of mixup; 0 for never."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of cutmix; 0 for never."""

    # Machine
    seed: int = Field(0, ge=0)
    """Random seed: the same one gives the same run."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1 or mps."""
    devices: int = Field(1, ge=1)
    """Processes on each machine, one a device; their gradients are averaged. torchrun and SLURM say it themselves."""
    nodes: int = Field(1, ge=1)
    """Machines, each with so many processes."""
    shard_weights: bool = False
    """With several processes: each keeps a part of weights, gradients and moments (FSDP). For large networks."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """auto is bf16-mixed on a GPU that has it and 32-true elsewhere."""
    compile: bool = False
    """torch.compile the model: minutes at the start, quicker steps."""
    save_minutes: float = Field(5.0, gt=0)
    """Time between saved states within an epoch."""

    @property
    def network_args(self) -> dict[str, Any]:
        """All arguments of the network that the settings name."""
        reducing = {"reduction": self.reduction, "keep": self.keep}
        return self.model_args | {name: value for name, value in reducing.items() if value is not None}

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @field_validator("channels", mode="before")
    @classmethod
    def _all(cls, value: Any) -> Any:
        return () if value == "all" else (value,) if isinstance(value, int) else value

    @field_validator("window", "percentiles")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError("two rising numbers are needed")
        return value

    @field_validator("percentiles")
    @classmethod
    def _of_a_hundred(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] <= value[1] <= 100:
            raise ValueError("two numbers from 0 to 100 are needed")
        return value

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str) -> str:
        if value not in task_names():
            raise ValueError(f"expected one of {', '.join(task_names())}")
        return value

    @field_validator("image_size")
    @classmethod
    def _large_enough(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 32 <= min(value) <= max(value) <= MOST_PIXELS_A_SIDE:
            raise ValueError(f"each side must be 32 pixels or more, and at most {MOST_PIXELS_A_SIDE}")
        return value

    @field_validator("zoom")
    @classmethod
    def _positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("two rising numbers above 0 are needed")
        return value

    @field_validator("scale")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("two rising numbers above 0 and at most 1 are needed")
        return value

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Settings by name to a config.

        Raises:
            ConfigError: an unknown key (the message names the nearest) or an impossible value.
        """
        for key, value in settings.items():
            if key not in cls.model_fields:
                raise ConfigError(
                    unknown_name("setting", str(key), cls.model_fields), "docs/train.md lists all settings."
                )
            if _has_truth(value) and not _takes_truth(field := cls.model_fields[key]):
                raise ConfigError(f"{key} is {value!r}, expected {expected_words(field)}.", _hint(key, field, value))
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            field, given = cls.model_fields[key], settings.get(key)
            own = first["type"] == "value_error"  # one of the validators above speaks
            reason = f"{first['ctx']['error']}" if own else f"expected {expected_words(field)}"
            reason = f", {reason}" if reason.startswith("expected") else f": {reason}"
            raise ConfigError(f"{key} is {given!r}{reason}.", _hint(key, field, given)) from None

    @property
    def bands(self) -> Bands | None:
        """The bands that are asked for; None where images are red, green and blue.

        Raises:
            ConfigError: there are too many, or one is below 0.
        """
        if self.channels is None and not self.pages and self.window is None and self.percentiles is None:
            return None
        low, high = ((), ()) if self.window is None else ((self.window[0],), (self.window[1],))
        try:
            return Bands(channels=self.channels or (), pages=self.pages, low=low, high=high)
        except ValueError as error:
            raise ConfigError(f"{error}.", "Example: --set channels=[0,1,3], or --set channels=all") from None

    @property
    def peak_lr(self) -> float:
        """The peak learning rate that `lr`, or `base_lr` and the batch, give."""
        batch = self.batch_size * self.accumulate * self.devices * self.nodes
        return self.lr if self.lr is not None else self.base_lr * batch / self.base_batch


def task_names() -> list[str]:
    """What `task` may be: `auto`, or any task, whoever registered it."""
    from dualtoken.answers import KINDS

    return ["auto", *sorted(KINDS)]


def _has_truth(value: Any) -> bool:
    """Whether a value is true or false, or holds one: for pydantic these are numbers too."""
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_has_truth, value)))


def _takes_truth(field: FieldInfo) -> bool:
    return field.annotation is bool or bool in get_args(field.annotation)


def expected_words(field: FieldInfo) -> str:
    """What a setting takes, in words: `a number above 0 and at most 1`."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    optional = NoneType in get_args(field.annotation)
    kind: Any = kinds[0] if optional else field.annotation
    if get_origin(kind) is Literal:
        words = f"one of {', '.join(get_args(kind))}"
    elif get_origin(kind) is tuple:
        count = "" if ... in get_args(kind) else "two "
        example = list(field.default or (field.examples or [()])[0])
        words = f"{count}{_NUMBERS[get_args(kind)[0]]}s, such as {example}"
    elif kind in _NUMBERS:
        bounds = [f"{word} {getattr(part, name)}" for part in field.metadata for name, word in _BOUNDS.items()
                  if hasattr(part, name)]  # fmt: skip
        words = f"a {_NUMBERS[kind]} {' and '.join(bounds)}".rstrip()
    else:
        words = _OTHERS.get(kind, "names with their values, such as {name: 1}")
    return words + (", or null" if optional else "")


def _hint(key: str, field: FieldInfo, given: Any) -> str:
    """What to type, and what the setting is for."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    choices = tuple(task_names()) if key == "task" else choices
    near = nearest(str(given), choices)
    if near:
        return f"Did you mean {near}? {key}: {field.description}"
    if choices or field.default is None or isinstance(field.default, str | dict):
        return f"{key}: {field.description}"
    return f"Example: --set {key}={json.dumps(field.default, separators=(',', ':'))} ({field.description})"
