"""Which runs a study has: its arms, and its scales with the settings of `dualtoken train` that all arms share.

An arm is one network, or one switch of it. Everything else is the same in every arm: recipe, images, number of passes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dualtoken.errors import ConfigError, unknown_name

Settings = dict[str, Any]
BASE = "base"
_T, _S = "dualtoken_vit_t_mix", "dualtoken_vit_s_mix"


@dataclass(frozen=True)
class Arm:
    """One line of a study's table.

    Attributes:
        name: of its folder.
        settings: of `TrainConfig`, in which it differs from the others.
        says: what it is, for the table.
    """

    name: str
    settings: Settings = field(default_factory=dict)
    says: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything that decides a study's runs but data and seed.

    Attributes:
        study: key of `STUDIES`.
        scale: key of `SCALES`.
        task: key of `dualtoken.tasks.TASKS`.
        recipe: that all arms share.
        settings: on top of the recipe, shared too.
        arms: in the order in which they are run.
        base: name of the arm that the others are compared with.
    """

    study: str
    scale: str
    task: str
    recipe: str
    settings: Settings
    arms: tuple[Arm, ...]
    base: str

    def settings_of(self, arm: Arm, seed: int) -> Settings:
        """What `dualtoken train` is given for a run, besides the recipe; arguments of the model are merged."""
        together = self.settings | arm.settings | {"seed": seed, "task": self.task}
        model_args = self.settings.get("model_args", {}) | arm.settings.get("model_args", {})
        return together | ({"model_args": model_args} if model_args else {})

    def arm(self, name: str) -> Arm:
        """An arm by its name.

        Raises:
            ConfigError: there is none; the message gives the nearest.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ConfigError(unknown_name("arm", name, [arm.name for arm in self.arms]))

    def to_json(self) -> dict[str, Any]:
        """What study.json keeps of it."""
        return {
            "study": self.study,
            "scale": self.scale,
            "task": self.task,
            "recipe": self.recipe,
            "settings": self.settings,
            "base": self.base,
            "arms": {arm.name: arm.settings for arm in self.arms},
        }


# ---------------------------------------------------------------- the arms


def _switch(name: str, says: str, **switches: Any) -> Arm:
    return Arm(name, {"model_args": switches}, says)


ABLATIONS = (
    Arm(BASE, {}, "T (mix) as it is"),
    _switch("mlp", "tokens: normal MLP", token_mlp="mlp"),
    _switch("no_mlp", "tokens: no MLP", token_mlp="none"),
    _switch("position_attention", "tokens: fused by attention", global_tokens="position_attention"),
    _switch("normal", "tokens: without positions", global_tokens="normal"),
    _switch("none", "tokens: none travel", global_tokens="none"),
    _switch("grid_3", "3 x 3 tokens", token_grid=3),
    _switch("grid_5", "5 x 5 tokens", token_grid=5),
    _switch("window", "local: window attention", local_mixer="window"),
    _switch("onestep", "down-sampling in one step", downsample="onestep"),
    _switch("weight_0", "a = 0: travelling tokens weigh nothing", token_weight=0.0),
    _switch("weight_50", "a = 0.5", token_weight=0.5),
    _switch("weight_100", "a = 1: travelling tokens alone", token_weight=1.0),
)


def _models(*names: str) -> tuple[Arm, ...]:
    return tuple(Arm(name, {"model": name}) for name in names)


PEERS = _models(
    _T, _S, "lightvit_t", "pvt_v2_b0", "pvt_v2_b1", "mobilevitv2_100", "edgenext_small", "deit_tiny_patch16_224",
    "mobilenetv4_conv_small", "mobilenetv4_conv_medium", "repvit_m0_9",
)  # fmt: skip
# Our frame with the mixers of other papers, as wide as makes 0.5 G at 224 pixels (within 9 %: widths have steps).
_WIDTHS = {
    "affnet": 72, "biformer": 60, "cas_vit": 64, "conv2former": 64, "conv_attention": 60, "crossformer": 60,
    "cswin": 60, "cvt": 64, "davit": 60, "dhvt": 52, "fcaformer": 48, "ffnet": 68, "gmm": 52, "hydra": 28,
    "identity": 72, "iformer": 64, "l2vit": 60, "lsnet": 72, "maxim": 52, "ms_mlp": 72, "ninformer": 44, "pool": 72,
    "raft_mlp": 68, "random": 72, "rmt": 60, "sep_conv": 60, "smt": 60, "soft": 52, "spartan": 64, "spectformer": 60,
    "tap": 52, "tic": 52, "transnext": 60, "vir": 56, "volo": 60, "vssd": 56,
}  # fmt: skip


def _mixer(name: str, width: int) -> Arm:
    channels = [width, 2 * width, 4 * width]
    return Arm(name, {"model_args": {"mixer": name, "global_tokens": "none", "channels": channels}}, f"{width} wide")


_LIGHTVIT = {"mixer": "lightvit", "global_tokens": "normal", "normal_tokens": 8, "joint_tokens": True}
MIXERS = (
    Arm(BASE, {}, "T (mix) as it is"),
    Arm("lightvit", {"model_args": _LIGHTVIT | {"channels": [60, 120, 240]}}, "60 wide, with its 8 tokens"),
    *(_mixer(*item) for item in _WIDTHS.items()),
)
DENSE = _models(_T, _S, "lightvit_t", "pvt_v2_b0")

# ---------------------------------------------------------------- the scales


@dataclass(frozen=True)
class Scale:
    """How large the runs of a study are: a recipe and settings on top of it.

    Attributes:
        says: in words, what they can tell.
    """

    recipe: str
    settings: Settings
    says: str


CPU, GPU = "cpu", "gpu"
SCALES = (CPU, GPU)
_TOO_SMALL = (
    "64 pixels leave the stages maps of 8 x 8, 4 x 4 and 2 x 2 beside a grid of 7 x 7 tokens, and a pass or two end"
    " long before anything converges: differences of a point or two mean little here, and nothing at 224 pixels."
)
# A run a GPU saves often, since such machines are lent by the minute; images stay on it.
_ON_GPU: Settings = {"validate_every": 100, "save_minutes": 0.5, "precision": "bf16-mixed"}
_CIFAR_ON_GPU = _ON_GPU | {"image_size": 96, "epochs": 10, "batch_size": 512, "lr": 2e-3, "resident": True}
_AT_96 = "96 pixels: maps of 12 x 12, 6 x 6 and 3 x 3 beside a grid of 7 x 7 tokens; ten passes over the images."
_FROM_SCRATCH = "From scratch on a few hundred images: which network starts faster, not which ends higher."

_SCALES: dict[tuple[str, str, str], Scale] = {
    ("ablations", "classification", CPU): Scale(
        "short",
        {"image_size": 64, "epochs": 1, "validate_every": 100, "model": _T,
         "model_args": {"channels": [24, 48, 96], "depths": [1, 2, 1]}},
        "A network of half the width of T (mix) and four blocks, one pass over the images. " + _TOO_SMALL,
    ),
    ("ablations", "classification", GPU): Scale("short", _CIFAR_ON_GPU | {"model": _T}, _AT_96),
    ("peers", "classification", CPU): Scale(
        "short", {"image_size": 64, "epochs": 1, "validate_every": 100}, _TOO_SMALL
    ),
    ("peers", "classification", GPU): Scale("short", _CIFAR_ON_GPU, _AT_96),
    ("mixers", "classification", CPU): Scale(
        "short", {"image_size": 64, "epochs": 1, "validate_every": 100, "model": _T}, _TOO_SMALL
    ),
    ("mixers", "classification", GPU): Scale("short", _CIFAR_ON_GPU | {"model": _T}, _AT_96),
    ("dense", "semantic_segmentation", CPU): Scale(
        "segmentation", {"head": "fpn", "image_size": [192, 256], "epochs": 6}, _FROM_SCRATCH
    ),
    ("dense", "semantic_segmentation", GPU): Scale(
        "segmentation", _ON_GPU | {"head": "fpn", "image_size": [352, 480], "epochs": 40, "validate_every": 10},
        _FROM_SCRATCH,
    ),
    ("dense", "detection", CPU): Scale(
        "detection", {"head": "fcos", "image_size": [256, 256], "epochs": 6, "validate_every": 100}, _FROM_SCRATCH
    ),
    ("dense", "detection", GPU): Scale(
        "detection", _ON_GPU | {"head": "fcos", "epochs": 100, "validate_every": 20}, _FROM_SCRATCH
    ),
}  # fmt: skip

STUDIES: dict[str, tuple[tuple[Arm, ...], str]] = {
    "ablations": (ABLATIONS, BASE),
    "peers": (PEERS, _T),
    "mixers": (MIXERS, BASE),
    "dense": (DENSE, _T),
}


def check_names(study: str, scale: str = CPU, only: list[str] | None = None) -> None:
    """Refuse names that no study has, before any data are looked at.

    Args:
        only: names of arms, one at least; None for all.

    Raises:
        ConfigError: the message gives the nearest.
    """
    if study not in STUDIES:
        raise ConfigError(unknown_name("study", study, STUDIES))
    if scale not in SCALES:
        raise ConfigError(unknown_name("scale", scale, SCALES))
    if only is None:
        return
    names = [arm.name for arm in STUDIES[study][0]]
    if isinstance(only, str) or not only:
        raise ConfigError(f"only is {only!r}, expected names of arms.", f"Known: {', '.join(names)}.")
    for name in only:
        if name not in names:
            raise ConfigError(unknown_name("arm", name, names))


def make_plan(study: str, scale: str = CPU, task: str = "classification", settings: Settings | None = None) -> Plan:
    """The plan of a study.

    Args:
        study: key of `STUDIES`.
        scale: key of `SCALES`.
        task: what the labels of the data are for.
        settings: of `dualtoken train`, on top of the scale's, the same in every arm.

    Raises:
        ConfigError: there is no such study or scale, or the data are not for it.
    """
    check_names(study, scale)
    found = _SCALES.get((study, task, scale))
    if found is None:
        fitting = [of for name, of, size in _SCALES if (name, size) == (study, scale)]
        raise ConfigError(
            f"The study {study!r} is for {' or '.join(fitting).replace('_', ' ')}, the data are for"
            f" {task.replace('_', ' ')}.",
            "Give class folders for ablations, peers and mixers, boxes or masks for dense.",
        )
    arms, base = STUDIES[study]
    more = settings or {}
    check_settings(more)
    args = found.settings.get("model_args", {}) | more.get("model_args", {})
    together = found.settings | more | ({"model_args": args} if args else {})
    return Plan(study, scale, task, found.recipe, together, arms, base)


def what_it_tells(plan: Plan) -> str:
    """One or two sentences on how much the runs of a plan's scale can say."""
    return _SCALES[plan.study, plan.task, plan.scale].says


# Settings that a study has no room for: why, and what to use.
_FIXED = {
    "model": ("its arms have the networks", "Choose among them with --only; `peers` compares networks."),
    "seed": ("every run has its own", "How many there are: --seeds."),
    "task": (
        "the labels of the data decide it",
        "Where the data have several kinds of labels: --set labels=coco, or another kind.",
    ),
    "limit_minutes": ("slower arms would see fewer images", "For the study as a whole: --budget."),
    "device": ("it is the same for all runs", "Name it with --device."),
}


def check_settings(settings: Settings) -> None:
    """Refuse settings that a study sets itself.

    Raises:
        ConfigError: there is one; the hint says what to use.
    """
    for name, (why, use) in _FIXED.items():
        if name in settings:
            raise ConfigError(f"{name} is not a setting of a study, which sets it itself: {why}.", use)
