"""The four notebooks as files; that they run is what ``pytest --nbval-lax notebooks`` shows."""

from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ("create_dataset", "evaluate", "fine-tune", "inference_and_visualization")


def test_there_are_four_with_their_scripts():
    assert {path.name for path in FOLDER.glob("*.ipynb")} == {f"{name}.ipynb" for name in NAMES}
    assert {path.name for path in FOLDER.glob("*.py")} == {f"{name}.py" for name in NAMES}


@pytest.fixture(params=NAMES)
def notebook(request):
    return nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4), FOLDER / f"{request.param}.py"


def test_it_is_a_valid_notebook_without_outputs(notebook):
    notebook, _ = notebook
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_it_says_the_same_as_its_script(notebook):
    """Out of step: ``jupytext --sync notebooks/NAME.ipynb`` copies the newer of the two over the other."""
    notebook, script = notebook
    assert _cells(notebook) == _cells(jupytext.read(script))


def test_it_asks_colab_for_a_gpu(notebook):
    metadata = notebook[0].metadata
    assert metadata["accelerator"] == "GPU"
    assert metadata["colab"]["gpuType"] == "T4"


def test_every_value_of_the_user_is_in_one_form_cell(notebook):
    notebook, _ = notebook
    forms = [cell for cell in notebook.cells if "#@param" in cell.source.replace("# @param", "#@param")]
    assert [cell.metadata.get("tags") for cell in forms] == [["parameters"]]


def test_prose_stands_before_every_code_cell_but_the_form(notebook):
    """A reader is told what comes, and never sees more than a screenful of code."""
    notebook, _ = notebook
    assert notebook.cells[0].cell_type == "markdown"
    for before, cell in zip(notebook.cells, notebook.cells[1:]):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown" or "parameters" in before.metadata.get("tags", []), cell.source
            assert len(cell.source.splitlines()) <= 25, cell.source


def _cells(notebook):
    return [(cell.cell_type, cell.source.strip(), cell.metadata.get("tags", [])) for cell in notebook.cells]
