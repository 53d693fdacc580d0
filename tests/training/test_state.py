"""Two last states, each held to what was written; a damaged one is told and the one before it used."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from dualtoken.errors import ModelError
from dualtoken.training.folder import STATE, STATE_BEFORE
from dualtoken.training.state import Counters, load_state, run_counters, save_state, state_tensors

COUNTERS = Counters(total_steps=9, step=4, epoch=1, batch=1, seconds=2.5, history=[{"epoch": 1, "train_loss": 0.5}])


def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture
def run(tmp_path) -> Path:
    """Two saved states, of steps 4 and 5."""
    for steps in (4, 5):
        model, optimizer = trained(steps)
        save_state(tmp_path, state_tensors(model, None, optimizer), Counters(**asdict(COUNTERS) | {"step": steps}))
    return tmp_path


def load(run: Path) -> tuple[Counters, str]:
    model, optimizer = trained(0)
    counters, note = load_state(run, model, None, optimizer)
    assert torch.equal(model.weight, trained(counters.step)[0].weight)
    return counters, note


def rewrite(path: Path, **changes: object) -> None:
    """The state with other counters."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    counters = json.loads(metadata["counters"]) | changes
    save_file(load_file(path), path, metadata=metadata | {"counters": json.dumps(counters)})


def test_the_last_one_is_read(run):
    counters, note = load(run)
    assert (counters.step, note) == (5, "")
    assert counters.history == COUNTERS.history
    assert run_counters(run) == counters
    assert sorted(path.name for path in (run / "last").iterdir()) == [STATE_BEFORE.name, STATE.name]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_of_a_damaged_one_the_one_before_is_used_and_said(run, damage):
    damage(run / STATE)
    counters, note = load(run)
    assert counters.step == 4
    assert "state.safetensors" in note
    assert "damaged" in note
    assert "of step 4" in note
    damage(run / STATE_BEFORE)
    with pytest.raises(ModelError, match="damaged"):
        load(run)


def test_killed_between_two_names_the_one_before_is_there(run):
    (run / STATE).unlink()
    assert load(run)[0].step == 4


@pytest.mark.parametrize(
    "wrong",
    [{"step": -1}, {"step": 10**15, "total_steps": 10**15}, {"step": 10}, {"step": "4"}, {"step": True}, {"step": 4.5},
     {"seconds": -1.0}, {"epoch": None}, {"history": [1]}, {"history": [{"epoch": "x"}]}, {"batch": [1]}, {"best": 0.5},
     {"fingerprint": 3}, {"unheard_of": 1}, {"history": [{}, {}, {}]}, {"seconds": float("nan")}],
)  # fmt: skip
def test_absurd_counters_are_refused_by_name(run, wrong):
    (run / STATE_BEFORE).unlink()
    rewrite(run / STATE, **wrong)
    with pytest.raises(ModelError, match=r"state\.safetensors") as error:
        load(run)
    assert next(iter(wrong)) in error.value.message or "NaN" in error.value.message


def test_states_of_other_models_are_refused(run):
    model = nn.Linear(4, 2)
    with pytest.raises(ModelError, match="cannot be continued from"):
        load_state(run, model, None, torch.optim.AdamW(model.parameters()))
    with pytest.raises(ModelError, match="cannot be continued from"):
        load_state(run, trained(0)[0], nn.Linear(3, 2), trained(0)[1])


def test_no_state(tmp_path):
    with pytest.raises(ModelError, match="to continue from"):
        run_counters(tmp_path)
