"""Means, intervals and words: what a table of a study may claim."""

import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from dualtoken.study.table import SAME, cells, estimate, lines, markdown, note, print_lines, t_quantile


def rows(**arms):
    """`base=[0.5, 0.6]`: a row a seed."""
    return [
        {"task": "classification", "arm": arm, "says": "", "seed": seed, "mparams": 1.0, "gmacs": 0.5,
         "metrics": {"top1": {"value": value}}}
        for arm, values in arms.items() for seed, value in enumerate(values)
    ]  # fmt: skip


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 31, 60, 200])
def test_students_t(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=2e-3)


def test_the_interval_of_a_mean_is_the_textbooks():
    values = [71.0, 73.5, 72.2, 70.9]
    made = estimate(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (made.value, made.low, made.high) == pytest.approx((np.mean(values), low, high), abs=2e-3)


def test_one_value_has_no_interval():
    made = estimate([70.0])
    assert (made.low, made.high) == (None, None)
    assert not math.isnan(made.value)


def test_differences_are_paired_by_seed():
    """Seeds move both arms by far more than the arms differ; in pairs the difference is plain."""
    base, other = lines(rows(base=[0.50, 0.60, 0.70], mlp=[0.52, 0.62, 0.721]), "base")
    assert base.difference is None
    assert base.verdict == ""
    assert other.difference.value == pytest.approx(2.03, abs=0.01)
    assert other.verdict == "better"
    assert other.measured.low < 50 < other.measured.high + 30


def test_what_cannot_be_told_apart_is_said_in_words():
    _, up, down = lines(rows(base=[0.50, 0.60, 0.70], up=[0.55, 0.58, 0.72], down=[0.4, 0.5, 0.601]), "base")
    assert up.verdict == SAME
    assert down.verdict == "worse"


def test_only_common_seeds_are_compared():
    _, other, alone = lines(rows(base=[0.5, 0.6], mlp=[0.5, 0.6, 0.9], none=[]) + rows(x=[0, 0, 0.7])[2:], "base")
    assert (other.difference.value, other.difference.number, other.measured.number) == (0, 2, 3)
    assert alone.difference is None


def test_one_seed_is_judged_by_the_images_and_it_is_said():
    parts = rows(base=[0.5], mlp=[0.6])
    unknown = lines(parts, "base")[1]
    assert unknown.verdict == "one seed: not compared"
    compared = {("mlp", 0): {"difference": {"low": 0.02, "high": 0.17}, "better": "b"}}
    known = lines(parts, "base", compared)[1]
    assert known.verdict == "better on these images (+2.0 to +17.0); one seed"
    assert "another seed" in note([known])
    even = {("mlp", 0): {"difference": {"low": -0.02, "high": 0.17}, "better": None}}
    assert lines(parts, "base", even)[1].verdict.startswith(SAME)


def test_a_table_for_people():
    parts = lines(rows(base=[0.50, 0.60, 0.70], mlp=[0.55, 0.58, 0.72]), "base")
    text = markdown(parts, "classification")
    assert "| base |  | 1.00 | 0.500 | 3 | 60.0 (35.2 to 84.8) |  |  |" in text
    assert f"| {SAME} |" in text
    console = Console(width=80, record=True, force_terminal=False)
    print_lines(parts, "classification", console)
    printed = console.export_text()
    assert cells(parts[1])[6] in printed
    assert "Not distinguishable: mlp" in printed
