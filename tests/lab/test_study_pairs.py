"""Two runs of one seed, image by image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dualtoken.lab import study_pairs
from dualtoken.lab.study_folders import FINISHED, runs_of
from dualtoken.lab.study_plans import make_plan


def test_images_are_read_as_the_runs_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def compare(*_: object, **how: object) -> SimpleNamespace:
        asked.update(how)
        kept = {"split": "val", "images": 8, "difference": {}, "better": None, "resamples": 10}
        return SimpleNamespace(to_dict=lambda: kept)

    monkeypatch.setattr("dualtoken.evaluation.compare", compare)
    monkeypatch.setattr(study_pairs, "state_of", lambda _: FINISHED)
    plan = make_plan("dense", task="detection")
    plan = replace(plan, settings=plan.settings | {"on_bad_image": "skip", "labels": "yolo"})
    runs = runs_of(plan, tmp_path, 1, ["lightvit_t"])
    found = study_pairs.compare_single_seeds(plan, tmp_path, runs, "boxes.zip", say=lambda _: None)
    assert list(found) == [("lightvit_t", 0)]
    assert (asked["on_bad_image"], asked["labels"], asked["seed"]) == ("skip", "yolo", 0)
