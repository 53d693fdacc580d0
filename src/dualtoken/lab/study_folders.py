"""What stands in a study's folder: which runs are finished, begun or to come, and whether they are of its plan."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualtoken.errors import ConfigError, DataError, OutputError
from dualtoken.files import write_json
from dualtoken.lab.study_plans import Arm, Plan, check_names
from dualtoken.model_folder import is_model_folder, load_config
from dualtoken.readers import parse_json, read_text
from dualtoken.training.config import TrainConfig
from dualtoken.training.folder import FIRST_BATCH, SETTINGS, STATE
from dualtoken.training.recipes import load_recipe

PLAN, ROWS, COMPARISONS, LOCK = "study.json", "rows.jsonl", "comparisons.jsonl", ".lock"
FINISHED, BEGUN, TO_DO, IN_DOUBT = "finished", "begun", "to do", "in doubt"
_NOTHING_SAVED = {SETTINGS, FIRST_BATCH, "tensorboard"}
_SHOWN, _UNSET = 5, "not set"  # differences of two plans
_SILENT_MINUTES = 15  # a run that lives writes its state every five
# How a run is done, not what it does: these may differ from run to run.
_FREE = ("workers", "device", "save_minutes", "max_pixels", "max_bytes")


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes:
        folder: that `dualtoken train` writes, or has written.
    """

    arm: Arm
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """As a person would say it."""
        return f"{self.arm.name}, seed {self.seed}"


def runs_of(plan: Plan, folder: Path, seeds: int, only: list[str] | None = None) -> list[Run]:
    """The runs of a plan in their order: every arm with the first seed, then every arm with the next.

    Args:
        folder: of the study.
        seeds: how many, from 0 on.
        only: names of arms; None for all. The base is always among them, since all else is compared with it.

    Raises:
        ConfigError: `only` names an arm that the plan has not.
    """
    check_names(plan.study, plan.scale, only)
    arms = [arm for arm in plan.arms if only is None or arm.name in (*only, plan.base)]
    return [Run(arm, seed, folder / arm.name / f"seed-{seed}") for seed in range(seeds) for arm in arms]


def state_of(run: Run) -> str:
    """`finished`, `begun` (it can be continued), `to do`, or `in doubt`: begun, but it has saved nothing so far."""
    folder = run.folder
    if is_finished(folder):
        return FINISHED
    if (folder / STATE).is_file():
        return BEGUN
    if (folder / SETTINGS).is_file():
        youngest = max(path.stat().st_mtime for path in folder.rglob("*"))
        return IN_DOUBT if youngest > time.time() - 60 * _SILENT_MINUTES else TO_DO
    return TO_DO


def is_finished(folder: Path) -> bool:
    """Whether `dualtoken train` came to its end there: it has measured what it trained."""
    if not (folder / "evaluation.json").is_file() or not is_model_folder(folder):
        return False
    return bool(load_config(folder).metrics)


def clear_unsaved(folder: Path) -> None:
    """Make room where a run ended long ago before it saved anything, as `state_of` found: nothing is lost."""
    if folder.is_dir() and {entry.name for entry in folder.iterdir()} <= _NOTHING_SAVED:
        shutil.rmtree(folder)


# ---------------------------------------------------------------- the plan in the folder


def check_run(run: Run, plan: Plan, fingerprint: str) -> None:
    """Refuse the folder of a run that was not made by this plan on these data.

    Raises:
        ConfigError: its settings differ from the plan's, or its images do.
    """
    made = _resolved(load_recipe(run.folder / SETTINGS), plan)
    expected = _resolved(load_recipe(plan.recipe, plan.settings_of(run.arm, run.seed)), plan)
    differ = [key for key in expected if expected[key] != made[key]]
    if differ:
        key = differ[0]
        raise ConfigError(
            f"{str(run.folder)!r} holds a run whose {key} is {made[key]!r}, the study's is {expected[key]!r}.",
            "Move it away, or give the study another folder.",
        )
    if is_model_folder(run.folder):
        trained_on = load_config(run.folder).provenance.get("data")
        if isinstance(trained_on, dict) and trained_on.get("fingerprint") != fingerprint:
            raise ConfigError(
                f"{str(run.folder)!r} holds a run on other images.", "Give the same data, or another folder."
            )


def _resolved(config: TrainConfig, plan: Plan) -> dict[str, Any]:
    """What a run does, in a form in which two ways of saying the same are equal."""
    from dualtoken.tasks import TASKS

    settings = config.model_dump(mode="json", exclude={*_FREE})
    if settings["task"] == "auto":
        settings["task"] = plan.task
    settings["head"] = TASKS[plan.task].choose_head(config.head)
    size, args = settings["image_size"], settings["model_args"]
    if args.get("img_size") in (size, size[0]):  # training tells it to networks of one size anyway
        del args["img_size"]
    if load_recipe(plan.recipe, plan.settings).precision == "auto":
        del settings["precision"]  # a run keeps what was chosen on its machine
    return settings


def keep_plan(folder: Path, plan: Plan, data: dict[str, str]) -> None:
    """Write study.json, anew where arms were added, or refuse a folder that holds another plan or other data.

    Args:
        data: `source` and `fingerprint`.

    Raises:
        OutputError: the folder is of another study.
    """
    check_plan(folder, plan, data)
    if not (folder / PLAN).is_file() or read_plan(folder)["arms"].keys() != plan.to_json()["arms"].keys():
        write_json(folder / PLAN, plan.to_json() | {"data": data})


def check_plan(folder: Path, plan: Plan, data: dict[str, str]) -> None:
    """Refuse a folder whose study.json holds another plan or other data; the message says in what they differ.

    Arms that came to the study since are no other plan.

    Raises:
        OutputError: it does, or study.json is damaged.
    """
    if not (folder / PLAN).is_file():
        return
    before, now = read_plan(folder), json.loads(json.dumps(plan.to_json()))  # tuples as lists, as the file has them
    now["arms"] = {name: arm for name, arm in now["arms"].items() if name in before.get("arms", {})}
    names = {key: now[key] for key in ("study", "scale", "task")}
    differ = list(_differences(before, names)) or list(_differences(before, now))
    if before.get("data", {}).get("fingerprint") != data["fingerprint"]:
        differ.append("other images")
    if differ:
        more = f", and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        raise OutputError(
            f"{str(folder)!r} was begun as another study: {'; '.join(differ[:_SHOWN])}{more}.",
            "Give another folder, or what it was begun with.",
        )


def _differences(before: Any, now: dict[str, Any], place: str = "") -> Iterator[str]:
    """What differs between two plans, key by key: `batch_size: 8 in the folder, 16 now`."""
    old = before if isinstance(before, dict) else {}
    for key in [*now, *(key for key in old if place and key not in now)]:
        name = key if place in ("", "settings") else f"{place}.{key}"
        if isinstance(now.get(key), dict) and isinstance(old.get(key), dict):
            yield from _differences(old[key], now[key], name)
        elif old.get(key, _UNSET) != now.get(key, _UNSET):
            yield f"{name}: {_short(old.get(key, _UNSET))} in the folder, {_short(now.get(key, _UNSET))} now"


def read_plan(folder: Path) -> dict[str, Any]:
    """What study.json holds.

    Raises:
        OutputError: there is none, or it is damaged.
    """
    try:
        content = parse_json(read_text(folder / PLAN), PLAN)
        if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
            raise DataError("it holds no plan.")
    except DataError as error:
        raise OutputError(
            f"{str(folder)!r} is not the folder of a study: {error.message}", "Give what `dualtoken study` wrote."
        ) from None
    return content


def _short(value: Any) -> str:
    text = value if value == _UNSET else json.dumps(value)
    return text if len(text) < 80 else text[:77] + "..."


@contextmanager
def locked(folder: Path, *, needed: bool = True) -> Iterator[None]:
    """Hold the study's folder, so that no two studies train in it at once.

    Args:
        needed: False goes on without, for who only looks.

    Raises:
        OutputError: another process holds it, and it is needed.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows: nothing to hold it with
        yield
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if needed:
                raise OutputError(
                    f"Another study is at work in {str(folder)!r}.", "Wait for it, or give another folder."
                ) from None
        yield
