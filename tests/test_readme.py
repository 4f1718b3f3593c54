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
from dino_nb.cli import VERBS, main
from dino_nb.options import parse_options
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


@pytest.fixture
def helps(capsys):
    """``helps(verb)``: the help of a verb, each flag in both of its spellings."""

    def text(verb):
        assert main([verb, "--help"]) == 0
        told = capsys.readouterr().out
        return told + told.replace("-", "_").replace("__", "--")

    return text


def test_readme_commands_in_text_and_tables_are_known(helps):
    """They take files that are not here: their verb and flags must exist."""
    commands = [*inline("dino-nb "), *inline("torchrun "), *inline("predict "), *inline("convert "), *inline("eval")]
    assert len(commands) > 15
    for command in commands:
        words = shlex.split(command)
        words = words[words.index("dino_nb") :] if "dino_nb" in words else words
        verb, *rest = words[1:] if words[0] in ("dino-nb", "dino_nb") else words
        if verb == "VERB":
            continue
        assert verb in VERBS, command
        for flag in [word for word in rest if word.startswith("-")]:
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", helps(verb)), f"{command}: {flag}"


def test_readme_flags_and_options_in_text_are_known(helps):
    """A flag without its command, as in "try ``--augment light``", is one of some verb; ``--options`` are settings."""
    known = "\n".join(helps(verb) for verb in VERBS)
    ours = README.split("## If you come from")[0] + README.split("## Formats")[1]
    found = sorted(set(re.findall(r"`(--[a-z][^`]*)`", ours)))
    assert len(found) > 12
    for text in found:
        if text.startswith("--shm-size"):
            continue  # docker's
        flag, *values = shlex.split(text)
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", known), text
        if flag == "--options" and "..." not in text:
            assert parse_options(values), text
    for text in re.findall(r"`(\w+=[\w.()]+)`", ours):
        assert text.startswith("DINO_NB_") or parse_options([text]), text


def test_readme_names_of_python_fields_and_variables_exist():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "dino_nb").rglob("*.py"))
    source += (ROOT / "setup.py").read_text(encoding="utf-8")
    notebooks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.py"))
    for name in re.findall(r"`([A-Z][A-Z_]{4,})\b", README):
        form = re.search(rf"^{name} = ", notebooks, re.M)
        assert form or name in source, name
    for path in re.findall(r"\bdino_nb\.([\w.]+)\(", README):
        value = dino_nb
        for part in path.split("."):
            value = getattr(value, part)


def test_readme_numbers_are_measured():
    measured = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    table = README.split("## Results")[1].split("No GPU")[0]
    numbers = set(re.findall(r"(?<![\w.])\d+\.\d+(?!\w)", table))
    assert len(numbers) > 8
    assert [number for number in numbers if number not in measured] == []


def test_readme_make_targets_exist():
    targets = {line.split()[1] for line in [*lines_of("bash"), *inline("make ")] if line.startswith("make ")}
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
