"""The notebooks with other settings than those that they come with: a user's own data, checkpoints and choices.

Their scripts are run, in which the settings of the form cell are replaced.
"""

import re
import shutil
from pathlib import Path

import pytest

from dino_nb.errors import UserError
from dino_nb.prepare.archive import restore
from dino_nb.prepare.sample import make_sample

FOLDER = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(name, SETTING=value, ...)`` runs a notebook in an empty folder and returns its variables."""
    monkeypatch.chdir(tmp_path)

    def with_settings(name, **settings):
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        for key, value in settings.items():
            text, found = re.subn(rf"^{key} = .*$", lambda _, k=key, v=value: f"{k} = {v!r}", text, flags=re.M)
            assert found == 1, f"{name} has no setting {key}"
        variables = {"__name__": name}
        exec(compile(text, name, "exec"), variables)
        return variables

    return with_settings


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A COCODIR of somebody's own."""
    return make_sample(tmp_path_factory.mktemp("own") / "coco", n_train=8, n_val=4, seed=3)


def test_a_zip_of_yolo_labels_is_repaired_and_restored(run):
    make_sample("mine", n_train=8, n_val=4, format="yolo")
    label = next(Path("mine").rglob("labels/**/*.txt"))
    label.write_text(label.read_text() + "0 0.5 0.5 0.0 0.1\n")  # a box of no width
    shutil.make_archive("mine", "zip", "mine")
    seen = run("create_dataset", SOURCE="mine.zip", COCODIR="made", FIXED_COPY="repaired", KEEP_AS="kept.zip", SEED=1)
    assert seen["report"].num_dropped == 1 and seen["checked"].ok
    restore("kept.zip", "again")
    assert sorted(p.name for p in Path("again/train2017").iterdir()) == sorted(
        p.name for p in Path("repaired/train2017").iterdir()
    )


def test_a_data_set_that_stands_there_is_not_overwritten_unasked(run):
    make_sample("voc", n_train=4, n_val=2, format="voc")
    run("create_dataset", SOURCE="voc", COCODIR="made", KEEP_AS="")
    with pytest.raises(UserError, match="made"):
        run("create_dataset", SOURCE="voc", COCODIR="made", KEEP_AS="")
    run("create_dataset", SOURCE="voc", COCODIR="made", KEEP_AS="", OVERWRITE=True)


def test_scores_of_some_training_pictures(run, own):
    seen = run("evaluate", COCODIR=str(own), SPLIT="train", LIMIT=3, AMP=True, THRESHOLD=0.5, OUTPUT_DIR="out")
    assert len(seen["result"].image_ids) == 3 and Path("out/results.json").exists()


def test_training_goes_on_and_its_checkpoint_is_shown(run, own):
    settings = {"COCODIR": str(own), "FROZEN": "backbone", "BATCH_SIZE": 4, "OUTPUT_DIR": "run", "DRIVE_DIR": "drive"}
    first = run("fine-tune", **settings, EPOCHS=1)["result"]
    more = run("fine-tune", **settings, EPOCHS=2)["result"]
    assert [r["epoch"] for r in first.history] == [0, 1] and [r["epoch"] for r in more.history] == [0, 1, 2]
    assert more.history[:2] == first.history and Path("drive/checkpoint_best.pth").exists()
    anew = run("fine-tune", **settings | {"DRIVE_DIR": ""}, EPOCHS=1, RESUME=False, LEARNING_RATE=1e-5)["result"]
    assert [r["epoch"] for r in anew.history] == [0, 1]
    seen = run("inference_and_visualization", CHECKPOINT="run/checkpoint_best.pth", COCODIR=str(own), SLICE_SIZE=120)
    assert len(seen["entries"]) == 4 and seen["comparison"] is not None


def test_pictures_of_ones_own_and_a_wrong_path(run, own):
    seen = run("inference_and_visualization", PICTURES=str(own / "train2017" / "*.jpg"), THRESHOLD=0.6)
    assert len(seen["entries"]) == 8 and seen["comparison"] is None
    with pytest.raises(UserError, match="valpictures"):
        run("inference_and_visualization", PICTURES="valpictures")
    with pytest.raises(UserError, match="Did you mean"):
        run("inference_and_visualization", CHECKPOINT="dino-tinny")
