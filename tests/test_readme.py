"""The README is read and done: every command and every line of Python in it is run, every link and answer looked at."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import dino_nb
from dino_nb.checkpoints import load, zoo
from dino_nb.cli import main
from tests import readme_image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
# What keeps training short here; the commands themselves are run as they stand.
SHORT = [
    "--epochs",
    "1",
    "--amp",
    "fp32",
    "--options",
    "input_size=(64, 96)",
    "grad_checkpointing=none",
    "num_workers=0",
]


def lines_of(language):
    found = [line.split("  #")[0].strip() for name, block in BLOCKS if name == language for line in block.splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def inline(prefix):
    """Commands in the running text and in tables."""
    return sorted(set(re.findall(rf"`({prefix}[^`]*)`", README)))


@pytest.fixture
def here(tmp_path, monkeypatch, sample_coco):
    """A folder with everything that the README's commands name; zoo names stand for dino-tiny."""
    monkeypatch.chdir(tmp_path)
    dino_nb.make_sample("labels", n_train=8, n_val=4, format="voc")
    shutil.make_archive("my_labels", "zip", "labels")
    shutil.copytree(sample_coco / "val2017", "images")
    for name in ("street.jpg", "drone.jpg"):
        Image.open(next(Path("images").iterdir())).resize((900, 700)).save(name)
    monkeypatch.setattr(zoo, "fetch", lambda name: load.DINO_TINY)


def test_readme_commands_run(here, monkeypatch, capsys):
    commands = [shlex.split(line) for line in lines_of("bash") if line.startswith("dino-nb")]
    assert len(commands) >= 8
    for _, verb, *arguments in commands:
        code = main([verb, *arguments, *(SHORT if verb == "train" else [])])
        assert code == 0, f"dino-nb {verb} {arguments}: {capsys.readouterr().err[-500:]}"
    assert Path("run/checkpoint_best.pth").is_file() and Path("found/predictions.json").is_file()


def test_readme_python_runs(here, monkeypatch):
    model = dino_nb.load_model("dino-tiny", "cpu")
    values = {"image": torch.rand(3, 96, 128)}
    first, second = (block for name, block in BLOCKS if name == "python")
    short = {"epochs": 1, "amp": "fp32", "input_size": (64, 96), "grad_checkpointing": "none", "num_workers": 0}
    train = dino_nb.finetune
    monkeypatch.setattr(dino_nb, "finetune", lambda *args, **options: train(*args, **options, **short))
    exec(first, values)
    monkeypatch.setattr(dino_nb, "load_official", lambda name: model)  # the published file is half a gigabyte
    monkeypatch.setattr(dino_nb, "export_official", lambda model: model.state_dict())
    exec(second, values)
    assert set(values["outputs"]) >= {"pred_logits", "pred_boxes"}


def test_readme_flags_exist(capsys):
    """Commands in the text take files that are not here: their verb and flags must exist."""
    for command in [*inline("dino-nb "), *inline("torchrun ")]:
        words = shlex.split(command)
        verb = words[words.index("dino_nb") + 1] if "dino_nb" in words else words[1]
        if verb == "VERB":
            continue
        assert main([verb, "--help"]) == 0
        text = capsys.readouterr().out
        for flag in re.findall(r"(?<=\s)--?[a-z][\w-]*", command.split("dino_nb")[-1]):
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text.replace("_", "-") + text), f"{command}: {flag}"


def test_readme_make_targets_exist():
    targets = {line.split()[1] for line in lines_of("bash") if line.startswith("make ")}
    assert targets == {"demo", "test", "quick", "test-browser"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M)


def test_readme_names_files_that_are_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:tests|dino_nb|notebooks)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
    for line in lines_of("bash"):
        if " -m pytest " in line:
            assert (ROOT / line.split()[-1]).is_file(), line


def test_readme_map_names_every_room():
    shown = set(re.findall(r"^dino_nb/(\w+) ", README, re.M))
    assert shown == {p.parent.name for p in (ROOT / "dino_nb").glob("*/__init__.py")}


def test_readme_answers_27_questions():
    part = README.split("## When something goes wrong")[1].split("\n## ")[0]
    answers = re.findall(r"^(\d+)\. \*\*(.+?)\*\* (.+)", part, re.M)
    assert [int(number) for number, _, _ in answers] == list(range(1, 28))


def test_readme_quotes_messages_that_exist():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "dino_nb").rglob("*.py"))
    source = re.sub(r'"\s*f?"', "", source)  # a sentence on several lines
    for words in ("holds a training state already", "is not on Google Drive and would be lost", "loss was not finite"):
        assert words in README and words in source, words


def test_readme_image_is_made_by_its_script(tmp_path):
    readme_image.main(tmp_path / "made.jpg")
    assert Image.open(tmp_path / "made.jpg").width == 1600
    assert Image.open(ROOT / ".github" / "detections.jpg").width == 1600
