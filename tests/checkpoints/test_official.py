import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import dino_nb
from dino_nb.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dino_nb.checkpoints.official import read_config
from dino_nb.config import ModelConfig
from dino_nb.errors import UserError
from dino_nb.models.backbone import PUBLISHED
from dino_nb.presets import PRESETS
from tests.golden import recipe

KEYS = Path(recipe.__file__).parent / "keys"
# the published names with a backbone that is built in a moment
SMALL = ModelConfig(
    backbone="resnet50", hidden_dim=32, nheads=8, enc_layers=1, dec_layers=2, dim_feedforward=32, num_queries=20
)


@pytest.fixture(scope="module")
def published():
    """A published state dict of a small transformer on a real ResNet-50."""
    torch.manual_seed(0)
    return dino_nb.export_official(dino_nb.build_model(SMALL))


def assert_identical(a, b):
    assert set(a) == set(b)
    assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("name", ["dino_4scale_r50", "dino_5scale_r50", "dino_4scale_swin_l"])
def test_names_and_shapes_are_the_published_ones(name):
    shapes = {k: tuple(v) for k, v in json.loads((KEYS / f"{name}.json").read_text()).items()}
    with torch.device("meta"):
        config = read_config({k: torch.empty(v) for k, v in shapes.items()})
        exported = dino_nb.export_official(dino_nb.build_model(config))
    floating = {k: tuple(v.shape) for k, v in exported.items() if v.is_floating_point()}
    assert floating == shapes


def test_load_then_export_is_the_identity(published):
    assert_identical(dino_nb.export_official(dino_nb.load_official(published)), published)


@pytest.mark.parametrize("backbone", ["swin_T_224_1k", "resnet101"])
@pytest.mark.parametrize("indices", [True, False])
def test_identity_for_other_backbones(backbone, indices):
    state = dino_nb.export_official(dino_nb.build_model(dataclasses.replace(SMALL, backbone=backbone)))
    if not indices:
        state = {k: v for k, v in state.items() if not k.endswith("relative_position_index")}
    loaded = dino_nb.load_official(state)
    assert loaded.config.backbone == backbone
    assert_identical(dino_nb.export_official(loaded), state)


@pytest.mark.parametrize("with_first_norm", [True, False])
def test_convnext_names(with_first_norm):
    config = dataclasses.replace(SMALL, backbone="convnext_xlarge_22k")
    with torch.device("meta"):
        state = dino_nb.export_official(dino_nb.build_model(config))
        assert state["backbone.0.downsample_layers.0.0.weight"].shape == (256, 3, 4, 4)
        assert state["backbone.0.downsample_layers.3.1.weight"].shape == (2048, 1024, 2, 2)
        assert state["backbone.0.stages.2.26.pwconv1.weight"].shape == (4096, 1024)
        assert state["backbone.0.stages.2.26.dwconv.weight"].shape == (1024, 1, 7, 7)
        assert state["backbone.0.stages.2.26.gamma"].shape == (1024,)
        assert state["backbone.0.norm3.weight"].shape == (2048,)
        assert read_config(state).backbone == "convnext_xlarge_22k"
        assert len([k for k in state if k.startswith("backbone.0.norm")]) == 8
        if not with_first_norm:
            state = {k: v for k, v in state.items() if not k.startswith("backbone.0.norm0.")}


def test_file_with_prefix_and_args(published, tmp_path):
    path = tmp_path / "checkpoint0011_4scale.pth"
    args = argparse.Namespace(num_select=123, dn_number=50, device="cuda", lr=1e-4, best=np.float64(0.49))
    torch.save({"model": {f"module.{k}": v for k, v in published.items()}, "args": args, "epoch": 11}, path)
    model = dino_nb.load_official(path)
    assert model.config.num_select == 123 and model.config.dn_number == 50
    assert not model.training
    assert model.class_names[18] == "dog" and model.category_ids[12] is None
    assert load_checkpoint(path).config == model.config


def test_the_averaged_weights_are_loaded_when_asked_for(published):
    averaged = {k: v + 1 if v.is_floating_point() else v for k, v in published.items()}
    content = {"model": published, "ema_model": averaged}
    assert torch.equal(
        dino_nb.load_official(content, "ema_model").level_embed, dino_nb.load_official(content).level_embed + 1
    )
    with pytest.raises(UserError, match="no averaged weights"):
        dino_nb.load_official({"model": published}, "ema_model")


def test_every_fault_is_reported_in_one_message(published):
    broken = dict(published)
    del broken["transformer.enc_output.weight"]
    broken["transformer.decoder.norm.bias"] = torch.zeros(7)
    broken["strange.weight"] = torch.zeros(1)
    broken["class_embed.1.bias"] = broken["class_embed.1.bias"] + 1
    with pytest.raises(UserError) as caught:
        dino_nb.load_official(broken)
    text = str(caught.value)
    assert "1 missing: transformer.enc_output.weight" in text
    assert "1 unexpected: strange.weight" in text
    assert "transformer.decoder.norm.bias is (7,), not (32,)" in text
    assert "class_embed.1.bias" in text and "share" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"fc.weight": torch.zeros(2)}}, "not a DINO checkpoint: it has no 'transformer.level_embed'"),
        ({"epoch": 3}, "holds no weights"),
    ],
)
def test_other_files_are_named_for_what_they_are(content, message):
    with pytest.raises(UserError, match=message):
        dino_nb.load_official(content)


def test_broken_files(published, tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save({"model": published}, whole)
    cases = {
        "cut.pth": whole.read_bytes()[:100_000],
        "empty.pth": b"",
        "page.pth": b"<!DOCTYPE html><html>quota exceeded",
        "text.pth": b"hello",
        "cut.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="no checkpoint file"):
        load_checkpoint(tmp_path / "absent.pth")


class Evil:
    def __reduce__(self):
        return print, ("code was run",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"model": {}, "args": Evil()}, path)
    with pytest.raises(UserError, match="could run"):
        load_checkpoint(path)
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_our_files_describe_themselves(tmp_path, suffix):
    model = dino_nb.build_model(PRESETS["dino-tiny"])
    model.class_names = ["a", "ä <b>"] + [None] * 89
    model.category_ids = list(range(91))
    model.input_size = (128, 213)
    path = save_checkpoint(tmp_path / f"ours{suffix}", model, metrics={"AP": 0.5})
    again = load_checkpoint(path)
    assert again.config == model.config and again.class_names == model.class_names
    assert again.category_ids == model.category_ids and again.input_size == (128, 213)
    assert_identical(dict(again.state_dict()), dict(model.state_dict()))
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no temporary file is left"


def test_half_size_files_come_back_as_float32(tmp_path):
    model = dino_nb.build_model(PRESETS["dino-tiny"])
    path = save_checkpoint(tmp_path / "half.safetensors", model.half())
    assert next(load_checkpoint(path).parameters()).dtype == torch.float32


def test_settings_of_a_later_version_are_named(tmp_path):
    path = tmp_path / "later.pth"
    save_checkpoint(path, dino_nb.build_model(PRESETS["dino-tiny"]))
    content = torch.load(path)
    content["config"]["warp_drive"] = 9
    torch.save(content, path)
    with pytest.raises(UserError, match=r"warp_drive.*upgrade"):
        load_checkpoint(path)


def test_models_trained_here_go_back_to_the_published_names():
    model = dino_nb.build_model(dataclasses.replace(SMALL, num_classes=4, dn_labelbook_size=4))
    state = dino_nb.export_official(model)
    again = dino_nb.load_official(state)
    assert again.config.num_classes == 4 and again.class_names is None
    image = torch.rand(3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(model.eval()([image])["pred_boxes"], again([image])["pred_boxes"])


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("backbone", list(PUBLISHED))
def test_every_published_backbone_is_recognised_by_names_and_shapes(backbone, levels):
    stages = tuple(range(5 - levels, 4))
    config = dataclasses.replace(SMALL, backbone=backbone, num_feature_levels=levels, return_interm_indices=stages)
    with torch.device("meta"):
        model = dino_nb.build_model(config)
        state = dino_nb.export_official(model)
    found = read_config(state)
    assert (found.backbone, found.num_feature_levels, found.return_interm_indices) == (backbone, levels, stages)
    assert "backbone.0.norm3.weight" in state or backbone.startswith("resnet")


@pytest.mark.parametrize(
    "project, key, names",
    [
        ("mmdetection", "state_dict", ("level_embed", "bbox_head.cls_branches.0.weight", "neck.convs.0.conv.weight")),
        ("detrex", "model", ("transformer.level_embeds", "class_embed.0.weight", "neck.convs.0.conv.weight")),
    ],
)
def test_load_official_names_the_project_whose_dino_is_another(project, key, names, tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save({key: {name: torch.zeros(4, 4) for name in names}}, path)
    with pytest.raises(UserError, match=f"theirs.pth is a DINO of {project}. Each .* heads of its own"):
        load_checkpoint(path)
