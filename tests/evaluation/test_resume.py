"""An evaluation that was interrupted goes on where it was, and says so if it cannot."""

import json
import shutil

import pytest
import torch

import dino_nb
from dino_nb.cli import main
from dino_nb.errors import UserError
from dino_nb.prepare.sample import make_sample

COUNT = 6


class Interrupted(Exception):
    pass


class Failing(torch.nn.Module):
    """``model``, which is interrupted after some images."""

    def __init__(self, model, after):
        super().__init__()
        self.inner, self.left, self.seen = model, after, 0
        for name in ("config", "class_names", "category_ids", "input_size"):
            setattr(self, name, getattr(model, name))

    def forward(self, images):
        if self.seen == self.left:
            raise Interrupted
        self.seen += len(images)
        return self.inner(images)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("data") / "sample", n_train=2, n_val=COUNT)


@pytest.fixture(scope="module")
def tiny():
    return dino_nb.load("dino-tiny", "cpu").model


def run(sample, model, folder, **options):
    return dino_nb.evaluate(sample, model, output_dir=folder, check=False, progress=False, **options)


def interrupt(sample, tiny, folder, after=4):
    with pytest.raises(Interrupted):
        run(sample, Failing(tiny, after), folder)
    return next(folder.glob("results.part*.jsonl"))


def test_resume_goes_on_where_it_was(sample, tiny, tmp_path):
    whole = run(sample, Failing(tiny, COUNT), tmp_path / "whole")
    file = interrupt(sample, tiny, tmp_path / "part")
    assert len(file.read_text().split("\n")) == 1 + 1 + 4  # settings and four images
    file.write_text(file.read_text()[:-20])  # the last line was cut off
    model = Failing(tiny, COUNT)
    result = run(sample, model, tmp_path / "part", resume=True)
    assert model.seen == COUNT - 3
    assert result.results == whole.results and result.metrics == whole.metrics
    assert json.loads((tmp_path / "part/results.json").read_text()) == whole.results
    assert not list(tmp_path.glob("*/results.part*"))


def test_evaluate_without_resume_starts_again(sample, tiny, tmp_path):
    interrupt(sample, tiny, tmp_path / "part")
    model = Failing(tiny, COUNT)
    run(sample, model, tmp_path / "part")
    assert model.seen == COUNT


def test_resume_refuses_other_settings(sample, tiny, tmp_path):
    interrupt(sample, tiny, tmp_path / "part")
    with pytest.raises(UserError, match="cannot be resumed: it was begun with other input_size, batch_size"):
        run(sample, Failing(tiny, COUNT), tmp_path / "part", resume=True, batch_size=2, input_size=(64, 96))
    other = dino_nb.load("dino-tiny", "cpu").model
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    with pytest.raises(UserError, match="other checkpoint"):
        run(sample, Failing(other, COUNT), tmp_path / "part", resume=True)
    with pytest.raises(UserError, match="resume needs the output_dir"):
        run(sample, tiny, None, resume=True)


def test_resume_by_the_command_line(sample, tiny, tmp_path, capsys):
    options = [str(sample), "dino-tiny", "--device", "cpu", "--no_check", "-o", str(tmp_path / "out")]
    assert main(["eval", *options, "--resume"]) == 0
    first = json.loads((tmp_path / "out/results.json").read_text())
    shutil.rmtree(tmp_path / "out")
    assert main(["eval", "--resume", *options]) == 0  # what follows --resume is the data set, not a checkpoint
    assert json.loads((tmp_path / "out/results.json").read_text()) == first
    assert "6 images" in capsys.readouterr().out
