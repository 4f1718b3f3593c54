"""What goes wrong in a session: cells stopped or run out of order, a killed kernel, a full disk, one class only."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import av  # noqa: F401 - a stop while a package is imported leaves half of it: imported here, it is not what is stopped
import hotcoco  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import numpy as np
import pytest
from PIL import Image

import dino_nb
from dino_nb.errors import UserError
from dino_nb.inference.video import video_writer
from dino_nb.prepare.sample import make_sample
from tests.test_notebook_settings import Notebook, here  # noqa: F401 - an empty working folder for each test

ROOT = Path(__file__).parents[1]
# Cells that take a while, by notebook; the settings make them short here.
LONG = {
    "create_dataset": ("convert", "check", "look", "keep"),
    "evaluate": ("score", "worst"),
    "fine-tune": ("train", "compare"),
    "inference_and_visualization": ("all", "compare", "keep", "video"),
}
SETTINGS = {"fine-tune": {"EPOCHS": 1}, "create_dataset": {"OVERWRITE": True}}


def opened(name, data, **settings):
    """A notebook on the annotated images in ``data``."""
    field = "SOURCE" if name == "create_dataset" else "COCODIR"
    return Notebook(name, **{field: str(data)}, **SETTINGS.get(name, {}) | settings)


def pressed(act, after=40, function=None):
    """Do ``act``, with the stop button pressed at so many calls of the package's functions, or at one ``function``."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        if event == "call" and f"{os.sep}dino_nb{os.sep}" in frame.f_code.co_filename:
            calls += function in (None, frame.f_code.co_name)
            if calls == (1 if function else after):
                sys.setprofile(None)
                os.kill(os.getpid(), signal.SIGINT)

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("name", LONG)
def test_notebook_cells_may_be_stopped_and_run_again_in_any_order(name, sample_coco, capsys):
    notebook = opened(name, sample_coco)
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", []) if tag != "install"]
    for cell in notebook.cells:
        tag = next(iter(cell.metadata.get("tags", [])), None)
        run = partial(exec, compile(cell.source, "<cell>", "exec"), notebook.values)
        if tag == "train":  # which finishes its step, saves, and says so
            pressed(run, function="train_one_epoch")
            assert notebook.values["result"].stopped == "SIGINT"
        elif tag in LONG[name]:
            with pytest.raises(KeyboardInterrupt):
                pressed(run)
        run()
    for tag in reversed(tags):
        if tag not in LONG[name]:
            notebook.run(tag)


KILLED = """
import os, signal, sys
from dino_nb.training.validation import Validation
from tests.test_notebook_settings import Notebook
calls, evaluate = [], Validation.__call__
def killed(self, *args, **options):
    calls.append(self)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(self, *args, **options)
Validation.__call__ = killed
Notebook("fine-tune", COCODIR=sys.argv[1], EPOCHS=3, DRIVE_DIR="drive").run()
"""


def test_fine_tune_that_is_killed_goes_on_with_run_all(sample_coco, here):  # noqa: F811
    command = [sys.executable, "-c", KILLED, str(sample_coco)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    before = [json.loads(line) for line in Path("training/log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in before if "AP" in row] == [0, 1]
    result = opened("fine-tune", sample_coco, EPOCHS=3, DRIVE_DIR="drive").run_until("gain")["result"]
    assert [row["epoch"] for row in result.history] == [0, 1, 2, 3] and Path("drive/checkpoint_best.pth").is_file()
    assert [row["AP"] for row in result.history[:2]] == [row["AP"] for row in before if "AP" in row]


@pytest.fixture
def full_disk():
    """``full_disk(act)``: ``act()`` on a disk that takes no file of over a hundred bytes."""

    def act_on(act):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            act()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return act_on


@pytest.mark.parametrize(
    "name, tag",
    [
        ("create_dataset", "convert"),
        ("create_dataset", "keep"),
        ("evaluate", "score"),
        ("fine-tune", "train"),
        ("inference_and_visualization", "keep"),
        ("inference_and_visualization", "video"),
    ],
)
def test_notebook_on_a_full_disk_says_so_in_one_sentence(name, tag, sample_coco, full_disk, capfd):
    notebook = opened(name, sample_coco)
    notebook.run_until(tag)
    with pytest.raises(UserError) as caught:
        full_disk(partial(notebook.run, tag))
    assert re.search(r"cannot be written|full", str(caught.value)) and str(caught.value).count("\n") <= 1


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("create_dataset", {"SOURCE": "nowhere"}, "there is no"),
        ("create_dataset", {"SOURCE": "mine", "FORMAT": "coc"}, "Did you mean 'coco'"),
        ("create_dataset", {"SOURCE": "mine", "VAL_FRACTION": 1.5}, "val_fraction is a share"),
        ("create_dataset", {"SOURCE": "mine", "IMAGES": "nowhere"}, "there is no folder of images"),
        ("create_dataset", {"SOURCE": "mine", "KEEP_AS": "coco.rar"}, "name a file that ends in .zip"),
        ("create_dataset", {"SOURCE": "roboflow://team/cells"}, "write roboflow://workspace/project/version"),
        ("evaluate", {"COCODIR": "mien"}, "Did you mean 'mine'"),
        ("evaluate", {"COCODIR": "mine", "SPLIT": "test"}, "test"),
        ("evaluate", {"COCODIR": "mine", "CHECKPOINT": "dino-tinny"}, "Did you mean 'dino-tiny'"),
        ("evaluate", {"COCODIR": "mine", "THRESHOLD": 2.0}, "threshold"),
        ("evaluate", {"COCODIR": "mine", "LIMIT": -1}, "limit"),
        ("fine-tune", {"COCODIR": "mine", "AUGMENT": "strng"}, "Did you mean 'strong'"),
        ("fine-tune", {"COCODIR": "mine", "FROZEN": "bakcbone"}, "Did you mean 'backbone'"),
        ("fine-tune", {"COCODIR": "mine", "BATCH_SIZE": -4}, "batch_size"),
        ("inference_and_visualization", {"COCODIR": "mine", "SLICE_SIZE": -5}, "slice_size"),
    ],
)
def test_notebook_with_a_typo_in_its_form_is_a_sentence(name, settings, words):
    make_sample("mine", n_train=2, n_val=2)
    with pytest.raises(UserError, match=re.escape(words)):
        Notebook(name, **settings).run()


@pytest.mark.parametrize("name", ["create_dataset", "evaluate", "fine-tune"])
def test_notebook_of_one_class_and_one_image_counts_in_the_singular(name, capsys):
    data = make_sample("one", n_train=2, n_val=1, classes=["red circle"])
    notebook = opened(name, data)
    values = notebook.run_until({"create_dataset": "look", "evaluate": "truth", "fine-tune": "gain"}[name])
    told = capsys.readouterr().out + "".join(str(values.get(each, "")) for each in ("report", "checked", "result"))
    assert not re.search(r"(?<![\d.,/])1 (training |validation )?(classes|images|boxes|objects|labels)\b", told), told


def test_inference_shows_a_small_copy_of_a_large_video(sample_coco, monkeypatch):
    noise = np.random.default_rng(0)
    with video_writer("clip.mp4", rate=10, bit_rate=4_000_000) as write:
        for _ in range(30):
            write(Image.fromarray(noise.integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((320, 240)))
    monkeypatch.setattr(dino_nb, "small_copy", partial(dino_nb.small_copy, max_bytes=500_000))
    shown = []
    monkeypatch.setattr("IPython.display.Video", lambda data, **options: shown.append(data))
    notebook = opened("inference_and_visualization", sample_coco, VIDEO="clip.mp4")
    notebook.run_until("explore")
    values = notebook.run("keep", "video")
    assert values["annotated"].stat().st_size > 500_000 > Path(shown[0]).stat().st_size > 0
    assert Path(shown[0]) != values["annotated"]
