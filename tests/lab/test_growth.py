import json

import pytest

from dualtoken.lab.growth import measure, table
from dualtoken.lab.rows import append_rows, provenance


@pytest.mark.slow
def test_rows_carry_where_they_come_from_and_become_a_table(tmp_path):
    rows = [row | provenance() for row in measure("dualtoken_vit_t_mix", (32, 64), rounds=2)]
    assert [row["image_size"] for row in rows] == [32, 64]
    assert rows[1]["pixels_ratio"] == 4
    assert rows[1]["gmacs_ratio"] > 1
    assert all(row["latency_ms"] > 0 and row["threads"] >= 1 and row["machine"] for row in rows)
    path = tmp_path / "rows.jsonl"
    append_rows(path, rows[:1])
    append_rows(path, rows[1:])
    assert [json.loads(line)["image_size"] for line in path.read_text().splitlines()] == [32, 64]
    assert table(str(path)).count("\n") == 3
