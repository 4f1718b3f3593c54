"""The four notebooks as files; that they run is what ``pytest --nbval-lax notebooks`` shows."""

import ast
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from dino_nb.version import __version__

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ("create_dataset", "evaluate", "fine-tune", "inference_and_visualization")


@pytest.fixture(params=NAMES)
def notebook(request):
    read = nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)
    read.name = request.param
    return read


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cells_of(notebook):
    return [(cell.cell_type, cell.source.strip(), cell.metadata.get("tags", [])) for cell in notebook.cells]


def test_notebooks_are_four_with_their_scripts():
    assert {path.name for path in FOLDER.glob("*.ipynb")} == {f"{name}.ipynb" for name in NAMES}
    assert {path.name for path in FOLDER.glob("*.py")} == {f"{name}.py" for name in NAMES} | {"conftest.py"}


def test_notebook_is_valid_and_has_no_outputs(notebook):
    nbformat.validate(nbformat.from_dict({k: v for k, v in notebook.items() if k != "name"}))
    assert code_of(notebook)
    assert not any(cell.outputs or cell.execution_count for cell in code_of(notebook))


def test_notebook_says_the_same_as_its_script(notebook):
    """Out of step: ``jupytext --sync notebooks/NAME.ipynb`` copies the newer of the two over the other."""
    assert cells_of(notebook) == cells_of(jupytext.read(FOLDER / f"{notebook.name}.py"))


def test_notebook_asks_colab_for_a_gpu_only_if_it_needs_one(notebook):
    needs = notebook.name != "create_dataset"
    assert notebook.metadata.get("accelerator") == ("GPU" if needs else None)
    assert notebook.metadata["colab"].get("gpuType") == ("T4" if needs else None)


def test_notebook_has_every_value_of_the_user_in_one_form_cell(notebook):
    forms = [cell for cell in notebook.cells if "#@param" in cell.source.replace("# @param", "#@param")]
    assert [cell.metadata.get("tags") for cell in forms] == [["parameters"]]
    fields = [target.id for node in ast.parse(forms[0].source).body for target in node.targets]
    rest = "\n".join(cell.source for cell in code_of(notebook) if cell is not forms[0])
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for field in fields:
        assert re.search(rf"\b{field}\b", rest), f"{field} is used nowhere"
        assert field in prose or field in ("FORMAT", "SEED", "PRESET"), f"{field} is explained nowhere"
        assert not re.search(rf"\b{field}\s*=[^=]", rest), f"{field} is overwritten: run again, a cell would see it"


def test_notebook_has_short_cells_and_says_what_comes(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    for before, cell in zip(notebook.cells, notebook.cells[1:]):
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) < 12 or "parameters" in cell.metadata.get("tags", []), cell.source
            told = before.cell_type == "markdown" or set(before.metadata.get("tags", [])) & {"errors", "worst"}
            assert told or "parameters" in before.metadata.get("tags", []), cell.source


def test_notebook_has_no_bare_assert(notebook):
    nodes = [node for cell in code_of(notebook) for node in ast.walk(ast.parse(cell.source))]
    assert not [node for node in nodes if isinstance(node, ast.Assert)]


def test_notebook_imports_from_no_deeper_than_the_package(notebook):
    for cell in code_of(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("dino_nb.")], cell.source


def test_notebook_links_to_the_others_and_to_colab(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert f"blob/main/notebooks/{notebook.name}.ipynb" in prose
    for name in set(NAMES) - {notebook.name}:
        assert f"]({name}.ipynb)" in prose
    assert "What next" in notebook.cells[-1].source
    assert re.search(r"picture", prose, re.I) is None


def test_notebook_was_made_for_this_version(notebook):
    assert any(f'made_for="{__version__}"' in cell.source for cell in code_of(notebook))


def test_notebooks_install_by_the_same_cell():
    cells = []
    for name in NAMES:
        read = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        cells += [cell.source for cell in code_of(read) if "install" in cell.metadata.get("tags", [])]
    assert len(cells) == 4 and len(set(cells)) == 1
    assert "/content/drive/MyDrive/dino-nb" in cells[0] and "/kaggle/input/dino-nb" in cells[0]


def test_notebook_checks_belong_to_cells():
    from notebooks.conftest import CHECKS

    for name, checks in CHECKS.items():
        read = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        tags = [tag for cell in code_of(read) for tag in cell.metadata.get("tags", [])]
        assert set(checks) <= set(tags) and len(tags) == len(set(tags))
        for check in checks.values():
            assert "assert" in check
