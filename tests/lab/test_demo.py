import numpy as np
import pytest
from PIL import Image

from dualtoken.errors import OutputError
from dualtoken.lab.demo import run, write_digits


def test_digits_as_an_image_folder(tmp_path):
    folder = write_digits(tmp_path / "digits")
    counts = {split: len(list((folder / split).glob("*/*.png"))) for split in ("train", "val", "test")}
    assert sum(counts.values()) == 1797
    assert counts["test"] == pytest.approx(270, abs=10)
    assert np.asarray(Image.open(next((folder / "test" / "0").glob("*.png")))).shape == (8, 8)
    names = [path.name for split in counts for path in (folder / split).glob("*/*.png")]
    assert len(names) == len(set(names))  # no digit in two splits


def test_nothing_of_yours_is_written_over(tmp_path):
    (tmp_path / "predictions.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="not empty"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.png"]


@pytest.mark.slow
def test_the_demo_reaches_95_percent(tmp_path, capsys):
    run(tmp_path / "demo")
    import json

    evaluation = json.loads((tmp_path / "demo" / "evaluation" / "evaluation.json").read_text())
    assert evaluation["top1"]["value"] >= 0.95
    assert (tmp_path / "demo" / "predictions.png").exists()
