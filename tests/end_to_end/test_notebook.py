"""The notebook of the examples, executed by a real kernel; a job is shown again after the kernel's restart."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.paths import ROOT
from tests.support.serving import Served

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def executed(notebook: nbformat.NotebookNode, folder: Path) -> list[dict[str, str]]:
    """The data of each code cell's last output, by MIME type."""
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [dict(cell.outputs[-1].get("data", {})) if cell.outputs else {} for cell in cells]


@pytest.mark.slow
def test_the_notebook_runs_and_a_new_kernel_shows_the_same_job(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPEWORKS_URL", served.url)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shown = executed(nbformat.read(NOTEBOOK, as_version=4), tmp_path)
    finished, live, waited = shown[3]["text/html"], shown[4], shown[5]["text/html"]
    assert "succeeded" in finished
    assert "<polyline" in finished
    assert "val_accuracy" in finished
    assert "application/vnd.jupyter.widget-view+json" in live
    assert "text/html" in live
    assert "succeeded" in waited
    job = next(one for one in served.client.list(name="in the background"))
    again = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import tapeworks")])
    again.cells.append(nbformat.v4.new_code_cell(f"tapeworks.Client().job({job.id!r})"))
    _, view = executed(again, tmp_path)
    assert "<polyline" in view["text/html"]
    assert "application/vnd.jupyter.widget-view+json" not in view, "a finished job needs no live block"
