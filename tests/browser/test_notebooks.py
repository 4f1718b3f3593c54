"""The four notebooks in JupyterLab, in a real browser: run, moved, looked at.

``make test-browser`` runs this; it needs Chromium, and ``pip install 'dino-nb[browser]'``. Screenshots are written to
``$DINO_NB_SCREENSHOTS`` (default: ``build/screenshots``).
"""

import os
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

from tests.browser import lab  # noqa: E402 - needs playwright only once it runs

pytestmark = pytest.mark.skipif(not lab.chromium(), reason="no Chromium: make test-browser installs it where it can")
SHOTS = Path(os.environ.get("DINO_NB_SCREENSHOTS", lab.ROOT / "build" / "screenshots"))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    SHOTS.mkdir(parents=True, exist_ok=True)
    with lab.jupyter(tmp_path_factory.mktemp("lab")) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=lab.chromium(), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, address):
    """``opened(name)`` runs a notebook from top to bottom and returns it."""
    pages = []

    def run(name, seconds=120):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        notebook = lab.Notebook(context, address, name)
        pages.append((context, notebook))
        assert notebook.run_all(seconds) == []
        assert notebook.noise() == []
        return notebook

    yield run
    for context, notebook in pages:
        notebook.close()
        context.close()


def look(notebook, name):
    """Screenshots: light and dark, wide and narrow."""
    notebook.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    for theme in ("light", "dark"):
        notebook.theme(theme)
        for width in (1280, 460):
            notebook.screenshot(SHOTS / f"{name}-{theme}-{width}.png", width)
    assert notebook.complaints() == []


def test_create_dataset_runs_and_its_images_are_stepped_through(opened):
    notebook = opened("create_dataset")
    cell = notebook.cell("browse")
    assert "1 of 10" in notebook.shown(cell)[0]
    notebook.changes(cell, cell.locator(".dino-forward").click)
    assert "2 of 10" in notebook.shown(cell)[0]
    look(notebook, "create_dataset")


def test_evaluate_runs(opened):
    notebook = opened("evaluate")
    assert "AP50" in notebook.cell("score").inner_text()
    look(notebook, "evaluate")


def test_fine_tune_runs_and_shows_before_and_after(opened):
    notebook = opened("fine-tune", seconds=240)
    cell = notebook.cell("compare")
    handle = notebook.slider(cell, "threshold")
    notebook.changes(cell, lambda: handle.press("ArrowRight"))
    look(notebook, "fine-tune")


def test_inference_runs_and_follows_mouse_and_keyboard(opened):
    notebook = opened("inference_and_visualization")
    cell = notebook.cell("explore")
    handle = notebook.slider(cell, "threshold")

    def drag():
        handle.hover()
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        notebook.page.mouse.move(x, y)
        notebook.page.mouse.down()
        notebook.page.mouse.move(x + 175, y, steps=6)
        notebook.page.mouse.up()

    few, _ = notebook.changes(cell, drag)
    more, _ = notebook.changes(cell, lambda: [handle.press("Home")])
    assert few != more  # other numbers beside the slider, not only another image
    notebook.changes(cell, cell.locator(".dino-forward").click)
    notebook.changes(cell, lambda: cell.locator("select option").nth(1).click())

    cell = notebook.cell("compare")
    handle = notebook.slider(cell, "threshold")
    before = notebook.shown(cell)[0]
    after, _ = notebook.changes(cell, lambda: [handle.press("PageUp") for _ in range(3)])
    assert "precision" in before and before != after

    cell = notebook.cell("layers")
    before, _ = notebook.shown(cell)
    after, _ = notebook.changes(cell, lambda: notebook.slider(cell, "step").press("ArrowRight"))
    assert "1 of 4" in before and "2 of 4" in after
    look(notebook, "inference_and_visualization")
    fits_a_narrow_window(notebook)
    opens_again_with_a_new_kernel(notebook)


def fits_a_narrow_window(notebook):
    """460 pixels: sliders keep a track, nothing is cut, and the slider's number is the caption's."""
    notebook.page.set_viewport_size({"width": 460, "height": 900})
    notebook.page.wait_for_timeout(700)
    for tag in ("explore", "compare"):
        cell = notebook.cell(tag)
        cell.scroll_into_view_if_needed()
        [(left, right), *_] = notebook.sides(cell, ".dino-view")
        tracks = notebook.sides(cell, ".dino-controls .noUi-target")
        assert len(tracks) >= 2 and min(b - a for a, b in tracks) > 60
        for a, b in [*tracks, *notebook.sides(cell, ".dino-controls select, .dino-view img, .dino-view svg")]:
            assert left - 4 <= a and b <= right + 4 and b <= 460  # a track's border is outside of its box
        number = cell.locator(".dino-controls .widget-readout").first.inner_text()
        assert f"{number} of " in cell.locator(".jp-OutputArea").first.inner_text()


def opens_again_with_a_new_kernel(notebook):
    """The saved notebook shows the last image in the widgets' place."""
    notebook.save()
    notebook.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    notebook.page.reload()
    notebook.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    notebook.page.wait_for_timeout(4000)  # JupyterLab looks for the widgets' models in the kernel first
    for tag in ("explore", "compare", "layers"):
        cell = notebook.cell(tag)
        cell.scroll_into_view_if_needed()
        image = cell.locator(".jp-OutputArea img").first
        assert image.is_visible() and image.evaluate("image => image.naturalWidth") > 100
        assert "model not found" not in cell.locator(".jp-OutputArea").first.inner_text()
