import io

import numpy as np
import pytest
from invented_answers import interval, invent_objects, mask_samples, object_evaluation, region_evaluation
from PIL import Image

from dualtoken.answers import KINDS
from dualtoken.data import IGNORE, ObjectSamples
from dualtoken.report import plots
from dualtoken.report.label_plots import count_pixels, mask_label_plots, object_label_plots
from dualtoken.report.plots import percent_text
from dualtoken.report.score_plots import class_scores_plot, confusion_plot

NAMES = ("person", "$car$", "none", "a very long name of a class that cannot stand beside its bar", "猫")


def drawn(evaluation, name: str):
    return KINDS[evaluation.task].figures(evaluation)[name]


def size_of(figure) -> tuple[int, int]:
    return Image.open(io.BytesIO(plots.to_png(figure))).size


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def names_of(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def widths(axes) -> list[float]:
    return [patch.get_width() for patch in axes.patches]


# ---------------------------------------------------------------- labels


def test_objects_are_counted_without_crowds():
    objects = [invent_objects(3, 2), invent_objects(0, 2), invent_objects(4, 2), invent_objects(2, 2, crowd=True)]
    samples = ObjectSamples.build("x", list("abcd"), objects)
    figures = object_label_plots(samples, ("cat", "dog", "cow"))
    assert len(figures) == 4
    bars, images = figures["Objects of each class"].axes
    assert names_of(bars) == ["cat", "dog", "cow"]
    assert widths(bars) == [4, 3, 0]
    assert widths(images) == [2, 2, 0]
    assert texts(bars) == ["4", "3", "0"]
    assert "7 objects in 4 images" in figures["Objects of each class"].get_suptitle()
    histogram = figures["Objects in an image"].axes[0]
    assert [patch.get_height() for patch in histogram.patches] == [2, 0, 0, 1, 1]  # 0 to 4 objects
    assert "mean 1.8" in histogram.get_title()
    for figure in figures.values():
        size_of(figure)


def test_sizes_are_those_of_coco():
    objects = invent_objects(4, 1)._replace(areas=np.array([32**2 - 1, 32**2 + 1, 96**2, 96**2 + 1], np.float32))
    axes = object_label_plots(ObjectSamples.build("x", ["a"], [objects]), ("cat",))["Size of the objects"].axes[0]
    assert texts(axes) == ["small\n25 %", "medium\n50 %", "large\n25 %"]
    assert sum(patch.get_height() for patch in axes.patches) == 4


def test_shapes_tell_tall_from_wide():
    boxes = np.array([[0, 0, 10, 40], [0, 0, 1, 1000], [0, 0, 80, 10]], np.float32)
    samples = ObjectSamples.build("x", ["a"], [invent_objects(3, 1)._replace(boxes=boxes)])
    heights = [
        patch.get_height() for patch in object_label_plots(samples, ("cat",))["Shape of the boxes"].axes[0].patches
    ]
    assert heights[0] == 1  # 1:1000, drawn at the end
    assert heights[5] == 1  # 1:4, 2 of the 6 powers of two from the left: bin 5 of 30
    assert heights[-1] == 1  # 8:1


def test_images_without_any_object_can_be_drawn():
    samples = ObjectSamples.build("x", ["a", "b"], [invent_objects(0, 1)] * 2)
    figures = object_label_plots(samples, ("cat",))
    assert list(figures) == ["Objects of each class", "Objects in an image"]
    for figure in figures.values():
        size_of(figure)


def test_of_many_classes_both_ends_are_shown_and_the_absent_counted():
    samples = ObjectSamples.build("x", ["a"], [invent_objects(120, 70)])
    figure = object_label_plots(samples, tuple(f"c{place}" for place in range(80)))["Objects of each class"]
    assert "none of 10 of the 80 classes" in figure.get_suptitle()
    assert len(names_of(figure.axes[0])) == 30
    assert "… 40 further classes between …" in texts(figure.axes[0])
    assert widths(figure.axes[0]) == [2] * 15 + [1] * 15
    size_of(figure)


def test_pixels_are_counted_in_masks_that_can_be_read(tmp_path):
    masks = [np.full((10, 20), 0, np.uint8), np.full((10, 20), 2, np.uint8), np.full((10, 20), 1, np.uint8)]
    masks[0][:5], masks[0][5:7] = IGNORE, 2
    samples = mask_samples(tmp_path, masks, 4)
    (tmp_path / "mask_02.png").write_bytes(b"no image")
    counts = count_pixels(samples, 4)
    assert counts.pixels.tolist() == [60, 0, 240, 0]
    assert counts.images.tolist() == [1, 0, 2, 0]
    assert (counts.ignored, counts.read) == (100, 2)
    ((title, figure),) = mask_label_plots(samples, ("a", "b", "c", "d")).items()
    assert title == "Classes in 2 images, 25.0 % of the pixels are unlabelled"
    assert names_of(figure.axes[0]) == ["c", "a", "b", "d"]
    assert texts(figure.axes[0]) == ["80.0 %", "20.0 %", "0.0 %", "0.0 %"]
    size_of(figure)
    for place in range(2):
        (tmp_path / f"mask_{place:02}.png").unlink()
    assert mask_label_plots(samples, ("a", "b", "c", "d")) == {}


def test_not_every_mask_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("dualtoken.report.label_plots.SAMPLED_MASKS", 3)
    samples = mask_samples(tmp_path, [np.full((4, 4), place, np.uint8) for place in range(7)], 7)
    assert np.flatnonzero(count_pixels(samples, 7).images).tolist() == [0, 3, 6]


# ---------------------------------------------------------------- scores


def test_precision_and_recall_of_few_classes():
    evaluation = object_evaluation(NAMES)
    figure = drawn(evaluation, "curves")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert next(iter(lines)).endswith(f"{100 * 5 / 6:.1f} %")  # most objects first
    assert not any("none" in label for label in lines)
    assert "$car$  33.3 %" in lines
    mean = lines["mean of the classes  63.4 %"]
    np.testing.assert_allclose(mean.get_ydata(), np.nanmean(evaluation.curves, axis=0), rtol=1e-6)
    person = lines["person  16.7 %"].get_ydata()
    assert np.isfinite(person).sum() == 18  # recall 0 to 0.16, and the fall to 0
    assert not any(text.get_parse_math() for text in figure.axes[0].get_legend().get_texts())
    size_of(figure)


def test_of_many_curves_ten_have_names():
    evaluation = object_evaluation(tuple(f"c{place}" for place in range(40)))
    axes = drawn(evaluation, "curves").axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.split()[0] for label in labels[:10]] == [f"c{place}" for place in range(39, 29, -1)]
    assert labels[10:] == ["mean of the classes  63.4 %", "30 more"]
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines if line.get_label().startswith("c")}
    assert len(styles) == 10


@pytest.mark.parametrize("classes", [("one",), ("none",), ("none", "cat")])
def test_a_model_that_found_nothing_can_be_drawn(classes):
    evaluation = object_evaluation(classes, answers=False)
    scores = [scores.ap for scores in evaluation.per_class]
    made = class_scores_plot(classes, scores, metric="AP", counts=["0"] * len(classes))
    for figure in (drawn(evaluation, "curves"), drawn(evaluation, "confusion"), made):
        assert min(size_of(figure)) > 100
    assert len(made.axes[0].patches) == sum(score is not None for score in scores)


def test_confusion_shows_what_was_missed_and_invented():
    confusion = np.array([[6, 1, 3], [0, 2, 0], [2, 1, 0]])
    figure = confusion_plot(confusion, ["cat", "dog", "background"], "12 objects, 12 detections", background=True)
    axes = figure.axes[0]
    assert names_of(axes) == ["cat", "dog", "background"]
    assert texts(axes) == ["6", "1", "3", "2", "2", "1"]
    assert axes.get_title() == "12 objects, 12 detections"
    blue, orange = (image.get_array() for image in axes.images)
    np.testing.assert_allclose(blue[:2, :2], [[0.6, 0.1], [0, 1]])
    np.testing.assert_allclose(orange[:2, 2], [0.3, 0])
    np.testing.assert_allclose(orange[2, :2], [2 / 8, 1 / 4])
    assert orange.mask.sum() == 5  # all but the last row and column, and their corner
    size_of(figure)


@pytest.mark.parametrize("classes", [29, 30])
def test_confusion_of_up_to_thirty_names(classes):
    names = tuple(f"c{place}" for place in range(classes))
    axes = drawn(object_evaluation(names), "confusion").axes[0]
    assert bool(axes.texts) == (classes == 29)  # the background is one more
    assert drawn(region_evaluation(names), "confusion").axes[0].texts


def test_confusion_of_many_classes_is_a_picture():
    names = tuple(f"c{place}" for place in range(80))
    figures = (
        drawn(object_evaluation(names), "confusion"),
        drawn(region_evaluation(names), "confusion"),
    )
    for figure in figures:
        assert not figure.axes[0].texts
        size_of(figure)


def test_confusion_of_pixels_is_in_per_cent():
    confusion = np.array([[9_960_000, 40_000, 0], [0, 3_000_000, 1_000_000], [0, 0, 0]])
    axes = confusion_plot(confusion, ["sky", "road", "none"], "14 M pixels", percent=True).axes[0]
    assert texts(axes) == ["100", "75", "25"]
    assert axes.get_title() == "14 M pixels, % of the true class"


def test_scores_of_classes_stand_in_order_with_their_intervals():
    scores = [interval(0.2), None, interval(0.7), interval(0.0)]
    figure = class_scores_plot(["a", "b", "$c$", "d"], scores, metric="IoU", counts=["1", "2", "3", "4"])
    (axes,) = figure.axes
    assert names_of(axes) == ["$c$  (3)", "a  (1)", "d  (4)"]
    assert widths(axes) == [0.7, 0.2, 0.0]
    assert texts(axes) == ["70.0 %", "20.0 %", "0.0 %"]
    ends = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    np.testing.assert_allclose(ends, [[0.65, 0.75], [0.15, 0.25], [0, 0.05]])
    size_of(figure)


def test_what_is_not_nothing_is_not_written_as_nothing():
    assert [percent_text(share) for share in (0, 0.0004, 0.001, 0.5, 1)] == [
        "0.0 %", "< 0.1 %", "0.1 %", "50.0 %", "100.0 %",
    ]  # fmt: skip
