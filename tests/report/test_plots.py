import io
import warnings

import numpy as np
import pytest
from PIL import Image

from dualtoken.answers.class_meter import PerImage, reliability
from dualtoken.outputs import Bin
from dualtoken.report import fonts
from dualtoken.report.plots import curves, short_number, to_png
from dualtoken.report.score_plots import confusion_plot as plot_of_counts
from dualtoken.report.score_plots import reliability_plot


def confusion_plot(confusion, names):
    return plot_of_counts(confusion, names, "images")


HISTORY = [
    {"epoch": e, "step": 10 * e, "train_loss": 2 / e, "val_loss": 2.1 / e, "val_top1": 1 - 0.5 / e, "lr": 1e-3 / e}
    for e in range(1, 6)
]


def size_of(figure) -> tuple[int, int]:
    return Image.open(io.BytesIO(to_png(figure))).size


def texts(figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text")))


def test_curves_draw_what_the_history_has():
    figures = curves(HISTORY)
    assert list(figures) == ["Loss", "Validation", "Learning rate"]
    loss = figures["Loss"].axes[0]
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [(e, 2 / e) for e in range(1, 6)])
    assert "best 90.0 %, epoch 5" in texts(figures["Validation"])
    assert list(curves([{"epoch": 1, "train_loss": 1.0}])) == ["Loss"]
    assert curves([]) == {}


def test_curves_take_any_columns():
    rows = [{"epoch": e, "step": e, "train_loss": 2.0, "train_box_loss": 1.0, "train_mask_loss": 0.5, "val_ap": e / 9,
             "val_ap50": e / 5, "lr": 1e-3, "lr_backbone": 1e-4, "grad_norm": 3.0} for e in (1, 2, 3)]  # fmt: skip
    figures = curves(rows)
    assert list(figures) == ["Loss", "Parts of the loss", "Validation", "Learning rate", "Grad norm"]
    labels = {title: [line.get_label() for line in figure.axes[0].lines] for title, figure in figures.items()}
    assert labels["Parts of the loss"] == ["box", "mask"]
    assert labels["Validation"][:2] == ["AP", "AP50"]
    assert labels["Learning rate"] == ["lr", "lr backbone"]
    assert "best 33.3 %, epoch 3" in texts(figures["Validation"])


def test_epochs_without_a_figure_are_passed_over():
    rows = [
        {"epoch": 1, "val_ap": float("nan")},
        {"epoch": 2, "val_ap": 0.4},
        {"epoch": 3},
        {"epoch": 4, "val_ap": 0.3},
    ]
    figure = curves(rows)["Validation"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [(2, 0.4), (4, 0.3)])
    assert "best 40.0 %, epoch 2" in texts(figure)
    size_of(curves([{"epoch": 1, "val_ap": float("nan")}])["Validation"])


def test_one_epoch_can_be_drawn():
    for figure in curves(HISTORY[:1]).values():
        assert size_of(figure)[0] > 300


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_confusion_shows_names_and_numbers(classes):
    confusion = np.diag(np.arange(1, classes + 1) * 1000)
    confusion[0, 1] = 77
    figure = confusion_plot(confusion, [f"class {i}" for i in range(classes)])
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(shown) == sorted([f"{1000 * (i + 1):,}" for i in range(classes)] + ["77"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"class {i}" for i in range(classes)]
    width, height = size_of(figure)
    assert 0.5 < width / height < 2


@pytest.mark.parametrize("classes", [31, 101, 1000])
def test_confusion_of_many_classes_is_a_picture(classes):
    figure = confusion_plot(np.eye(classes, dtype=np.int64), [str(i) for i in range(classes)])
    assert not figure.axes[0].texts
    assert size_of(figure) == (990, 930)


def test_names_are_never_formulas_nor_missing_glyphs():
    names = ["$x_1$", "\\frac", "猫" * 40, "a\nb", "café"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_png(confusion_plot(np.eye(5, dtype=np.int64), names))
    labels = [label.get_text() for label in confusion_plot(np.eye(5, dtype=np.int64), names).axes[0].get_xticklabels()]
    assert labels[0] == "$x_1$"
    assert not any(label.get_parse_math() for label in confusion_plot(np.eye(2), names[:2]).axes[0].get_xticklabels())
    assert labels[3] == f"a{fonts.MISSING}b"
    assert labels[4] == "café"
    assert len(labels[2]) == 24


def test_reliability_plot_has_points_and_intervals():
    bins = (Bin(0.4, 0.5, 10, 0.45, 0.5), Bin(0.9, 1.0, 1, 0.95, 1.0))
    figure = reliability_plot(bins, images=11)
    top, bottom = figure.axes
    assert "11 images" in top.get_title()
    assert [patch.get_height() for patch in bottom.patches] == [10, 1]
    (bars,) = (collection.get_segments() for collection in top.collections)
    ends = np.array(bars)[:, :, 1]
    assert (ends[0, 0], ends[0, 1]) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Wilson, 5 of 10
    assert ends[1, 0] == pytest.approx(0.2065, abs=1e-4)
    size_of(figure)


def test_reliability_of_one_image():
    score = np.array([1.0], np.float32)
    whole = np.zeros(1, np.int64)
    images = PerImage(whole, whole, whole, whole, score, score, np.zeros(1))
    figure = reliability_plot(reliability(images), images=1)
    (bars,) = (collection.get_segments() for collection in figure.axes[0].collections)
    assert len(bars) == 1
    assert bars[0][:, 1] == pytest.approx((0.2065, 1.0), abs=1e-4)  # Wilson, 1 of 1
    size_of(figure)


def test_reliability_of_what_is_not_independent_has_no_intervals():
    bins = (Bin(0.4, 0.5, 2_000_000, 0.45, 0.5),)
    figure = reliability_plot(bins, images=2_000_000, counted="pixels", intervals=False)
    assert "2,000,000 pixels" in figure.axes[0].get_title()
    assert figure.axes[1].get_ylabel() == "Pixels"
    assert not figure.axes[0].collections
    size_of(figure)


def test_large_numbers_are_short():
    assert [short_number(value) for value in (0, 999, 12345, 123456, 4_560_000, 7.8e10)] == [
        "0", "999", "12,345", "123 k", "4.56 M", "78 G",
    ]  # fmt: skip


def test_shortened_names_keep_both_ends():
    assert fonts.shorten("short", 10) == "short"
    assert fonts.shorten("abcdefghijklmnop", 7) == "abcd…op"
    assert all(len(fonts.shorten("x" * 50, length)) == length for length in range(2, 20))


def test_figures_leave_pyplot_alone():
    import sys

    to_png(confusion_plot(np.eye(2, dtype=np.int64), ["a", "b"]))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
