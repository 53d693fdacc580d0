import pytest

from dualtoken.lab.reductions import measure_reductions, table
from dualtoken.lab.rows import append_rows
from dualtoken.training import train

TINY = {"embed_dim": 16, "num_heads": 2, "depth": 4, "patch_size": 8}


def test_a_row_each_with_its_cost_and_its_loss(make_image_folder, tmp_path):
    data = make_image_folder(classes=("cat", "dog"), per_class=8)
    settings = {"image_size": 64, "batch_size": 4, "workers": 0, "device": "cpu", "model_args": TINY}
    run = train(data, tmp_path / "run", recipe="smoke", model="vit_tiny_patch16_224", epochs=1, **settings).folder
    rows = measure_reductions(run, data, ["evit", "sit", "diffrate"], [1.0, 0.5])

    assert [(row["reduction"], row["keep"]) for row in rows] == [
        (None, 1), ("evit", 1), ("evit", 0.5), ("sit", 1), ("sit", 0.5), ("diffrate", 1)
    ]  # fmt: skip
    whole, evit, half = rows[:3]
    assert evit["gmacs"] == whole["gmacs"] > half["gmacs"]
    assert evit["difference"] == {"value": 0, "low": 0, "high": 0}
    assert half["difference"]["value"] == pytest.approx(half["top1"] - whole["top1"])
    assert whole["model_args"] == TINY | {"img_size": [64, 64]}

    append_rows(tmp_path / "rows.jsonl", rows)
    lines = table(tmp_path / "rows.jsonl").splitlines()
    assert len(lines) == 2 + len(rows)
    assert lines[2].startswith("| whole network | 1 | ")
    assert "(100 %)" in lines[3]
