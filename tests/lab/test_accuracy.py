import json

import numpy as np
import pytest
from PIL import Image

from dualtoken.errors import ModelError
from dualtoken.lab.accuracy import row, table
from dualtoken.training import train

SETTINGS = {"epochs": 1, "image_size": 32, "batch_size": 4, "workers": 0, "device": "cpu"}
TINY = {"channels": [16, 16, 16], "depths": [1, 1, 1], "heads": [2, 2, 2], "neck": 16}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accuracy")
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{number}.png")
    return train(folder / "data", folder / "run", recipe="smoke", model_args=TINY, **SETTINGS).folder


def test_a_row_says_what_was_measured_and_at_what_cost(run):
    made = row(run)
    config = json.loads((run / "config.json").read_text())
    assert made["metrics"]["top1"] == config["dualtoken"]["metrics"]["top1"]
    assert (made["split"], made["task"], made["seed"], made["epochs"]) == ("val", "classification", 0, 1)
    assert made["steps"] == 2
    assert made["minutes"] > 0
    assert made["mparams"] > 0
    assert made["threads"] >= 1
    assert str(run.parent) not in json.dumps(made)


def test_another_evaluation_takes_the_place_of_the_runs_own(run, tmp_path):
    other = json.loads((run / "evaluation.json").read_text()) | {"split": "train"}
    other["top1"]["value"] = 0.125
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(other))
    made = row(run, path)
    assert made["split"] == "train"
    assert made["metrics"]["top1"]["value"] == 0.125


def test_the_table_has_a_line_for_each_row_of_its_task(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [row(run), row(run) | {"task": "detection"}]
    path.write_text("".join(json.dumps(part) + "\n" for part in rows))
    lines = table(path, "classification").splitlines()
    assert len(lines) == 3
    assert "32 x 32" in lines[2]


def test_an_unfinished_run_has_no_row(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    config["dualtoken"]["metrics"] = {}
    for name in ("model.safetensors", "metrics.csv"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="did not end"):
        row(tmp_path)
