"""A recipe follows the length of the run."""

import csv

import pytest
import yaml

import dualtoken
from dualtoken.training.fitting import differences, fitted
from dualtoken.training.recipes import load_recipe

AUTO = load_recipe("auto")


def test_a_long_run_has_the_settings_of_small():
    after = fitted(AUTO, images=3000, passes=100, given=())
    assert after.model_copy(update={"ema_decay": AUTO.ema_decay}) == AUTO


def test_a_short_run_hides_little_and_moves_often():
    after = fitted(AUTO, images=3000, passes=9, given=())
    assert (after.batch_size, after.rand_augment, after.random_erasing, after.drop_path) == (16, None, 0, 0)
    assert after.peak_lr == AUTO.peak_lr
    assert after.ema_decay < AUTO.ema_decay
    assert after.warmup_epochs < 1


def test_many_images_need_no_small_batches():
    assert fitted(AUTO, images=50_000, passes=5, given=()).batch_size == 64


def test_strength_grows_with_the_passes():
    strengths = [fitted(AUTO, 3000, passes, ()).random_erasing for passes in (5, 30, 100)]
    assert strengths == sorted(set(strengths))


def test_what_was_asked_for_stays():
    after = fitted(AUTO, 3000, 9, given={"batch_size", "rand_augment", "ema_decay"})
    assert (after.batch_size, after.rand_augment, after.ema_decay) == (64, AUTO.rand_augment, AUTO.ema_decay)


def test_differences_are_words():
    assert differences(AUTO, AUTO.model_copy(update={"batch_size": 16, "rand_augment": None})) == (
        "batch_size 16, rand_augment null"
    )


@pytest.mark.parametrize("limit", [None, 0.2])
def test_a_run_says_and_keeps_what_was_chosen(make_image_folder, tmp_path, capsys, monkeypatch, limit):
    monkeypatch.setattr("dualtoken.evaluation.reports.write_training_report", lambda *args, **options: None)
    data = make_image_folder(classes=("cat", "dog"), per_class=8)
    small = {"channels": [8, 16, 32], "depths": [1, 1, 1], "heads": [1, 2, 2], "neck": 16}
    dualtoken.train(
        data, tmp_path / "run", recipe="auto", epochs=2, limit_minutes=limit, model_args=small, image_size=32, workers=0
    )
    kept = yaml.safe_load((tmp_path / "run" / "train.yaml").read_text())
    assert kept["adapt"] is False
    assert kept["rand_augment"] is None
    assert "fitted to the run: " in capsys.readouterr().out
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) >= 1
