"""Networks step in turn in processes of their own."""

import pytest

from dualtoken.lab.training_rate import measure


def test_rows_of_two_networks():
    first, second = measure(["test_efficientnet", "test_resnet"], 32, 2, turns=3, threads=1)
    assert (first["model"], second["model"]) == ("test_efficientnet", "test_resnet")
    assert first["times_the_first"] == 1
    assert second["times_the_first"] > 0
    for row in (first, second):
        assert row["images_per_processor_second_best"] >= row["images_per_processor_second"] > 0
        gmacs = row["gmacs_per_processor_second"] / row["images_per_processor_second"] / 3
        assert 0 < gmacs < 0.1


def test_forward_passes_in_another_precision_and_layout():
    (row,) = measure(["test_resnet"], 32, 2, turns=1, threads=1, how=("infer", "bf16", "channels_last"))
    (trained,) = measure(["test_resnet"], 32, 2, turns=1, threads=1)
    assert row["how"] == "infer bf16 channels_last"
    # the work of a forward pass is a third of a step's
    work, all_work = (one["gmacs_per_processor_second"] / one["images_per_processor_second"] for one in (row, trained))
    assert 3 * work == pytest.approx(all_work)
