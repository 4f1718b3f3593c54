import pytest
import torch

import dino_nb
from dino_nb.cli import main


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


def test_the_default_beside_the_source_has_published_names(tmp_path, original):
    assert main(["export", "dino-tiny", "-o", str(tmp_path / "run.safetensors")]) == 0
    assert main(["export", str(tmp_path / "run.safetensors")]) == 0
    content = torch.load(tmp_path / "run_published.pth", weights_only=True)
    assert list(content) == ["model"]
    assert "transformer.level_embed" in content["model"]
    torch.testing.assert_close(content["model"]["transformer.level_embed"], original.model.level_embed.detach())


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    target = tmp_path / "there.pth"
    target.write_bytes(b"precious")
    assert main(["export", "dino-tiny", "-o", str(target)]) == 1
    assert "exists" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
    assert main(["export", "dino-tiny", "-o", str(target), "--overwrite"]) == 0
    assert main(["export", str(target), "-o", str(target), "--overwrite"]) == 1  # published names onto ours
    assert main(["export", "dino-tiny", "-o", str(tmp_path / "model.onnx")]) == 1
    assert "safetensors" in capsys.readouterr().err
