"""From what a user calls a model to a folder: the user's own folder, a model of the package, or one of the Hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dualtoken.errors import ConfigError, ModelError, UserError, nearest
from dualtoken.hub.bundled import BUNDLED, DEFAULT, bundled_folder
from dualtoken.hub.download import download, is_repo_id
from dualtoken.model_folder import CONFIG, WEIGHTS, is_model_folder

HUB_PREFIX = "hf-hub:"


def is_named(model: str | Path) -> bool:
    """Whether `model` names a model of the package or of the Hub, and not a place on this disk."""
    name = _name(model)
    return name.startswith(HUB_PREFIX) or (name in BUNDLED and not holds_model(name))


def holds_model(path: str | Path) -> bool:
    """Whether `path` is a folder with a file of a model in it."""
    return any((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS))


def find_model(model: str | Path, *, revision: str | None = None, **options: Any) -> Path:
    """The folder of the model that `model` names; a path comes back as it is, whether or not anything is there.

    The user's own folder goes before a model of the package with the same name, provided that it holds a model. Only
    names that begin with `hf-hub:` may use the network.

    Args:
        model: a path, a key of `BUNDLED`, or `hf-hub:USER/NAME`, with `@REVISION` behind it if one is wanted.
        revision, **options: as for `download`.

    Raises:
        ModelError: a model of the package is damaged, or one of the Hub cannot be had.
        ConfigError: a revision of something that has none.
        MissingExtraError: huggingface_hub is needed and not installed.
    """
    name = _name(model)
    if name.startswith(HUB_PREFIX):
        repo_id, at, own_revision = name.removeprefix(HUB_PREFIX).partition("@")
        if at and revision not in (None, own_revision):
            raise ConfigError(f"The revision is {revision!r}, but {name!r} names another.", "Give one of them.")
        return download(repo_id, revision=own_revision or revision, **options)
    if revision is not None:
        raise ConfigError(f"The revision is {revision!r}, but {name!r} is not a model of the Hub.", "Leave it out.")
    return bundled_folder(name) if is_named(name) else Path(model)


def find_folder(model: str | Path) -> Path:
    """As `find_model`, for what must be there.

    Raises:
        ModelError: nothing is there, and what was perhaps meant; or as `find_model`.
        MissingExtraError: as `find_model`.
    """
    folder = find_model(model)
    if not folder.exists():
        raise missing_model(str(model))
    return folder


def missing_model(name: str, networks: Iterable[str] = ()) -> UserError:
    """The `ModelError` for a name that means nothing, with the nearest that means something.

    Args:
        name: as it was typed.
        networks: names of networks with fresh weights, where one of these will do as well.
    """
    networks = list(networks)
    near = nearest(name, (*networks, *BUNDLED, *_folders_beside(Path(name))))
    what = "model" if networks else "model folder"
    message = f"There is no {what} {name!r}." + (f" Did you mean {near!r}?" if near else "")
    if not near and is_repo_id(name) and not Path(name).parent.is_dir():
        return ModelError(message, f"If it is a repository of the Hugging Face Hub, type: {HUB_PREFIX}{name}")
    if networks:
        return ModelError(
            message,
            f"`dualtoken models` lists ours; any name of timm.list_models(), a model folder and {DEFAULT} work too.",
        )
    return ModelError(
        message,
        "A model folder is what `dualtoken train DATA --output FOLDER` writes; in the package there is"
        f" {', '.join(BUNDLED)}.",
    )


def _folders_beside(path: Path) -> list[str]:
    """Model folders in the folder where `path` would be."""
    try:
        return [str(place) for place in path.parent.iterdir() if is_model_folder(place)]
    except OSError:
        return []


def find_pretrained(model: str | Path, **options: Any) -> Path:
    """As `find_model`, but `USER/NAME` that is nothing on this disk is a repository of the Hub without its prefix too.

    Raises:
        ModelError: also where `model` is neither a path nor a name that can be one of the Hub.
        ConfigError, MissingExtraError: as `find_model`.
    """
    name = _name(model)
    if not (name.startswith(HUB_PREFIX) or name in BUNDLED or Path(model).exists()):
        if not is_repo_id(name.partition("@")[0]):
            near = nearest(name, BUNDLED)
            raise ModelError(
                f"There is no model {name!r}: no folder here, no model of the package."
                + (f" Did you mean {near!r}?" if near else ""),
                f"Give a model folder, USER/NAME of the Hugging Face Hub, or one of: {', '.join(BUNDLED)}.",
            )
        model = HUB_PREFIX + name
    return find_model(model, **options)


def _name(model: str | Path) -> str:
    text = str(model)
    return text.replace("\\", "/") if text.startswith(HUB_PREFIX) else text  # as a Path of Windows writes it
