"""The notebooks as their users run them: own data, typos, cells run twice or out of order, stopped, cut off.

The cells of their scripts are run in one namespace, with the settings of the form cell replaced.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest
from PIL import Image

from dino_nb import files
from dino_nb.checkpoints.checkpoint import save_checkpoint
from dino_nb.checkpoints.load import load_model
from dino_nb.errors import UserError
from dino_nb.prepare.archive import pack
from dino_nb.prepare.sample import make_sample
from dino_nb.training.validation import Validation

FOLDER = Path(__file__).parents[1] / "notebooks"


class Notebook:
    """A notebook with settings of a user's own."""

    def __init__(self, name, **settings):
        self.cells = [c for c in jupytext.read(FOLDER / f"{name}.py").cells if c.cell_type == "code"]
        form = next(cell for cell in self.cells if "parameters" in cell.metadata.get("tags", []))
        for key, value in settings.items():
            form.source, found = re.subn(
                rf"^{key} = .*$", lambda _, k=key, v=value: f"{k} = {v!r}", form.source, flags=re.M
            )
            assert found == 1, f"{name} has no setting {key}"
        self.values = {"__name__": name}

    def run(self, *tags):
        """Run all cells, or those with ``tags``; returns the variables."""
        for cell in self.cells:
            if not tags or set(tags) & set(cell.metadata.get("tags", [])):
                exec(compile(cell.source, "<cell>", "exec"), self.values)
        return self.values

    def run_until(self, tag):
        """Run the cells before the one with ``tag``."""
        for cell in self.cells:
            if tag in cell.metadata.get("tags", []):
                return self.values
            exec(compile(cell.source, "<cell>", "exec"), self.values)
        raise KeyError(tag)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Path.cwd()


def run(name, **settings):
    return Notebook(name, **settings).run()


# create_dataset


def test_create_dataset_repairs_a_zip_of_yolo_labels_and_packs_it():
    make_sample("mine", n_train=8, n_val=4, format="yolo")
    label = next(Path("mine").rglob("labels/**/*.txt"))
    label.write_text(label.read_text() + "0 0.5 0.5 0.0 0.1\n")  # a box of no width
    shutil.make_archive("mine", "zip", "mine")
    settings = {"SOURCE": "mine.zip", "COCODIR": "made", "FIXED_COPY": "repaired", "KEEP_AS": "kept.zip", "SEED": 1}
    seen = run("create_dataset", **settings)
    assert seen["report"].num_dropped == 1 and seen["checked"].ok
    assert seen["target"] == "repaired" and Path("kept.zip").stat().st_size > 10_000


def test_create_dataset_overwrites_only_when_told():
    make_sample("voc", n_train=4, n_val=2, format="voc")
    run("create_dataset", SOURCE="voc", COCODIR="made", KEEP_AS="")
    with pytest.raises(UserError, match="made"):
        run("create_dataset", SOURCE="voc", COCODIR="made", KEEP_AS="")
    run("create_dataset", SOURCE="voc", COCODIR="made", KEEP_AS="", OVERWRITE=True)


def test_create_dataset_of_the_sample_can_run_again_and_cell_by_cell():
    notebook = Notebook("create_dataset")
    notebook.run()
    notebook.run("convert", "check", "convert", "keep")
    notebook.run()


def test_create_dataset_on_drive_is_kept_there(colab_session, monkeypatch):
    make_sample("voc", n_train=4, n_val=2, format="voc")
    colab_session.mount(files.DRIVE)
    shutil.make_archive(str(files.DRIVE / "images"), "zip", "voc")
    seen = run("create_dataset", SOURCE=f" {files.DRIVE / 'images.zip'} ", KEEP_AS=str(files.DRIVE / "coco.zip"))
    assert (files.DRIVE / "coco.zip").is_file() and seen["report"].splits["train"]["images"] == 4
    assert run("evaluate", COCODIR=str(files.DRIVE / "coco.zip"))["result"].metrics["AP50"] > 0.3


def test_create_dataset_upload_that_is_cancelled_is_a_sentence(colab_session):
    with pytest.raises(UserError, match="no file was chosen"):
        run("create_dataset", SOURCE="upload")


# evaluate


def test_evaluate_scores_some_training_images(sample_coco):
    settings = {"SPLIT": "train", "LIMIT": 3, "AMP": "fp32", "THRESHOLD": 0.5, "OUTPUT_DIR": "out"}
    seen = run("evaluate", COCODIR=str(sample_coco), **settings)
    assert len(seen["result"].image_ids) == 3 and Path("out/results.json").exists()


def test_evaluate_takes_a_zip_and_a_runs_folder(sample_coco):
    Path("run").mkdir()
    save_checkpoint(Path("run") / "checkpoint_best.pth", load_model("dino-tiny"))
    pack(sample_coco, "coco.zip")
    seen = run("evaluate", COCODIR="coco.zip ", CHECKPOINT=" run ")
    assert seen["checkpoint"].endswith("checkpoint_best.pth") and seen["result"].metrics["AP50"] > 0.3


def test_evaluate_with_nothing_found_runs_to_the_end(sample_coco):
    empty = Path(shutil.copytree(sample_coco, "empty"))
    for file in (empty / "val2017").iterdir():
        Image.new("RGB", Image.open(file).size).save(file)
    assert run("evaluate", COCODIR="empty", THRESHOLD=1.0)["result"].metrics["AP"] < 0.1


def test_evaluate_of_a_network_that_knows_no_class_says_what_to_do():
    make_sample("cells", n_train=1, n_val=1, kind="cells")
    with pytest.raises(UserError, match=r"no class of the data set is known .*notebook fine-tune"):
        run("evaluate", COCODIR="cells", CHECKPOINT="dino-tiny")


# fine-tune


def test_fine_tune_resumes_and_its_checkpoint_serves_the_next_notebooks(sample_coco, colab_session):
    colab_session.mount(files.DRIVE)
    drive = str(files.DRIVE / "run")
    settings = {"COCODIR": str(sample_coco), "FROZEN": "backbone", "BATCH_SIZE": 4, "DRIVE_DIR": drive}
    first = run("fine-tune", **settings, EPOCHS=1)["result"]
    shutil.rmtree("training")  # the next session has only Drive
    more = run("fine-tune", **settings, EPOCHS=1)["result"]
    assert [r["epoch"] for r in first.history] == [0, 1] and more.history == first.history
    longer = run("fine-tune", **settings, EPOCHS=2)["result"]
    assert longer.output_dir == Path("training")
    assert [r["epoch"] for r in longer.history] == [0, 1, 2] and longer.history[:2] == first.history
    seen = run("inference_and_visualization", CHECKPOINT=drive, COCODIR=str(sample_coco), SLICE_SIZE=120)
    assert len(seen["results"]) == 4 and seen["comparison"] is not None


def test_fine_tune_on_other_data_gets_a_folder_of_its_own(sample_coco, capsys):
    foreign = make_sample("foreign", n_train=6, n_val=3, seed=9)
    first = Notebook("fine-tune", COCODIR=str(sample_coco), EPOCHS=1)
    second = Notebook("fine-tune", COCODIR=str(foreign), EPOCHS=1)
    assert first.run_until("gain")["run"] == Path("training")
    assert second.run_until("gain")["run"] == Path("training/run-2")
    assert "training holds another run" in capsys.readouterr().out


def test_fine_tune_stopped_in_the_first_evaluation_says_so_and_continues(sample_coco, monkeypatch):
    notebook = Notebook("fine-tune", COCODIR=str(sample_coco), EPOCHS=1)
    notebook.run_until("train")
    evaluate = Validation.__call__

    def pressed(self, *args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Validation, "__call__", pressed)
        notebook.run("train", "gain", "curves", "report", "compare")
    assert notebook.values["result"].stopped == "SIGINT"
    notebook.run("train", "gain", "curves", "report", "compare")
    assert notebook.values["result"].best["epoch"] in (0, 1)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"LEARNING_RATE": -1.0}, "lr"),
        ({"LEARNING_RATE": 10.0}, "lr"),
        ({"EPOCHS": -3}, "epochs"),
        ({"PRESET": "finetun"}, "finetune"),
        ({"CHECKPOINT": "dino-tinny"}, "dino-tiny"),
        ({"COCODIR": "nowhere"}, "there is no nowhere"),
        ({"DRIVE_DIR": "MyDrive/run"}, "only Colab has"),
    ],
)
def test_fine_tune_refuses_a_typo_in_the_form(sample_coco, settings, words):
    with pytest.raises(UserError, match=words):
        run("fine-tune", **{"COCODIR": str(sample_coco)} | settings)


# inference_and_visualization


def test_inference_on_ones_own_images_skips_what_cannot_be_read(sample_coco):
    shutil.copytree(sample_coco / "train2017", "own")
    for name in ("0_first.jpg", "m_middle.jpg"):
        Path("own", name).write_bytes(b"no image")
    seen = run("inference_and_visualization", IMAGES="own", THRESHOLD=0.6)
    assert len(seen["results"]) == 8 and len(seen["results"].skipped) == 2 and seen["comparison"] is None


def test_inference_with_nothing_found_runs_to_the_end():
    Path("own").mkdir()
    Image.new("RGB", (160, 120)).save("own/black.png")
    assert run("inference_and_visualization", IMAGES="own", THRESHOLD=1.0)["results"]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"IMAGES": "valimages"}, "valimages"),
        ({"IMAGES": "videos"}, "holds videos and no image"),
        ({"CHECKPOINT": "dino-tinny"}, "Did you mean"),
        ({"THRESHOLD": 2.0}, "threshold"),
        ({"VIDEO": "clip.mp4"}, r"there is no clip\.mp4"),
    ],
)
def test_inference_refuses_a_typo_in_the_form(settings, words):
    from dino_nb.inference.video import video_writer

    Path("videos").mkdir()
    with video_writer("videos/a.mp4", rate=5) as write:
        write(Image.new("RGB", (64, 64)))
    with pytest.raises(UserError, match=words):
        run("inference_and_visualization", **settings)


# the install cell


@pytest.fixture
def install(monkeypatch):
    """``install(code=0, **settings)`` runs the install cell where the package is missing; returns pip's words."""

    def run_cell(code=0, **settings):
        calls = []
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setattr(subprocess, "call", lambda words: calls.append(words) or code)
        notebook = Notebook("evaluate", **settings)
        notebook.run("parameters", "install")
        return calls[0]

    return run_cell


def test_install_cell_does_nothing_where_the_package_is(monkeypatch):
    monkeypatch.setattr(subprocess, "call", lambda words: pytest.fail("pip was called"))
    Notebook("evaluate").run("parameters", "install")


def test_install_cell_takes_the_clone_then_a_wheel_then_the_address(install, here, monkeypatch):
    assert install()[-2] == "git+https://github.com/dino-nb/dino-nb"
    assert install(INSTALL_FROM="git+https://example.org/fork")[-2] == "git+https://example.org/fork"
    wheel = here / "dino_nb-0.1.0-py3-none-any.whl"
    wheel.touch()
    assert install()[-2] == str(wheel)
    (here.parent / "dino_nb").mkdir()
    (here.parent / "dino_nb" / "version.py").touch()
    assert install()[-2] == str(here.parent)
    assert install()[:4] == [sys.executable, "-m", "pip", "install"]


def test_install_cell_that_fails_stops_and_says_so(install):
    with pytest.raises(SystemExit, match="Not installed: pip failed on git"):
        install(code=1)
