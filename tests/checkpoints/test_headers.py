"""Checkpoint files that are damaged, or made to do harm: each is a sentence that names the file."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

import dino_nb
from dino_nb.checkpoints.checkpoint import load_checkpoint, save_checkpoint, store_thresholds
from dino_nb.checkpoints.load import DINO_TINY, as_model, export_official
from dino_nb.config import ModelConfig
from dino_nb.errors import UserError
from dino_nb.torch_file import read_torch_file


@pytest.fixture(scope="module")
def tiny():
    """The content of a checkpoint of ours."""
    content = read_torch_file(DINO_TINY)
    return {**json.loads(content["metadata"]["dino_nb"]), "model": content["model"]}


def config(**changes):
    return lambda content: {"config": {**content["config"], **changes}}


def without(*keys):
    return lambda content: dict.fromkeys(keys)


def weights(**changes):
    return lambda content: {"model": {**content["model"], **{k.replace("__", "."): v for k, v in changes.items()}}}


HEADERS = {
    "no config": without("config"),
    "config of text": lambda content: {"config": "resnet50"},
    "config of a list": lambda content: {"config": [1, 2]},
    "no heads": config(nheads=0),
    "negative heads": config(nheads=-4),
    "heads of text": config(nheads="four"),
    "heads as a fraction": config(nheads=4.5),
    "heads as a list": config(nheads=[4]),
    "heads as True": config(nheads=True),
    "no queries": config(num_queries=0),
    "queries without end": config(num_queries=10**12),
    "an integer of 5,000 digits": config(num_queries=int("9" * 4000)),
    "a width without end": config(hidden_dim=1 << 40),
    "a width that heads do not divide": config(hidden_dim=65),
    "layers without end": config(enc_layers=10**9),
    "many layers": config(enc_layers=64, dim_feedforward=65_536, hidden_dim=4096),
    "a wide feed-forward": config(dim_feedforward=65_536),
    "levels without end": config(num_feature_levels=10**6),
    "stages that are none": config(return_interm_indices=[7]),
    "stages of text": config(return_interm_indices="123"),
    "stages of lists": config(return_interm_indices=[[1]]),
    "no stages": config(return_interm_indices=[]),
    "classes without end": config(num_classes=10**9, dn_labelbook_size=10**9),
    "no classes": config(num_classes=0),
    "a label book that is too small": config(dn_labelbook_size=1),
    "a temperature of nothing": config(pe_temperature=0),
    "a temperature that is not a number": config(pe_temperature=float("nan")),
    "dropout without end": config(dropout=float("inf")),
    "a hub's backbone": config(backbone="hf-hub:timm/resnet50.a1_in1k"),
    "a hub's backbone, spelt otherwise": config(backbone="hf_hub:timm/resnet50.a1_in1k"),
    "a folder's backbone": config(backbone="local-dir:/etc"),
    "a path as backbone": config(backbone="../../etc/passwd"),
    "a backbone that is none": config(backbone="resnet5000"),
    "a backbone of no name": config(backbone=""),
    "a long backbone": config(backbone="a" * 100_000),
    "a backbone of numbers": config(backbone=50),
    "another backbone": config(backbone="resnet50"),
    "a huge backbone": config(backbone="convnext_xlarge_22k"),
    "a backbone without maps": config(backbone="mixer_b16_224"),
    "unknown settings": config(warp_drive=9),
    "settings that are no names": lambda content: {"config": {1: 2}},
    "no weights": without("model"),
    "weights of a list": lambda content: {"model": [1]},
    "weights of text": lambda content: {"model": {"a": "b"}},
    "weights that are whole numbers": lambda content: {"model": {k: v.long() for k, v in content["model"].items()}},
    "one weight": lambda content: {"model": {"level_embed": content["model"]["level_embed"]}},
    "a weight of another shape": weights(level_embed=torch.zeros(7)),
    "a weight too many": weights(strange__weight=torch.zeros(7)),
    "a weight that is a number": weights(level_embed=3.0),
    "a weight larger than its data": weights(level_embed=torch.zeros(1).expand(2, 64)),
    "a sparse weight": weights(level_embed=torch.zeros(2, 64).to_sparse()),
    "a weight without data": weights(level_embed=torch.zeros(2, 64, device="meta")),
    "names of numbers": lambda content: {"class_names": [1, 2, 3, 4, 5]},
    "too few names": lambda content: {"class_names": ["a"]},
    "names that are a text": lambda content: {"class_names": "abcde"},
    "too few ids": lambda content: {"category_ids": [1]},
    "ids of lists": lambda content: {"category_ids": [[1]] * 5},
    "a size without end": lambda content: {"input_size": [10**9, 10**9]},
    "a size of nothing": lambda content: {"input_size": [0, 0]},
    "a size of one": lambda content: {"input_size": [800]},
    "a size of text": lambda content: {"input_size": "800"},
}


@pytest.mark.parametrize("case", HEADERS)
def test_header_that_is_malformed_is_a_sentence_with_the_file(case, tiny, tmp_path):
    path = tmp_path / "strange.pth"
    content = {**tiny, **HEADERS[case](tiny)}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 30_000


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", "null", '"x"', "[" * 100_000, '{"config": 3}', '{"format": "other"}', "\x00", "{}"]
)
def test_header_of_safetensors_that_is_malformed_is_a_sentence_with_the_file(text, tiny, tmp_path):
    path = tmp_path / "strange.safetensors"
    path.write_bytes(save(tiny["model"], metadata={"dino_nb": text}))
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def published():
    small = ModelConfig(hidden_dim=32, enc_layers=1, dec_layers=2, dim_feedforward=32, num_queries=20)
    with torch.device("meta"):
        state = export_official(dino_nb.build_model(small))
    return {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in state.items()}


@pytest.mark.parametrize(
    "args, changes",
    [
        ({"nheads": 0}, {}),
        ({"nheads": -1}, {}),
        ({"nheads": "8"}, {}),
        ({"nheads": 10**9}, {}),
        ({"num_select": "many"}, {}),
        ({"dn_number": -5}, {}),
        ({"pe_temperatureH": "hot"}, {}),
        ({"backbone": "hf-hub:a/b"}, {"backbone.0.body.layer1.0.conv3.weight": None}),
        ({}, {"transformer.level_embed": torch.zeros(3)}),
        ({}, {"transformer.level_embed": torch.zeros(0, 0)}),
        ({}, {"transformer.level_embed": torch.zeros(4, 0)}),
        ({}, {"transformer.level_embed": torch.zeros(())}),
        ({}, {"transformer.level_embed": torch.zeros(1).expand(4, 4096)}),
        ({}, {"input_proj.0.0.weight": torch.zeros(())}),
        ({}, {"label_enc.weight": torch.zeros(())}),
        ({}, {"label_enc.weight": torch.zeros(1, 32)}),
        ({}, {"transformer.tgt_embed.weight": torch.zeros(0, 32)}),
        ({}, {"class_embed.0.weight": torch.zeros(0)}),
        ({}, {"label_enc.weight": torch.zeros(92, 32).to_sparse()}),
        ({}, {"label_enc.weight": torch.zeros(92, 32, device="meta")}),
        ({}, {"transformer.encoder.layers.0.linear1.weight": torch.zeros(1).expand(60_000, 32)}),
    ],
)
def test_published_file_that_is_malformed_is_a_sentence_with_the_file(args, changes, published, tmp_path):
    path = tmp_path / "checkpoint0011.pth"
    state = {name: tensor for name, tensor in {**published, **changes}.items() if tensor is not None}
    torch.save({"model": state, "args": argparse.Namespace(**args)}, path)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_file_of_another_kind_is_named(tmp_path):
    for name, content in {
        "state_last.pt": {"format": "training state", "step": 3},
        "list.pth": [1],
        "text.pth": "x",
    }.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match=name):
            dino_nb.load(tmp_path / name, "cpu")


def test_folder_of_a_run_means_its_best_checkpoint(tiny, tmp_path):
    model = dino_nb.load_model("dino-tiny", "cpu")
    for name in ("checkpoint_last.pth", "checkpoint_best.pth"):
        save_checkpoint(tmp_path / name, model, which=name)
    torch.save({}, tmp_path / "state_last.pt")
    assert dino_nb.load_model(tmp_path, "cpu").class_names == model.class_names
    (tmp_path / "checkpoint_best.pth").rename(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"is a folder: give the checkpoint file in it: checkpoint_last\.pth, other"):
        dino_nb.load_model(tmp_path, "cpu")


@pytest.mark.parametrize("name", [" dino-tiny ", '"dino-tiny"', "dino-tiny\n"])
def test_names_with_stray_blanks_and_quotes_are_understood(name):
    assert dino_nb.load_model(name, "cpu").config.backbone == "test_convnext"


@pytest.mark.parametrize("name", ["a" * 5000, "dino\x00tiny", "x" * 33, "my_training_images_of_last_summer"])
def test_names_that_are_nothing_are_one_sentence(name, home):
    with pytest.raises(UserError, match="there is no"):
        dino_nb.load_model(name, "cpu")


def test_model_is_found_in_whatever_a_user_has(published):
    detector = dino_nb.load("dino-tiny", "cpu")
    assert as_model(detector) is as_model(detector.model) is detector.model
    assert as_model("dino-tiny", "cpu").config == detector.model.config
    official = dino_nb.load_official(dict(published))
    for source in (official, dino_nb.Detector(official, "cpu")):
        assert set(dino_nb.export_official(source)) == set(published)
    assert dino_nb.load_official(dino_nb.Detector(official, "cpu")) is official
    with pytest.raises(UserError, match="int is not a model: give a checkpoint's name or path"):
        dino_nb.export_official(3)
    with pytest.raises(UserError, match="a checkpoint of this package, without published names: use"):
        dino_nb.load_official(DINO_TINY)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_thresholds_are_stored_beside_unchanged_weights(ending, tmp_path):
    model = dino_nb.load_model("dino-tiny", "cpu")
    path = save_checkpoint(tmp_path / f"run{ending}", model, metrics={"AP": 0.5})
    assert dino_nb.load_model(path, "cpu").thresholds is None
    thresholds = {"overall": 0.4, "per_class": {"red circle": 0.5}}
    store_thresholds(path, thresholds)
    again = load_checkpoint(path)
    assert again.thresholds == thresholds and again.class_names == model.class_names
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters()))
    content = read_torch_file(path)
    description = content if ending == ".pth" else json.loads(content["metadata"]["dino_nb"])
    assert description["metrics"] == {"AP": 0.5}
    assert load_checkpoint(save_checkpoint(tmp_path / "copy.pth", again)).thresholds == thresholds


def test_thresholds_have_no_place_in_a_published_file(published, tmp_path):
    torch.save({"model": published}, tmp_path / "checkpoint0011.pth")
    before = (tmp_path / "checkpoint0011.pth").read_bytes()
    with pytest.raises(UserError, match=r"checkpoint0011\.pth has the published format"):
        store_thresholds(tmp_path / "checkpoint0011.pth", {"overall": 0.4})
    assert (tmp_path / "checkpoint0011.pth").read_bytes() == before


class Evil:
    def __reduce__(self):
        return os.system, ("touch code_was_run",)


def test_weights_of_a_backbone_are_read_without_running_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"conv1.weight": torch.zeros(3)}, "hook": Evil()}, "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth"):
        dino_nb.build_model(dataclasses.replace(ModelConfig(), enc_layers=1, dec_layers=1), "evil.pth")
    assert not os.path.exists("code_was_run")  # noqa: PTH110


def test_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    code = "import sys, dino_nb\ntry:\n dino_nb.load_model(sys.argv[1], 'cpu')\nexcept dino_nb.UserError as e: print(e)"
    command = [sys.executable, "-c", code, str(tmp_path / "pipe.pth")]
    assert "there is no file" in subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("name", ["dino-tiny"])
def test_loading_warns_of_nothing_at_all(name, recwarn):
    dino_nb.load(name, "cpu")
    assert [str(warning.message) for warning in recwarn] == []
