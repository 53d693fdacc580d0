"""The paper's tables: what they show is what is published, what is computed and what was measured."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dualtoken.cli import app
from dualtoken.errors import DataError
from dualtoken.lab.pages import END, START, rows_for
from dualtoken.lab.paper import TABLES, markdown, renew, table_cells
from dualtoken.lab.study_plans import STUDIES
from dualtoken.lab.study_rows import study_rows

ROOT = Path(__file__).parents[2]


def rows(scale="cpu", study="ablations", task="classification", **arms):
    return [
        {"study": study, "scale": scale, "task": task, "arm": arm, "says": "", "seed": seed, "mparams": 1.0,
         "gmacs": 0.5, "metrics": {"top1": {"value": value}, "miou": {"value": value}}}
        for arm, values in arms.items() for seed, value in enumerate(values)
    ]  # fmt: skip


@pytest.fixture
def cheap(monkeypatch):
    """Costs are another test's matter."""
    monkeypatch.setattr("dualtoken.lab.paper._costs", lambda model, switch, size: (1.0 + len(switch), 0.5))


def shown() -> str:
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    return page.partition(START)[2].partition(END)[0].strip()


def without_costs(text: str) -> list[list[str]]:
    """The lines without their third column."""
    return [[cell for place, cell in enumerate(line.split("|")) if place != 3] for line in text.splitlines()]


def test_the_page_shows_what_is_published_and_the_rows(cheap):
    """Fails when a published figure or a row changes and nobody typed `dualtoken tables --markdown docs/paper.md`."""
    assert without_costs(shown()) == without_costs(markdown(study_rows(ROOT / "results")).strip())


@pytest.mark.slow
def test_the_page_shows_what_the_networks_cost():
    assert shown() == markdown(study_rows(ROOT / "results")).strip()


def test_every_line_is_an_arm_of_its_study():
    for table in TABLES.values():
        arms = {arm.name for arm in STUDIES[table.study][0]}
        missing = (
            {entry.arm for entry in table.entries} - arms - {"dualtoken_vit_s", "grid_4", "grid_6"}
        )  # not measured
        assert not missing, table.title


def test_published_differences_and_ours_have_the_same_sign():
    _, one_step = table_cells(TABLES["downsampling"], [])
    assert one_step[1] == "-0.2 points, -0.1 M, -0.03 G"
    assert one_step[2] == "-0.13 M, -0.029 G"


def test_measured_figures_stand_beside_their_arm(cheap):
    made = rows(base=[0.50, 0.60, 0.70], window=[0.40, 0.50, 0.601], mlp=[0.5])
    base, window = table_cells(TABLES["local"], made)
    assert base[3] == "60.0 (35.2 to 84.8) %, 3 seeds"
    assert window[3].endswith("-10.0 (-10.1 to -9.8): worse")
    normal = table_cells(TABLES["mlps"], made)[1]
    assert normal[3] == "50.0 %, 1 seed; +0.0"  # one seed: no verdict over seeds
    assert table_cells(TABLES["main"], made)[0][3] == ""  # of another study


def test_the_larger_scale_counts(cheap):
    made = rows(base=[0.50]) + rows("gpu", base=[0.80, 0.82])
    assert table_cells(TABLES["local"], made)[0][3].startswith("81.0")


def test_tasks_are_kept_apart(cheap):
    made = rows(study="dense", task="semantic_segmentation", dualtoken_vit_t_mix=[0.3])
    assert table_cells(TABLES["segmentation"], made)[0][3] == "30.0 %, 1 seed"
    assert table_cells(TABLES["detection"], made)[0][3] == ""


def test_only_what_stands_between_the_markers_is_renewed(cheap, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    renew(page, [])
    text = page.read_text()
    assert text.startswith(f"before\n{START}\n\n### ImageNet-1K")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    page.write_text("no place\n")
    with pytest.raises(DataError, match="no place for tables"):
        renew(page, [])
    assert page.read_text() == "no place\n"


# ---------------------------------------------------------------- which rows


def write_rows(file, *made):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    return file


def test_rows_of_other_measurements_are_left_out(tmp_path):
    own = rows(base=[0.5])
    foreign = [{"model": "x"}, {"study": "peers", "arm": "y"}, own[0] | {"metrics": {}}]
    file = write_rows(tmp_path / "a.jsonl", *foreign, *own)
    assert study_rows(tmp_path) == study_rows(file) == own
    with pytest.raises(DataError, match="line 1 holds int"):
        study_rows(write_rows(tmp_path / "b.jsonl", 3))
    (tmp_path / "b.jsonl").unlink()
    assert study_rows(tmp_path / "none") == []


def test_results_that_were_named_must_hold_rows(tmp_path):
    (tmp_path / "empty").mkdir()
    write_rows(tmp_path / "foreign" / "a.jsonl", {"model": "x"})
    for place in ("nothere", "empty", "foreign", "foreign/a.jsonl"):
        with pytest.raises(DataError, match="--results is"):
            rows_for(tmp_path / place, None)


def test_a_broken_file_is_named_with_what_writes_it(tmp_path):
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"(?s)a\.jsonl.*--rows") as error:
        rows_for(tmp_path, None)
    assert "--output" not in str(error.value)


def test_measured_figures_are_not_lost_for_want_of_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no folder `results` here
    page = tmp_path / "page.md"
    page.write_text(f"{START}\n| network | measured (proxy) |\n| --- | --- |\n| a | 53.2 % |\n{END}\n")
    with pytest.raises(DataError, match="would be lost"):
        rows_for(None, page)
    page.write_text(f"{START}\n| a | 1.0 M |  |\n{END}\n")
    assert rows_for(None, page) == rows_for(None, None) == []


def test_the_verb_says_how_many_rows_it_took(cheap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["tables"])
    assert "Rows     no rows of studies in 'results': the column of what was measured is empty" in result.stderr
    write_rows(tmp_path / "results" / "a.jsonl", *rows(base=[0.5, 0.6]))
    result = CliRunner().invoke(app, ["tables"])
    assert "Rows     2 rows of studies in 'results'" in result.stderr
    assert "Rows" not in result.stdout
    assert "A difference counts the seeds that both arms have" in result.stdout
