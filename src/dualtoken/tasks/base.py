"""What every task answers: how its network is built, trained, judged and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, device, nn

from dualtoken.answers import Kind, Meter, kind_of
from dualtoken.data import JointTransform, evaluation_loader, joint_transform
from dualtoken.errors import ConfigError, unknown_name
from dualtoken.preprocess import Preprocessing
from dualtoken.registry import Registry
from dualtoken.tasks.rare_classes import Seen


@dataclass(frozen=True)
class TaskSettings:
    """What tasks read of a run's settings; the fields of `TrainConfig` with the same names say what they mean."""

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    scale: tuple[float, float] = (0.35, 1.0)
    zoom: tuple[float, float] = (0.5, 1.5)
    hflip: float = 0.5
    rand_augment: str | None = None
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    mosaic: float = 0.0
    copy_paste: float = 0.0
    dice: float = 0.0
    max_objects: int | None = None
    loss: str = "cross_entropy"
    class_weights: str = "none"
    sampling: str = "shuffled"


@dataclass(frozen=True)
class Network:
    """Which network: everything that `Task.build` needs.

    Attributes:
        architecture: the backbone, a name of timm's registry.
        classes: number of classes.
        head: what stands on the backbone; one of the task's `heads`.
        head_args: further arguments of the head.
        args: further arguments of the backbone.
        in_chans: channels of the images.
    """

    architecture: str
    classes: int
    head: str = ""
    head_args: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    in_chans: int = 3


@dataclass(frozen=True)
class Reading:
    """What a kind of answers must know of a network in training to read its outputs; see `answers.Described`."""

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float = 1.0
    threshold: float = 0.5
    thresholds: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    head: str = ""
    head_args: dict[str, Any] = field(default_factory=dict)


TASKS: Registry[type[Task]] = Registry("task", "dualtoken.tasks")


def register(task: type[Task]) -> type[Task]:
    """Put a task into `TASKS`, under its name."""
    TASKS[task.name] = task
    return task


class HeadNames(Sequence[str]):
    """Names of heads as a table has them now, to which others may add."""

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(list(self._names()))

    def __getitem__(self, index: Any) -> Any:
        return list(self._names())[index]


class Task(ABC):
    """One task with its classes.

    Args:
        classes: class names, in the order of the network's outputs.
        settings: of a training run; not needed to predict.
        seen: the training images, where the loss may ask how rare a class is.

    Attributes:
        name: key in `TASKS`, and of its kind of answers in `answers.KINDS`.
        heads: what may stand on a backbone, the usual one first; none where the backbone classifies itself.
        recipe: the usual recipe.
        tuned: the usual recipe where the weights have learned already; none where it is the same.
        crop_mode: how images are fitted into the network's input: see `Preprocessing`.
        stride: sides of the network's input must be multiples of it.
        best_by: the figure that decides which epoch is best.
        losses: what `loss` may be.
        unused: settings of a run that have no meaning for this task.
    """

    name: ClassVar[str]
    heads: ClassVar[Sequence[str]] = ()
    recipe: ClassVar[str]
    tuned: ClassVar[str | None] = None
    crop_mode: ClassVar[Literal["center", "squash", "border"]]
    stride: ClassVar[int] = 1
    best_by: ClassVar[str]
    losses: ClassVar[tuple[str, ...]] = ("cross_entropy",)
    unused: ClassVar[frozenset[str]]

    def __init__(self, classes: Sequence[str], settings: TaskSettings | None = None, seen: Seen | None = None) -> None:
        self.classes = tuple(classes)
        self.settings = settings or TaskSettings()
        self.seen = seen

    # ---------------------------------------------------------------- the network

    @classmethod
    @abstractmethod
    def build(cls, network: Network) -> nn.Module:
        """The network with fresh weights."""

    @classmethod
    def choose_head(cls, head: str | None) -> str:
        """The head's name, the usual one for None.

        Raises:
            ConfigError: this task has no such head.
        """
        if head is None:
            return cls.heads[0] if cls.heads else ""
        if head in cls.heads:
            return head
        own = f"Its heads: {', '.join(cls.heads)}." if cls.heads else "It has no heads: leave head out."
        other = next((task.name for task in TASKS.values() if head in task.heads), None)
        if other is None:
            raise ConfigError(f"{unknown_name('head', head, cls.heads or ('none',))} The task is {cls.name}.", own)
        labels = "" if cls.heads else ", with labels for it"  # classes of whole images serve nothing else
        raise ConfigError(
            f"The head {head!r} is for {other}, but the task is {cls.name}.", f"Type: --task {other}{labels}. {own}"
        )

    @classmethod
    def dense(cls, model: nn.Module) -> nn.Module:
        """The part of a network whose operations can be counted without an image: all of it, if possible."""
        return model

    # ---------------------------------------------------------------- training

    @abstractmethod
    def training_loader(self, samples: Any, preprocessing: Preprocessing, **options: Any) -> Any:
        """Shuffled, augmented batches (images, targets, indices); options as in `data.training_loader`."""

    def evaluation_loader(self, samples: Any, preprocessing: Preprocessing, **options: Any) -> Any:
        """Every image once, in order; options as in `data.evaluation_loader`."""
        return evaluation_loader(samples, preprocessing, **options)

    def joint_transform(self, preprocessing: Preprocessing) -> JointTransform:
        """A random transform of an image with its boxes or masks, as the settings say."""
        settings = self.settings
        return joint_transform(
            preprocessing,
            scale=settings.zoom,
            hflip=settings.hflip,
            color_jitter=settings.color_jitter,
            mosaic=settings.mosaic,
            copy_paste=settings.copy_paste,
        )

    @abstractmethod
    def loss(self, model: nn.Module, images: Tensor, targets: Any) -> Tensor:
        """What training lowers, a scalar: images (B, 3, H, W) and targets as the training loader gives them."""

    # ---------------------------------------------------------------- judging and answering

    @property
    def kind(self) -> Kind:
        """Its kind of answers."""
        return kind_of(self.name)

    def meter(self, samples: Any, preprocessing: Preprocessing) -> AnswerMeter:
        """Judges raw outputs for the images of `samples`."""
        return AnswerMeter(self, samples, preprocessing)

    def score(self, figures: Mapping[str, float]) -> list[float]:
        """What decides which epoch is best: the larger list."""
        return [figures[self.best_by]]

    def answers(
        self, raw: Any, sizes: Sequence[tuple[int, int]], preprocessing: Preprocessing, temperature: float = 1.0
    ) -> list[Any]:
        """Raw outputs of a batch to one answer an image: `Kind.read`.

        Args:
            raw: what the network gave.
            sizes: (height, width) of each image, in pixels.
            preprocessing: how the images became the network's input.
            temperature: logits are divided by it.

        Raises:
            ModelError: the network gave something that is no number.
        """
        return self.kind.read(Reading(self.classes, preprocessing, temperature), as_arrays(raw), sizes)


class AnswerMeter:
    """Judges a network by validation images: turns its raw outputs into answers and compares these with the truth."""

    def __init__(self, task: Task, samples: Any, preprocessing: Preprocessing) -> None:
        self.task, self.samples, self.preprocessing = task, samples, preprocessing
        most = task.settings.max_objects
        args = {} if most is None else {"max_detections": most}
        self.meter = task.kind.meter(Reading(task.classes, preprocessing, head_args=args))

    def add(self, raw: Any, targets: Any, indices: Tensor) -> None:
        """Raw outputs of the network for a batch, what the loader gave with it, and the images' rows."""
        kind, rows = self.task.kind, indices.tolist()
        sizes = [kind.size(self.samples, row) for row in rows]
        for row, answer in zip(rows, self.task.answers(raw, sizes, self.preprocessing), strict=True):
            self.meter.add(answer, kind.truth(self.samples, row), row)

    def figures(self) -> dict[str, float]:
        """What all batches so far say, by name: `Meter.figures`."""
        return self.meter.figures()

    def seen(self) -> Meter:
        """What it kept of its images, for the judge of another process."""
        return self.meter

    def join(self, seen: Meter) -> None:
        """Take the images that another judge has seen as its own."""
        self.meter.join(seen)


def as_arrays(targets: Any) -> Any:
    """Tensors, and lists and dicts of them, as numpy arrays; short floats become float32, as numpy has no bfloat16."""
    if isinstance(targets, Tensor):
        short = targets.is_floating_point() and targets.element_size() < 4
        return (targets.float() if short else targets).cpu().numpy()
    if isinstance(targets, Mapping):
        return {name: as_arrays(value) for name, value in targets.items()}
    return [as_arrays(value) for value in targets] if isinstance(targets, list | tuple) else targets


def moved(targets: Any, to: device) -> Any:
    """Tensors, and lists and dicts of them, on another device."""
    if isinstance(targets, Tensor):
        return targets.to(to, non_blocking=True)
    if isinstance(targets, Mapping):
        return {name: moved(value, to) for name, value in targets.items()}
    if isinstance(targets, list | tuple):
        return [moved(value, to) for value in targets]
    return targets
