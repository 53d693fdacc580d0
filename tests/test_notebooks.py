"""The notebooks in examples/notebooks run from their first cell to their last, cut short."""

import os
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"
# The cell of each that says how long it takes, and how short it is here.
SHORT = {
    "classification": ("minutes = 3", "minutes = 0.1"),
    "detection": ("epochs, number = 30, 400", "epochs, number = 1, 20"),
    "segmentation": ("epochs, number = 8, 400", "epochs, number = 1, 20"),
}


def test_each_notebook_is_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SHORT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")  # of Jupyter's own
@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept"
    long, short = SHORT[name]
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith(long)]
    cell.source = cell.source.replace(long, short)
    source = str(NOTEBOOKS.parents[1] / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])))
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    said = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "95 % intervals" in said
