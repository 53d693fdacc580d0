"""Networks step in turn in processes of their own."""

from dualtoken.lab.training_rate import measure


def test_rows_of_two_networks():
    first, second = measure(["test_efficientnet", "test_resnet"], 32, 2, turns=3, threads=1)
    assert (first["model"], second["model"]) == ("test_efficientnet", "test_resnet")
    assert first["times_the_first"] == 1
    assert second["times_the_first"] > 0
    for row in (first, second):
        assert row["images_per_processor_second_best"] >= row["images_per_processor_second"] > 0
        gmacs = row["training_gmacs_per_processor_second"] / row["images_per_processor_second"] / 3
        assert 0 < gmacs < 0.1
