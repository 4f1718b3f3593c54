"""What must be true after a notebook's cells have run, checked in their kernel by ``pytest --nbval-lax notebooks``.

A check belongs to the cell of the notebook that has its tag. Users see none of this.
"""

from pathlib import Path

import pytest

CHECKS = {
    "create_dataset": {
        "convert": """
            assert report.splits["train"]["boxes"] > 0
        """,
        "check": """
            assert checked.ok
            assert checked.splits["train"]["images"] == report.splits["train"]["images"]
        """,
        "look": "assert len(figure.get_axes()) > 5",
        "browse": "assert browser.position.max - browser.position.min + 1 == report.splits[split]['images']",
        "keep": "assert dino_nb.colab.dataset(kept).is_dir()",
    },
    "evaluate": {
        "score": "assert len(result.metrics) == 12 and result.metrics['AP50'] > 0.5",
        "truth": "assert best['AP50'] > 0.99",
        "threshold": "assert 0 < result.analysis.threshold < 1",
        "worst": "assert sheet.width > 500",
        "keep": "assert again == result.metrics",
    },
    "fine-tune": {
        "train": "assert result.history[0]['epoch'] == 0",
        "gain": "assert result.best['AP50'] > result.history[0]['AP50']",
        "curves": "assert (run / 'curves.png').stat().st_size > 1000",
        "report": "assert result.report.metrics['AP'] == result.best['AP']",
        "compare": "assert 'before' in comparison.caption and 'after' in comparison.caption",
    },
    "inference_and_visualization": {
        "load": "assert any(detector.class_names)",
        "all": "assert len(results) == len(images) == 12 and sum(map(len, results)) > 12",
        "one": "assert result.boxes.shape == (len(result), 4) and (result.scores >= threshold).all()",
        "explore": "assert view.image.size[0] > 0 and 'cannot be read' not in view.caption",
        "compare": "assert 'detected' in comparison.caption",
        "layers": "assert len(layers.boxes) == 4",
        "points": "assert points.points.shape[0] == 3",
        "keep": """
            import json
            entries = json.loads((saved / "predictions.json").read_text(encoding="utf-8"))
            assert len(entries) == len(results) and all((saved / entry["output"]).exists() for entry in entries)
        """,
        "video": "assert annotated.stat().st_size > 0",
    },
}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """After a cell has run, run its check, and fail the cell with the check's message."""
    outcome = yield
    if outcome.excinfo is not None or not hasattr(item, "cell_num"):
        return
    checks = CHECKS.get(Path(str(item.fspath)).stem, {})
    for tag in item.cell.metadata.get("tags", []):
        if problem := _run(item.parent.kernel, checks.get(tag, "")):
            outcome.force_exception(AssertionError(f"the check of the cell {tag!r} failed:\n{problem}"))


def _run(kernel, code):
    """Execute ``code`` in the kernel; the error it ended in, or an empty string."""
    if not code:
        return ""
    import textwrap

    sent = kernel.execute_cell_input(textwrap.dedent(code).strip(), allow_stdin=False)
    kernel.await_reply(sent, timeout=120)
    problem = ""
    while True:
        message = kernel.get_message("iopub", timeout=30)
        if message["parent_header"].get("msg_id") != sent:
            continue
        if message["msg_type"] == "error":
            problem = "{ename}: {evalue}".format(**message["content"]) + "\n" + code
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return problem
