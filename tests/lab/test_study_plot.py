"""The picture of a study shows what its table says."""

import pytest

from dualtoken.errors import OutputError
from dualtoken.lab.benchmark_plots import save
from dualtoken.lab.study_command import check_picture, own_mark
from dualtoken.lab.study_plot import dots


def row(arm, seed, value):
    figure = {"value": value, "low": value - 0.04, "high": value + 0.02}
    return {
        "task": "classification",
        "arm": arm,
        "seed": seed,
        "mparams": 1.0,
        "gmacs": 0.5,
        "metrics": {"top1": figure},
    }


def test_arms_stand_by_their_figures_with_their_intervals():
    rows = [row("base", 0, 0.50), row("base", 1, 0.54), row("pool", 0, 0.60), row("rmt", 0, 0.40)]
    (axes,) = dots(rows, "base").axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["rmt", "base", "pool"]
    assert axes.get_xlabel() == "top-1, %"
    drawn = [(bars.lines[0].get_xdata()[0], bars.lines[2][0].get_segments()[0][:, 0]) for bars in axes.containers]
    assert [value for value, _ in drawn] == pytest.approx([40, 52, 60])
    assert drawn[0][1] == pytest.approx([36, 42])  # one seed: over its images
    assert drawn[1][1] == pytest.approx([52 - 25.4, 52 + 25.4], abs=0.1)  # two: Student's
    hollow = [bars.lines[0].get_markerfacecolor() == "white" for bars in axes.containers]
    assert hollow == [True, False, True]


def test_only_a_picture_of_the_study_is_renewed(tmp_path):
    study, picture = tmp_path / "müsli", tmp_path / "arms.png"
    check_picture(picture, "mixers", study)  # a new one
    figure = dots([row("base", 0, 0.50), row("pool", 0, 0.60)], "base")
    save(figure, picture, own_mark("mixers", study))
    check_picture(picture, "mixers", study)
    for description in (own_mark("mixers", tmp_path / "another"), None):
        save(figure, picture, description)
        with pytest.raises(OutputError, match="not written by this study"):
            check_picture(picture, "mixers", study)
    picture.write_bytes(b"mine")
    with pytest.raises(OutputError, match="not written by this study"):
        check_picture(picture, "mixers", study)
