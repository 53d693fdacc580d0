"""A model folder from the Hugging Face Hub: the only place of the package that fetches anything."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from dualtoken.errors import ModelError, UserError, first_line, require
from dualtoken.model_folder import CONFIG, WEIGHTS

CARD = "README.md"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".tar")
_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


def is_repo_id(text: str) -> bool:
    """Whether `text` can be the address of a repository: USER/NAME."""
    return _ID.fullmatch(text) is not None


def check_repo_id(text: str) -> None:
    """Refuse what cannot be a repository.

    Raises:
        ModelError: it says how one is written.
    """
    if not is_repo_id(text):
        raise ModelError(
            f"{text!r} is not a repository of the Hugging Face Hub.",
            "Expected USER/NAME of letters, digits, '-', '_' and '.', such as anna/pets.",
        )


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetch `config.json`, `model.safetensors` and the card of a repository, or take them from the cache.

    Nothing else is fetched: weights as pickles can run code of whoever made them, and are not even looked at.

    Args:
        repo_id: USER/NAME.
        revision: a branch, tag or commit; None for the main branch.
        cache_dir: where downloads are kept; None for huggingface_hub's own place.
        local_files_only: use no network, only what was fetched before.

    Returns:
        The folder in the cache; its files are not to be changed.

    Raises:
        ModelError: there is no such repository, revision or file, the weights are pickles, or there is no connection.
        MissingExtraError: huggingface_hub is not installed.
    """
    check_repo_id(repo_id)
    hub = require("huggingface_hub", "hub")
    options: dict[str, Any] = {"revision": revision or None, "cache_dir": cache_dir}
    try:
        folder = Path(
            hub.snapshot_download(
                repo_id, **options, local_files_only=local_files_only, allow_patterns=[CONFIG, WEIGHTS, CARD],
                library_name="dualtoken", library_version=metadata.version("dualtoken"),
            )
        )  # fmt: skip
    except failures() as error:
        raise explained(error, repo_id, revision, local_files_only=local_files_only) from error
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise _incomplete(hub, repo_id, revision, missing, local=local_files_only or is_offline())
    return folder


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return bool(require("huggingface_hub.constants", "hub").HF_HUB_OFFLINE)


def failures() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where the network, the Hub or an address is at fault.

    Its HTTP library has changed over its versions: the base of its own HTTP error is that library's.
    """
    errors: Any = require("huggingface_hub.errors", "hub")
    return (*errors.HfHubHTTPError.__bases__, OSError, errors.HFValidationError)


def explained(
    error: Exception,
    repo_id: str,
    revision: str | None = None,
    *,
    local_files_only: bool = False,
    pushing: bool = False,
) -> UserError:
    """The `ModelError` that says what went wrong with a repository, and what to do."""
    errors: Any = require("huggingface_hub.errors", "hub")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if is_offline() or local_files_only:
        why = "HF_HUB_OFFLINE is set" if is_offline() else "local_files_only was asked for"
        return ModelError(
            f"{_at(repo_id, revision)} was not fetched before, and {why}: the network is not used.",
            "Set HF_HUB_OFFLINE=0 and fetch it once, or give a model folder."
            if is_offline()
            else "Leave it out to fetch the model.",
        )
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"{repo_id!r} asks its users to accept its terms first.",
            f"Open https://huggingface.co/{repo_id}, accept them, then type: hf auth login",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            f"There is no repository {repo_id!r} on the Hugging Face Hub, or it is private.",
            "Check the name. For a private one type: hf auth login, or set HF_TOKEN.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{repo_id!r} has no revision {revision!r}.", "Leave it out for the main branch.")
    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return ModelError("The Hugging Face Hub does not know who you are.", "Type: hf auth login, or set HF_TOKEN.")
    if status == 403:
        return ModelError(
            f"The Hugging Face Hub does not let you write to {repo_id!r}.",
            "Does the token have the right to write, and is the repository yours? If not, ask its owner:"
            " --create-pr, create_pr=True.",
        )
    if isinstance(error, errors.HFValidationError):
        return ModelError(f"{repo_id!r} is not a repository of the Hugging Face Hub: {first_line(error)}.")
    if status is None:
        return ModelError(
            f"The Hugging Face Hub cannot be reached for {_at(repo_id, revision)}: {first_line(error)}.",
            "Is there a connection? What would be sent is shown without one: --dry-run, dry_run=True."
            if pushing
            else "Is there a connection? A model folder on this disk needs none.",
        )
    return ModelError(f"The Hugging Face Hub answered {status} for {_at(repo_id, revision)}: {first_line(error)}.")


def _incomplete(hub: Any, repo_id: str, revision: str | None, missing: list[str], *, local: bool) -> UserError:
    """Why a repository that is there is no model of ours; pickles are the usual reason."""
    what = f"{_at(repo_id, revision)} has no {' and no '.join(missing)}"
    if local:
        return ModelError(f"{what} in the cache.", "Fetch it once with the network.")
    try:
        files = hub.HfApi().list_repo_files(repo_id, revision=revision)
    except failures() as error:
        return explained(error, repo_id, revision)
    pickles = [name for name in files if name.endswith(PICKLES)]
    if WEIGHTS in missing and pickles:
        return ModelError(
            f"{what}, only {pickles[0]!r}: a pickle, which can run any code of whoever made it. It is not loaded.",
            f"Ask its author for {WEIGHTS}, or convert it where you trust it, with safetensors.torch.save_file.",
        )
    shown = ", ".join(sorted(files)[:8]) or "nothing"
    return ModelError(f"{what} (found: {shown}).", "A model has both, as timm and `dualtoken push` lay them out.")


def _at(repo_id: str, revision: str | None) -> str:
    return repr(f"{repo_id}@{revision}" if revision else repo_id)
