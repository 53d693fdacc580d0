"""What a kind of answer is. `KINDS` has one entry each, put there by the file that defines it.

A new kind is a file in this folder with a subclass of `Kind` under `@register`, and one in `tasks/` that trains it.
Everything else asks the entry and never its name. Nothing here needs torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.agreement import Agreement
from dualtoken.data.finding import NEEDS, Need
from dualtoken.engines import Engine, outputs_of
from dualtoken.errors import ConfigError, ModelError, unknown_name
from dualtoken.images import DEFAULT_LIMITS, ImageLimits
from dualtoken.outputs import Interval, Metric
from dualtoken.postprocess import require_finite
from dualtoken.preprocess import Preprocessing
from dualtoken.registry import Registry
from dualtoken.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from dualtoken.answers.evaluation import Confused, Evaluation
    from dualtoken.answers.meter import Meter
    from dualtoken.data import ImageData
    from dualtoken.report.page import Block, Section, Shown

Size = tuple[int, int]
CLASSIFIER = "classification"  # the kind of a classifier whose config timm wrote: it names none


class Described(Protocol):
    """What a model's config says that answers need; a `ModelConfig` is one."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def head(self) -> str: ...
    @property
    def head_args(self) -> dict[str, Any]: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def temperature(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def thresholds(self) -> tuple[float, ...]: ...
    @property
    def offsets(self) -> tuple[float, ...]: ...


class Card(NamedTuple):
    """What a model card says of a kind.

    Attributes:
        task: what the Hugging Face Hub calls it.
        does: what such a model does with an image, after `A model that`.
        unknown: what it does with what is of none of its classes.
        example: a line of Python that shows the answer of `model` for `photo.jpg`.
        extras: of this package that running such a model needs.
    """

    task: str
    does: str
    unknown: str
    example: str = 'print(model.predict("photo.jpg").to_dict())'
    extras: str = "train"


class Kind(ABC):
    """One kind of answer.

    Attributes:
        name: key in `KINDS`, and of the task that learns it in `tasks.TASKS`.
        learns: which labels its task learns from, where `data.NEEDS` does not say it already.
        batch: most images that are worth evaluating at once.
        leading: key in `metrics` of the one that models are judged by.
        right_or_wrong: whether an image is either, so that McNemar's test compares two models.
        exclusive: whether an image is of one class alone, so that their probabilities sum to 1.
        counts: what is confused: images, objects, pixels.
        class_title: what `class_score` is called.
        image_score: name of the array in `Evaluation.images` that says how good the answer to each image is.
        image_score_title: how that is called.
        nothing_confused: said where no two classes were confused.
        forms: in which predictions can be written, names of `report.tables.FORMS`.
        screen_columns: of a table of predictions on the screen.
        headlines: keys in `metrics` that results are told in, the one that decides first.
        card: for the model card; None for a kind that no card describes.
        model_api: what OpenVINO's Model API calls such a model; "" where it does not know any.
        options: of `dualtoken predict` that have a meaning here: `sheet`, `pictures`, `form`, `threshold`, `tile`.
    """

    name: ClassVar[str]
    learns: ClassVar[Need | None] = None
    batch: ClassVar[int] = 64
    leading: ClassVar[str]
    right_or_wrong: ClassVar[bool] = False
    exclusive: ClassVar[bool] = True
    counts: ClassVar[str] = "images"
    class_title: ClassVar[str] = "score"
    image_score: ClassVar[str]
    image_score_title: ClassVar[str] = "score"
    nothing_confused: ClassVar[str] = "nothing"
    headlines: ClassVar[tuple[str, ...]] = ()
    card: ClassVar[Card | None] = None
    model_api: ClassVar[str] = ""
    forms: ClassVar[tuple[str, ...]] = ("csv", "jsonl")
    screen_columns: ClassVar[tuple[str, ...]] = ("Found",)
    options: ClassVar[frozenset[str]] = frozenset({"form"})

    # ---------------------------------------------------------------- from raw outputs to answers

    def outputs(self, config: Described, engine: Engine, images: NDArray[np.float32]) -> Any:
        """What `read` reads: here the one output of the part `network`, float32, an image a row.

        Args:
            config: of the model.
            engine: computes its network.
            images: (B, 3, H, W) float32, pre-processed as `config` says.

        Raises:
            ModelError: the network gives something that is no number, or of another shape than `config` says.
        """
        (raw,) = outputs_of(engine, "network", [images], 1)
        require_finite(raw)
        return raw

    @abstractmethod
    def read(self, config: Described, raw: Any, sizes: Sequence[Size]) -> list[Any]:
        """Raw outputs of a batch to one answer an image, without the threshold.

        Args:
            config: of the model.
            raw: what `outputs` gave, or the network in training.
            sizes: (height, width) of each image before it was pre-processed, in pixels.

        Raises:
            ModelError: something is no number.
        """

    def answer(
        self, config: Described, engine: Engine, images: NDArray[np.float32], sizes: Sequence[Size]
    ) -> list[Any]:
        """`outputs`, read: one answer an image."""
        return self.read(config, self.outputs(config, engine, images), sizes)

    def shown(self, config: Described, answer: Any, threshold: float | None) -> Any:
        """What is shown of an answer: what reaches a threshold, where the kind has one; None takes the model's own."""
        return answer

    def limited(self, config: Any, max_objects: int) -> Any:
        """The config of a model that finds up to so many objects of an image.

        Raises:
            ConfigError: this kind finds no objects.
        """
        task = self.name.replace("_", " ")
        raise ConfigError(f"--max-objects has no meaning for a model for {task}.", "Leave it out.")

    def agreement(self, config: Described, limit: float) -> Agreement:
        """Compares the answers of two engines for the parity check.

        Args:
            config: of the model.
            limit: largest difference of raw outputs, relative to the largest one.
        """
        return Agreement(limit)

    # ---------------------------------------------------------------- judging

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """What is measured, by name."""

    @abstractmethod
    def meter(self, config: Described) -> Meter:
        """A fresh meter for the answers of a model."""

    @abstractmethod
    def truth(self, samples: Any, row: int, limits: ImageLimits = DEFAULT_LIMITS) -> Any:
        """The ground truth of an image, as the meter takes it.

        Raises:
            ImageError: its mask cannot be read.
        """

    def size(self, samples: Any, row: int) -> Size:
        """(height, width) of an image, as its labels have it."""
        height, width = samples.sizes[row].tolist()
        return height, width

    def worst(self, images: Any) -> NDArray[np.int64]:
        """(N,) places in `Evaluation.images`, the worst first."""
        return np.argsort(getattr(images, self.image_score), kind="stable")

    def best(self, images: Any) -> NDArray[np.int64]:
        """(N,) places in `Evaluation.images`, the best first."""
        return np.argsort(-getattr(images, self.image_score), kind="stable")

    def class_score(self, scores: Any) -> Interval | None:
        """What a class of `Evaluation.per_class` is judged by."""
        return None

    # ---------------------------------------------------------------- writing and drawing predictions

    def columns(self, top: int) -> list[str]:
        """Columns of a table of answers, between the path and an error's text; `top` classes where one is chosen."""
        return [f"value_{place}" for place in range(1, top + 1)]

    def cells(self, answer: Any, top: int) -> list[dict[str, Any]]:
        """The rows of an answer, none where nothing was found: floats get six places."""
        return [answer.to_dict(top)]

    def screen_cells(self, answer: Any, top: int) -> tuple[str, ...]:
        """What stands under `screen_columns`."""
        return (answer.describe(),)

    def draw(self, image: Image.Image, answer: Any, *, inside: bool = False) -> Image.Image | None:
        """A picture of an answer in its image; None where there is nothing to draw.

        Args:
            image: RGB, of the answer's size.
            answer: what was found.
            inside: the legend stands in the picture, which keeps its size, as a video must.
        """
        return None

    def arrays(self, answers: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Answers of several images as arrays by name, for programs: float32, int64, uint8, or objects of bytes."""
        return {}

    # ---------------------------------------------------------------- telling

    def content(self, evaluation: Evaluation) -> str:
        """How many images of what, for a summary."""
        return f"{evaluation.n:,} of {counted(len(evaluation.classes), 'class', 'classes')}"

    def tell_class(self, scores: Any) -> str:
        """A weak class in a summary."""
        score = self.class_score(scores)
        return f"{scores.name}: {100 * score.value:.0f} % of {scores.support:,}" if score else scores.name

    def tell_confused(self, pair: Confused) -> str:
        """Two confused classes in a summary."""
        return f"{pair.truth} taken for {pair.predicted}: {pair.count:,} ({100 * pair.share:.0f} %)"

    def tell_more(self, evaluation: Evaluation) -> list[tuple[str, str]]:
        """Further rows of a summary."""
        return []

    def rows(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        """One row an image for `predictions.csv`, in the order of `Evaluation.images`: floats with six places."""
        columns = {name: array for name, array in vars(evaluation.images).items() if name != "index"}
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*(array.tolist() for array in columns.values()), strict=True)
        ]

    def figures(self, evaluation: Evaluation) -> dict[str, Figure]:
        """The figures of an evaluation, by the name that they have as files; see `report.score_plots`."""
        return {}

    def label_figures(self, samples: Any, classes: Sequence[str], limits: ImageLimits) -> dict[str, Figure]:
        """What the labels of a split hold: title to figure."""
        return {}

    def split_table(self, data: ImageData) -> Block:
        """A table of the splits."""
        from dualtoken.report.page import table

        return table(["Split", "Images"], [(name, f"{len(part):,}") for name, part in data.splits.items()])

    def blocks(self, evaluation: Evaluation) -> list[Block]:
        """What a report says right below the metrics."""
        return []

    def sections(self, shown: Shown, figures: Mapping[str, Figure]) -> list[Section]:
        """What a report says about predictions and classes; `figures` are those of `self.figures`."""
        return []


KINDS: Registry[Kind] = Registry("task", "dualtoken.answers")


def register(kind: type[Kind]) -> type[Kind]:
    """Put a kind into `KINDS`, under its name, and what it learns from into `data.NEEDS`."""
    KINDS[kind.name] = kind()
    if kind.learns:
        NEEDS[kind.name] = kind.learns
    return kind


def kind_of(name: str) -> Kind:
    """The entry of `KINDS`.

    Raises:
        ModelError: this version has no such kind.
    """
    if name not in KINDS:
        raise ModelError(unknown_name("task", name, KINDS), "Type: pip install --upgrade dualtoken")
    return KINDS[name]


def require_shape(logits: NDArray[Any], expected: tuple[int, int], axes: int) -> None:
    """Logits have (B, K) as `expected` and then the rest of `axes` axes.

    Raises:
        ModelError: they have not.
    """
    if logits.ndim != axes or logits.shape[:2] != expected:
        rest = ", height, width" if axes == 4 else ""
        raise ModelError(f"The network gives {logits.shape}, expected {str(expected)[:-1]}{rest}).")
