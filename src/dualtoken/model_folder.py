"""What a trained model IS on disk: a folder with `model.safetensors` and `config.json`. Never a pickle.

`config.json` follows timm's hub layout (`architecture`, `num_classes`, `label_names`, `model_args`,
`pretrained_cfg`), so `timm.create_model("local-dir:FOLDER")` loads a classifier too. What timm has no place for
stands under the one key `dualtoken`, the bands of the images among it. The rest of pre-processing stands only in
`pretrained_cfg`, under timm's names.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualtoken.answers import CLASSIFIER
from dualtoken.errors import ConfigError, ModelError, UserError, shown_name, unknown_name
from dualtoken.files import atomic_path, write_json
from dualtoken.preprocess import Preprocessing
from dualtoken.readers import judged, parse_json, read_text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dualtoken.model_schema import Fitting, SeenBands, TimmFile

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
IMAGENET_CLASSES = 1000


@dataclass
class ModelConfig:
    """Everything about a trained model but its weights.

    Attributes:
        architecture: a name of timm's registry, ours or any other.
        classes: class names in the order of the logits.
        preprocessing: from an image to the network's input.
        task: a key of `dualtoken.tasks.TASKS`.
        head: what stands on the architecture, one of the task's heads; empty for its own classifier.
        head_args: further arguments of the head.
        model_args: keyword arguments of `timm.create_model` beyond the name and the number of classes.
        temperature: the logits are divided by it before the softmax; fitted on validation images.
        threshold: objects with a lower score are not shown; the one with the best F1 on validation images.
        thresholds: the same for each class, where images have several; none else.
        offsets: what is added to the logit of each class after the temperature; none for 0.
        metrics: what was measured at the end of training, with its split.
        provenance: data fingerprint, settings, seed, command, versions.
    """

    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    task: str = CLASSIFIER
    head: str = ""
    head_args: dict[str, Any] = field(default_factory=dict)
    model_args: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    threshold: float = 0.5
    thresholds: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.thresholds, self.offsets = tuple(self.thresholds), tuple(self.offsets)

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        preprocessing = self.preprocessing.to_dict()
        height, width = preprocessing.pop("image_size")
        bands = preprocessing.pop("bands")
        return {
            "architecture": self.architecture,
            "num_classes": len(self.classes),
            "label_names": list(self.classes),
            "model_args": self.model_args,
            "pretrained_cfg": {
                "input_size": [len(self.preprocessing.mean), height, width],
                **preprocessing,
                "num_classes": len(self.classes),
            },
            "dualtoken": {
                "format": FORMAT,
                "task": self.task,
                "head": self.head,
                "head_args": self.head_args,
                "temperature": self.temperature,
                "threshold": self.threshold,
                **{name: list(getattr(self, name)) for name in ("thresholds", "offsets") if getattr(self, name)},
                "metrics": self.metrics,
                "provenance": self.provenance,
                **({"bands": bands} if bands else {}),
            },
        }

    @classmethod
    def from_json(cls, content: Any, where: str = CONFIG) -> ModelConfig:
        """The inverse of `to_json`; a classifier that timm wrote has no key `dualtoken`.

        Raises:
            ModelError: something is missing, unknown, or not what it should be; it names `where` and the key.
        """
        from dualtoken.model_schema import ELSEWHERE, ModelFile, TimmFile

        own = content.get("dualtoken") if isinstance(content, dict) else {}
        if isinstance(own, dict) and isinstance(version := own.get("format"), int) and version > FORMAT:
            raise ModelError(
                f"{where!r} has format {version}, this version reads up to {FORMAT}.",
                "Type: pip install --upgrade dualtoken",
            )
        if own is None:
            theirs = judged(content, TimmFile, where, error=ModelError)
            args = {key: value for key, value in theirs.model_args.items() if key not in ELSEWHERE}
            return cls(
                theirs.architecture, _class_names(theirs), _preprocessing(theirs.pretrained_cfg), model_args=args
            )
        file = judged(content, ModelFile, where, error=ModelError)
        return cls(
            architecture=file.architecture,
            classes=tuple(map(shown_name, file.label_names)),
            preprocessing=_preprocessing(file.pretrained_cfg, file.dualtoken.bands),
            model_args=file.model_args,
            **{name: value for name, value in file.dualtoken if name not in ("format", "bands")},
        )


def _preprocessing(fitting: Fitting, bands: SeenBands | None = None) -> Preprocessing:
    return Preprocessing(
        image_size=fitting.input_size[1:],
        crop_pct=fitting.crop_pct,
        crop_mode=fitting.crop_mode,
        interpolation=fitting.interpolation,
        mean=tuple(fitting.mean),
        std=tuple(fitting.std),
        bands=bands.made() if bands else None,
    )


def _class_names(file: TimmFile) -> tuple[str, ...]:
    """The classes of a config that timm wrote: named there, ImageNet's where there are 1,000, or numbered."""
    names = file.label_names or file.pretrained_cfg.label_names
    if names:
        in_order = [names[key] for key in sorted(names, key=_number)] if isinstance(names, dict) else names
        described = file.label_descriptions or {}
        return tuple(shown_name(described.get(name, name)) for name in in_order)
    return class_names(file.num_classes)


def class_names(count: int) -> tuple[str, ...]:
    """Names for the classes of a network that has none: ImageNet's where there are 1,000, else numbers."""
    if count != IMAGENET_CLASSES:
        return tuple(f"class {number}" for number in range(count))
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    plain = [text.partition(",")[0] for text in info.label_descriptions()]
    # A crane is a bird and a machine: such names get timm's own behind them.
    return tuple(
        text if plain.count(text) == 1 else f"{text} ({name})"
        for text, name in zip(plain, info.label_names(), strict=True)
    )


def _number(key: str) -> int:
    return int(key) if key.isdecimal() else -1


def is_model_folder(path: str | Path) -> bool:
    """Whether `path` holds both files of a model."""
    path = Path(path)
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def save_model(model: nn.Module, config: ModelConfig, folder: str | Path) -> None:
    """Write `model` and `config` into `folder`, each file whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    save_weights(model, Path(folder) / WEIGHTS)
    write_json(Path(folder) / CONFIG, config.to_json())


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights of `model` as one safetensors file."""
    write_tensors(path, dict(model.state_dict()), {"format": "pt"})


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write named tensors as one safetensors file, on the CPU and contiguous, whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as any new file has it here: safetensors would let nobody else read it
        try:
            save_file(state, temporary, metadata=metadata)
            temporary.chmod(mode)
        except SafetensorError as error:  # it hides the errno in its text
            raise OSError(_errno_in(error), str(error)) from error


def load_config(folder: str | Path) -> ModelConfig:
    """Read `config.json` of a model folder.

    Raises:
        ModelError: no such folder, a file is missing, or the content cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder {str(folder)!r}.",
            "A model folder is what `dualtoken train DATA --output FOLDER` writes.",
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise ModelError(
                f"The model folder {str(folder)!r} has no {name} (found: {found}).",
                "Copy the whole folder that `dualtoken train` wrote.",
            )
    where = str(folder / CONFIG)
    content = parse_json(read_text(folder / CONFIG, error=ModelError), where, error=ModelError)
    try:
        return ModelConfig.from_json(content, where)
    except ConfigError as error:  # of the pre-processing
        raise ModelError(f"{where!r}: {error.message}", error.hint) from None


def build_model(config: ModelConfig) -> nn.Module:
    """The network that `config` describes, with fresh weights, in evaluation mode.

    Raises:
        ModelError: this version does not know its task, architecture or head.
    """
    from dualtoken.model_schema import refuse_loading
    from dualtoken.tasks import TASKS, Network

    if config.task not in TASKS:
        raise ModelError(unknown_name("task", config.task, TASKS), "Type: pip install --upgrade dualtoken")
    network = Network(
        config.architecture,
        len(config.classes),
        head=config.head,
        head_args=config.head_args,
        args=config.model_args,
        in_chans=len(config.preprocessing.mean),
    )
    try:
        refuse_loading(config.model_args)  # also of a config that was made in Python
        return TASKS[config.task].build(network).eval()
    except UserError:
        raise
    except Exception as error:  # hundreds of networks: each refuses other arguments in another way
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"{config.architecture} cannot be made with {config.model_args or 'its usual arguments'}: {reason}."
        ) from error


def load_model(folder: str | Path) -> tuple[nn.Module, ModelConfig]:
    """Read a model folder: the network in evaluation mode on the CPU, and its config.

    Raises:
        ModelError: a file is missing or damaged, or the weights do not fit the architecture.
    """
    config = load_config(folder)
    model = build_model(config)
    load_weights(model, Path(folder) / WEIGHTS)
    return model, config


def load_weights(
    model: nn.Module, path: Path, state: dict[str, Tensor] | None = None, *, skip_classifier: bool = False
) -> None:
    """Read a safetensors file, or its `state`, into `model`, strictly; with `skip_classifier` all but its last layer.

    Raises:
        ModelError: the file is damaged or its tensors do not fit; the message lists what differs.
    """
    state = read_weights(path) if state is None else state
    try:
        if skip_classifier:
            own = model.state_dict()
            fresh = _classifier_names(model)
            state = {name: own[name] if name in fresh else tensor for name, tensor in state.items()}
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"The weights in {str(path)!r} do not fit the architecture. {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ModelError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{str(path)!r} cannot be read as safetensors: {error}.") from error


def _classifier_names(model: nn.Module) -> set[str]:
    """Names of the classifier's weights, which timm's config of every model gives."""
    classifier = model.pretrained_cfg["classifier"]  # type: ignore[index]
    modules = (classifier,) if isinstance(classifier, str) else classifier
    return {name for name in model.state_dict() if name.startswith(tuple(f"{module}." for module in modules))}


def versions() -> dict[str, str]:
    """Versions of everything that decides a number, for a model's provenance and a benchmark's rows."""
    packages = ("dualtoken", "torch", "torchvision", "timm", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}


def _errno_in(error: Exception) -> int:
    """The errno that safetensors prints as `(os error 28)`, or 0."""
    _, found, rest = str(error).partition("os error ")
    return int(rest.split(")")[0]) if found and rest.split(")")[0].isdigit() else 0
