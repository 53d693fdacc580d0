"""A model to the Hugging Face Hub, in the layout that timm and `dualtoken.load` read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from dualtoken.errors import ModelError, nearest, require
from dualtoken.hub.card import model_card
from dualtoken.hub.download import CARD, check_repo_id, explained, failures, is_offline
from dualtoken.hub.names import HUB_PREFIX, find_folder
from dualtoken.hub.portable import portable
from dualtoken.model_folder import CONFIG, WEIGHTS, ModelConfig, load_config, read_weights, save_weights

# Those that most weights have; the Hub knows some eighty.
COMMON_LICENSES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "isc", "cc0-1.0",
    "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail", "unlicense", "other", "unknown",
)  # fmt: skip


class Loaded(Protocol):
    """A model in memory: what `dualtoken.load` gives of a model folder."""

    model: Any
    config: ModelConfig


@dataclass(frozen=True)
class Pushed:
    """What was, or would be, pushed.

    Attributes:
        repo_id: where to.
        files: name to size in bytes.
        card: the text of `README.md`.
        url: of the commit or pull request; None where nothing was sent.
        notes: what is worth a look, in words.
    """

    repo_id: str
    files: dict[str, int]
    card: str
    url: str | None = None
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """A line a file, and what became of them."""
        lines = [f"{name:<20}{size / 1e6:>9.3f} MB" for name, size in self.files.items()]
        lines += [f"Note     {note}" for note in self.notes]
        lines.append(f"Pushed   {self.url}" if self.url else f"Nothing was sent to {self.repo_id!r}: a dry run.")
        return "\n".join(lines)


def push_to_hub(
    model: str | Path | Loaded,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
    message: str = "Add model",
    dry_run: bool = False,
) -> Pushed:
    """Put a model on the Hugging Face Hub with its card; the token is HF_TOKEN or that of `hf auth login`.

    The repository is made if there is none. Paths of this machine are cut out of the provenance. A `README.md` in the
    model folder is pushed as it is; where there is none a card is made from the folder.

    Args:
        model: a model folder. In Python also what `dualtoken.load` gave of one.
        repo_id: USER/NAME of the repository.
        private: let only you, or your organisation, see it.
        token: of the Hub with the right to write. Left out: HF_TOKEN, or that of `hf auth login`.
        create_pr: ask the owner of an existing repository, instead of writing to it.
        license: license of the weights, for the card, such as apache-2.0.
        message: message of the commit.
        dry_run: send nothing and use no network; show the card and the files.

    Raises:
        ModelError: no such model, damaged weights, an impossible name, no right to write, no connection; or the
            repository is public and `private` was asked for.
        MissingExtraError: huggingface_hub is not installed, and this is no dry run.
    """
    check_repo_id(repo_id)
    with _files(model, repo_id, license) as files:
        sizes = {name: len(part) if isinstance(part, bytes) else part.stat().st_size for name, part in files.items()}
        card = files[CARD]
        text = card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")
        pushed = Pushed(repo_id, sizes, text, notes=tuple(_notes(license)))
        if dry_run:
            return pushed
        url = _send(files, repo_id, private=private, token=token, create_pr=create_pr, message=message)
    return replace(pushed, url=url)


def _notes(license: str | None) -> Iterator[str]:
    if license is None or license in COMMON_LICENSES:
        return
    near = nearest(license, COMMON_LICENSES)
    yield (
        f"The licence {license!r} is none of the common ones"
        + (f"; did you mean {near!r}?" if near else f", such as {', '.join(COMMON_LICENSES[:4])}.")
        + " The Hub lists those that it knows: https://huggingface.co/docs/hub/repositories-licenses"
    )


@contextmanager
def _files(model: str | Path | Loaded, repo_id: str, license: str | None) -> Iterator[dict[str, Path | bytes]]:
    """Name to content, or to a file that is there while the context is open."""
    with TemporaryDirectory(prefix="dualtoken-push-") as place:
        if isinstance(model, str | Path):
            folder = find_folder(model)
            config, weights = load_config(folder), folder / WEIGHTS
            read_weights(weights)  # damaged ones are found here, and not by whoever fetches them
        else:
            config, weights, folder = model.config, Path(place) / WEIGHTS, Path(place)
            if not hasattr(model.model, "state_dict"):
                raise ModelError("An exported model has no weights to push.", "Give the model folder that it is from.")
            save_weights(model.model, weights)
        shown = portable(config)
        own = folder / CARD
        card = model_card(
            shown, weights, name=repo_id.partition("/")[2], address=HUB_PREFIX + repo_id, license=license
        )  # fmt: skip
        content = json.dumps(shown.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        yield {CONFIG: content.encode(), WEIGHTS: weights, CARD: own if own.is_file() else card.encode()}


def _send(
    files: dict[str, Path | bytes], repo_id: str, *, private: bool, token: str | None, create_pr: bool, message: str
) -> str:
    hub = require("huggingface_hub", "hub")
    if is_offline():
        raise ModelError("HF_HUB_OFFLINE is set: the network is not used, so nothing can be pushed.",
                         "Set HF_HUB_OFFLINE=0, or look at what would be sent: --dry-run, dry_run=True.")  # fmt: skip
    api = hub.HfApi(token=token, library_name="dualtoken", library_version=metadata.version("dualtoken"))
    operations = [
        hub.CommitOperationAdd(name, part if isinstance(part, bytes) else str(part)) for name, part in files.items()
    ]
    try:
        if not create_pr:
            api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise ModelError(
                f"{repo_id!r} is there already and everybody can see it, but private was asked for. Nothing was sent.",
                f"Make it private at https://huggingface.co/{repo_id}/settings, choose another name, or leave private"
                " out.",
            )
        commit = api.create_commit(repo_id, operations, commit_message=message, create_pr=create_pr)
    except failures() as error:
        raise explained(error, repo_id, pushing=True) from error
    except ValueError as error:  # of a card that a person wrote
        raise ModelError(f"The Hugging Face Hub refuses the header of {CARD}: {error}") from error
    return str(commit.pr_url or commit.commit_url)
