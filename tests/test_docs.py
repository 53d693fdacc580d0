"""What the documents say is so: tables of facts, names of settings, links to files."""

import re
from pathlib import Path

import pytest

from dualtoken.backbone.table import markdown, models_table
from dualtoken.errors import DataError
from dualtoken.lab.settings_table import renew

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def test_the_readme_lists_every_network_with_its_figures():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in [*models_table("dualtoken_vit"), *models_table("lightvit")]:
        top1 = "" if row["top1"] is None else f" {row['top1']}"
        assert f"| `{row['model']}` | {row['mparams']:.3f} | {row['gmacs']:.3f} |{top1} |" in readme


def test_the_page_of_models_lists_every_network():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert markdown(models_table()) in page, "Type: python -m dualtoken.backbone.table"


def test_the_training_page_has_the_settings_as_the_config_says_them():
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    assert renew(page) == page, "Type: python -m dualtoken.lab.settings_table docs/train.md"
    assert renew(page.replace("Passes over the training images.", "Passes.")) == page
    with pytest.raises(DataError, match="0 tables"):
        renew("A page without.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert not missing


def test_the_results_page_shows_the_rows():
    from dualtoken.lab import accuracy, growth, reductions

    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert growth.table(str(ROOT / "results" / "growth.jsonl")) in page
    assert reductions.table(ROOT / "results" / "reductions.jsonl") in page
    for task in accuracy.MAIN:
        table = accuracy.table(ROOT / "results" / "accuracy.jsonl", task)
        assert table in page or table.count("\n") < 2  # nothing was measured yet


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_not_longer_than_120(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]  # tables cannot be broken
