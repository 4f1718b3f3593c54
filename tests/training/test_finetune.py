"""Fine-tuning from a data set and a checkpoint to files that work."""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import pytest
import torch

import dino_nb
from dino_nb.checkpoints.checkpoint import load_checkpoint
from dino_nb.cli import main
from dino_nb.errors import UserError
from dino_nb.prepare.sample import CLASSES
from dino_nb.presets import PRESETS, TRAIN_PRESETS
from dino_nb.training.finetune import _recipe
from tests.training.tiny_run import CONFIG, MODEL, tiny_run


@pytest.fixture(scope="module")
def scratch(small_sample, tmp_path_factory):
    """A short run from scratch, and all that it prints."""
    return tiny_run(small_sample, tmp_path_factory.mktemp("scratch") / "run", epochs=2, check=True)


def test_finetune_takes_classes_from_the_data_set(scratch):
    model = load_checkpoint(scratch.checkpoint)
    assert model.config.num_classes == len(CLASSES) and model.config.dn_labelbook_size == len(CLASSES)
    assert set(model.class_names) == set(CLASSES) and len(model.category_ids) == len(CLASSES)
    assert model.input_size == CONFIG.input_size


def test_finetune_checkpoints_describe_themselves_and_hold_no_optimiser(scratch):
    for path in (scratch.checkpoint, scratch.last):
        content = torch.load(path, weights_only=True)
        assert {"config", "class_names", "category_ids", "metrics", "version", "input_size"} <= content.keys()
        assert "optimizer" not in content
    assert content["metrics"]["epoch"] == 2 and "AP50" in content["metrics"]
    slim = load_checkpoint(scratch.checkpoint.with_suffix(".safetensors"))
    for name, value in load_checkpoint(scratch.checkpoint).state_dict().items():
        assert torch.equal(value, slim.state_dict()[name])
    detector = dino_nb.load(scratch.checkpoint, device="cpu")
    assert detector.predict(torch.rand(3, 64, 64)) is not None


def test_finetune_leaves_all_results(scratch):
    names = {p.relative_to(scratch.output_dir).as_posix() for p in scratch.output_dir.rglob("*") if p.is_file()}
    assert {
        "checkpoint_best.pth",
        "checkpoint_best.safetensors",
        "checkpoint_last.pth",
        "log.jsonl",
        "curves.png",
        "state_last.pt",
        "state_previous.pt",
        "state_best.pt",
        "evaluation/report.html",
        "evaluation/results.json",
    } <= names
    assert [record["epoch"] for record in scratch.history] == [0, 1, 2]
    assert scratch.report.metrics["AP"] == pytest.approx(scratch.best["AP"], abs=1e-9)


def test_finetune_on_the_same_classes_starts_at_the_checkpoints_score(small_sample, scratch, tmp_path):
    result = tiny_run(small_sample, tmp_path, scratch.checkpoint, epochs=1)
    assert result.history[0]["AP"] == scratch.best["AP"] and result.history[0]["AP50"] == scratch.best["AP50"]


def test_finetune_takes_the_size_from_the_checkpoint(small_sample, scratch, tmp_path, capsys):
    result = tiny_run(
        small_sample,
        tmp_path,
        scratch.checkpoint,
        preset="finetune",
        epochs=1,
        amp="fp32",
        num_workers=0,
        batch_size=3,
    )
    out = capsys.readouterr().out
    assert f"sizes up to {CONFIG.input_size[0]} / {CONFIG.input_size[1]}" in out
    assert "effective batch 3: 3 images per step = " in out and "predicted peak" in out
    assert "learning rate 0.0001" in out and "classes kept from the checkpoint" in out
    assert load_checkpoint(result.checkpoint).input_size == CONFIG.input_size


def test_finetune_takes_a_module_and_options_change_the_network(small_sample, scratch, tmp_path, capsys):
    model = load_checkpoint(scratch.checkpoint)
    result = tiny_run(small_sample, tmp_path, model, model_options={"num_queries": 12}, epochs=1)
    assert load_checkpoint(result.last).config.num_queries == 12
    assert "re-initialised: shape differs" in capsys.readouterr().out


def test_finetune_refuses_a_data_set_with_errors(small_sample, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(small_sample, broken)
    next((broken / "train2017").glob("*.jpg")).write_bytes(b"no image")
    with pytest.raises(UserError, match="nothing was started"):
        tiny_run(broken, tmp_path / "run", check=True)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.pth"))


def test_finetune_refuses_a_data_set_without_annotations_even_unchecked(small_sample, tmp_path):
    empty = tmp_path / "empty"
    shutil.copytree(small_sample, empty)
    file = empty / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    with pytest.raises(UserError, match="no objects to learn"):
        tiny_run(empty, tmp_path / "run")


def test_finetune_refuses_ground_truth_that_does_not_score(small_sample, tmp_path):
    shrunk = tmp_path / "shrunk"
    shutil.copytree(small_sample, shrunk)
    file = shrunk / "annotations" / "instances_val2017.json"
    data = json.loads(file.read_text())
    data["images"] = [{**image, "width": 20, "height": 20} for image in data["images"]]  # most boxes are outside
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match="taken as predictions, score AP50"):
        tiny_run(shrunk, tmp_path / "run")


def test_finetune_takes_data_that_cocos_cap_does_not_score_in_full(small_sample, tmp_path):
    dense = tmp_path / "dense"
    shutil.copytree(small_sample, dense)
    file = dense / "annotations" / "instances_val2017.json"
    data = json.loads(file.read_text())
    image, category = data["images"][0]["id"], data["categories"][0]["id"]
    data["annotations"] = [
        {"id": 25 * row + column + 1, "image_id": image, "category_id": category, "iscrowd": 0, "area": 16}
        | {"bbox": [5 * column, 5 * row, 4, 4]}
        for row in range(17)
        for column in range(25)
    ]
    file.write_text(json.dumps(data))
    assert len(tiny_run(dense, tmp_path / "run", epochs=1).history) == 2


def test_finetune_takes_a_detector(small_sample, scratch, tmp_path):
    result = tiny_run(small_sample, tmp_path, dino_nb.load(scratch.checkpoint, device="cpu"), epochs=1)
    assert result.history[0]["AP"] == scratch.best["AP"]


def test_finetune_answers_misspelt_parameters(small_sample):
    with pytest.raises(UserError, match=r"finetune has no parameter 'ouput_dir'. Did you mean 'output_dir'"):
        dino_nb.finetune(small_sample, None, ouput_dir="run")
    with pytest.raises(UserError, match="Did you mean 'warmup_steps'"):
        dino_nb.finetune(small_sample, None, warmup_stesp=3)
    with pytest.raises(UserError, match="max_hours must be between 0 and 10,000, not -1"):
        dino_nb.finetune(small_sample, None, max_hours=-1)


def test_finetune_names_its_folder_after_the_network(small_sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = tiny_run(small_sample, None, "dino-tiny", epochs=1, max_hours=0)
    assert result.output_dir == Path("logs/DINO/dino-tiny") and result.last.is_file()


def test_small_recipe_keeps_the_first_stages_of_imagenet(small_sample, tmp_path, lite0_weights):
    from safetensors.torch import load_file

    given = load_file(lite0_weights)
    options = {"epochs": 1, "input_size": (64, 107), "num_workers": 0, "warmup_steps": 0, "model_options": None}
    result = tiny_run(small_sample, tmp_path / "run", preset="small", backbone_weights=lite0_weights, **options)
    body = load_checkpoint(result.last).backbone.body.state_dict()
    assert torch.equal(body["conv_stem.weight"], given["conv_stem.weight"])
    assert torch.equal(body["blocks.1.0.conv_dw.weight"], given["blocks.1.0.conv_dw.weight"])
    assert not torch.equal(body["blocks.2.0.conv_dw.weight"], given["blocks.2.0.conv_dw.weight"])


def test_backbone_weights_from_file_and_folder(small_sample, tmp_path):
    import timm
    from safetensors.torch import save_file

    folder = tmp_path / "weights"
    folder.mkdir()
    weights = timm.create_model(MODEL["backbone"], pretrained=False).state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "backbone.safetensors")
    result = tiny_run(small_sample, tmp_path / "run", backbone_weights=folder, epochs=1, lr=0.0, lr_backbone=0.0)
    loaded = load_checkpoint(result.last).backbone.body.state_dict()
    name = next(k for k in loaded if k.endswith("conv_stem.weight"))
    torch.testing.assert_close(loaded[name], weights[name.removeprefix("body.")])
    with pytest.raises(UserError, match="should hold one file"):
        tiny_run(small_sample, tmp_path / "other", backbone_weights=tmp_path)
    with pytest.raises(UserError, match="there is no file"):
        tiny_run(small_sample, tmp_path / "other", backbone_weights=tmp_path / "missing.pth")


def test_finetune_copies_states_and_results_to_drive(small_sample, tmp_path):
    drive = tmp_path / "drive"
    tiny_run(small_sample, tmp_path / "run", epochs=1, drive_dir=drive)
    names = {p.name for p in drive.iterdir()}
    assert {"state_last.pt", "checkpoint_best.pth", "checkpoint_best.safetensors", "log.jsonl", "curves.png"} <= names
    shutil.rmtree(tmp_path / "run")
    again = tiny_run(small_sample, tmp_path / "run", epochs=1, drive_dir=drive, resume="auto")
    assert again.stopped == "finished" and len(again.history) == 2


def test_train_command_trains_and_says_so_by_its_exit_code(small_sample, tmp_path, capsys):
    options = [f"{key}={value}" for key, value in MODEL.items()]
    command = ["train", str(small_sample), "--preset", "tiny", "--no_pretrained_backbone", "--epochs", "1"]
    shared = [
        "--batch_size",
        "3",
        "--output_dir",
        str(tmp_path / "run"),
        "--options",
        "size=64",
        "max_size=107",
        *options,
    ]
    assert main([*command, *shared]) == 0
    assert (tmp_path / "run" / "checkpoint_best.pth").exists()
    assert main([*command, *shared]) == 1
    assert "holds a training state already" in capsys.readouterr().err
    fine = [
        "train",
        "--coco_path",
        str(small_sample),
        "--pretrain_model_path",
        str(tmp_path / "run/checkpoint_best.pth"),
    ]
    fine += [
        "--finetune_ignore",
        "label_enc.weight",
        "class_embed",
        "--preset",
        "tiny",
        "--epochs",
        "1",
        "--max-hours",
        "0",
    ]
    assert main([*fine, "--output_dir", str(tmp_path / "fine"), "--amp", "fp32", "--num_workers", "0"]) == 0
    assert "re-initialised: --finetune_ignore" in capsys.readouterr().out
    assert main([*fine, "--output_dir", str(tmp_path / "fine2"), "--finetune_ignore", "clas_embed"]) == 1
    assert "matches no tensor" in capsys.readouterr().err
    assert main(["train"]) == 1


def test_train_command_leaves_the_recipe_to_finetune(monkeypatch):
    """With ``-c`` the network is named, and the published 12 epochs are the default even from a checkpoint."""
    given = {}
    ended = types.SimpleNamespace(stopped="finished")
    monkeypatch.setattr("dino_nb.cli.train.finetune", lambda *_, **options: given.update(options) or ended)
    assert main(["train", "cocodir", "-c", "config/DINO/DINO_4scale_swin.py"]) == 0
    assert given["preset"] is None and given["model"] == "DINO_4scale_swin"
    tiny, published = (types.SimpleNamespace(config=PRESETS[name]) for name in ("dino-tiny", "DINO_5scale"))
    assert _recipe(None, tiny, {"model": "DINO_4scale_swin"}).epochs == 12
    assert _recipe(None, None, {"model": "DINO_4scale_swin"}).model == "DINO_4scale_swin"
    assert _recipe(None, published, {}) == TRAIN_PRESETS["finetune"]
    assert _recipe(None, tiny, {}) == dataclasses.replace(TRAIN_PRESETS["tiny-finetune"], input_size=())
    assert _recipe(None, None, {}) == TRAIN_PRESETS["4scale-r50-12ep"]
    with pytest.raises(UserError, match="no configuration"):
        _recipe(None, tiny, {"model": "DINO_6scale"})
