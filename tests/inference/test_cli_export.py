import pytest
import torch

import dino_nb
from dino_nb.checkpoints.checkpoint import save_checkpoint
from dino_nb.cli import main
from dino_nb.config import ModelConfig


@pytest.fixture
def original():
    return dino_nb.load("dino-tiny", "cpu")


def same_weights(a, b, **tolerance):
    for (name, want), (_, got) in zip(sorted(a.state_dict().items()), sorted(b.state_dict().items())):
        torch.testing.assert_close(got, want, msg=name, **tolerance)


@pytest.mark.parametrize("name", ["ours.safetensors", "slim.pth", "slim.safetensors"])
def test_our_formats_keep_everything(tmp_path, original, name, capsys):
    slim = ["--slim"] if name.startswith("slim") else []
    assert main(["export", "dino-tiny", "-o", str(tmp_path / name), *slim]) == 0
    assert name in capsys.readouterr().out
    loaded = dino_nb.load(tmp_path / name, "cpu")
    assert loaded.class_names == original.class_names and loaded.input_size == original.input_size
    same_weights(original.model, loaded.model, **({"rtol": 1e-3, "atol": 1e-6} if slim else {"rtol": 0, "atol": 0}))


def test_the_default_has_published_names_where_the_original_has_the_backbone(tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(num_classes=2, enc_layers=1, dec_layers=1, num_queries=10, dim_feedforward=64)
    model = dino_nb.build_model(config).eval()
    model.class_names = ["hen", "egg"]
    save_checkpoint(tmp_path / "run.pth", model)
    assert main(["export", str(tmp_path / "run.pth")]) == 0
    content = torch.load(tmp_path / "run_published.pth", weights_only=True)
    assert list(content) == ["model"] and "transformer.level_embed" in content["model"]
    same_weights(model, dino_nb.load(tmp_path / "run_published.pth", "cpu").model, rtol=0, atol=0)


def test_a_backbone_that_the_original_lacks_is_written_as_ours(tmp_path, original, capsys):
    assert main(["export", "dino-tiny", "-o", str(tmp_path / "run.safetensors")]) == 0
    assert main(["export", str(tmp_path / "run.safetensors")]) == 0
    same_weights(original.model, dino_nb.load(tmp_path / "run_weights.safetensors", "cpu").model, rtol=0, atol=0)
    assert main(["export", "dino-tiny", "-o", str(tmp_path / "run.pth")]) == 1
    assert "has no backbone" in capsys.readouterr().err
    assert not (tmp_path / "run.pth").exists()


def test_a_setting_that_the_original_lacks_is_written_as_ours(tmp_path, capsys):
    config = ModelConfig(num_classes=2, enc_layers=1, dec_layers=1, num_queries=10, proposal_nms=0.7)
    save_checkpoint(tmp_path / "run.pth", dino_nb.build_model(config))
    assert main(["export", str(tmp_path / "run.pth")]) == 0
    assert dino_nb.load(tmp_path / "run_weights.safetensors", "cpu").model.config == config
    assert main(["export", str(tmp_path / "run.pth"), "-o", str(tmp_path / "other.pth")]) == 1
    assert "the original code has no proposal_nms, here 0.7, and could not compute" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    target = tmp_path / "there.safetensors"
    target.write_bytes(b"precious")
    assert main(["export", "dino-tiny", "-o", str(target)]) == 1
    assert "exists" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
    assert main(["export", "dino-tiny", "-o", str(target), "--overwrite"]) == 0
    assert main(["export", str(target), "-o", str(target), "--overwrite"]) == 1  # onto itself
    assert main(["export", "dino-tiny", "-o", str(tmp_path / "model.txt")]) == 1
    assert "must end in one of .onnx, .pt2, .safetensors, .pth, .pt" in capsys.readouterr().err
