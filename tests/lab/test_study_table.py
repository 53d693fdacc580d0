"""Means, intervals and words: what a table of a study may claim."""

import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from dualtoken.lab.study_table import SAME, SHARED, cells, estimate, lines, markdown, note, print_lines, t_quantile


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


def test_intervals_end_where_the_figures_do():
    """Two seeds far apart: Student's interval alone would be -217 to 317 %, and the difference's -585 to 685."""
    base, other = lines(rows(base=[0.40, 0.60], mlp=[0.60, 0.90]), "base")
    assert (base.measured.value, base.measured.low, base.measured.high) == (pytest.approx(50), 0, 100)
    far = lines(rows(base=[0.10, 0.60], mlp=[0.90, 0.60]), "base")[1]
    assert (far.difference.low, far.difference.high) == (-100, 100)
    assert other.verdict == SAME


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
    titled = {key: row | {"title": "AP"} for key, row in compared.items()}
    named = lines(parts, "base", titled)[1]
    assert named.verdict == "better on these images (AP: +2.0 to +17.0); one seed"
    assert "another seed" in note([known])
    even = {("mlp", 0): {"difference": {"low": -0.02, "high": 0.17}, "better": None}}
    assert lines(parts, "base", even)[1].verdict == f"{SAME} on these images (-2.0 to +17.0); one seed"


@pytest.mark.parametrize(("p_value", "why"), [(0.0703, "McNemar's test: p = 0.07"), (None, "too few to tell")])
def test_no_interval_without_0_stands_beside_not_distinguishable(p_value, why):
    found = {("mlp", 0): {"difference": {"low": -0.305, "high": -0.005}, "better": None, "p_value": p_value}}
    assert lines(rows(base=[0.6], mlp=[0.5]), "base", found)[1].verdict == f"{SAME} on these images ({why}); one seed"


def test_differences_of_some_seeds_only_are_explained():
    parts = lines(rows(base=[0.4, 0.6], mlp=[0.567]), "base")
    assert cells(parts[1])[5:7] == ("56.7", "+16.7")  # beside a mean of 50.0
    assert SHARED in note(parts)
    assert SHARED not in note(lines(rows(base=[0.4, 0.6], mlp=[0.5, 0.6]), "base"))


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
