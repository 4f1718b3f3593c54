import dataclasses

import pytest
import timm
import torch

import dino_nb
from dino_nb.config import ModelConfig
from dino_nb.errors import UserError
from dino_nb.models.backbone import Backbone
from dino_nb.models.postprocess import postprocess
from dino_nb.presets import PRESETS

TINY = ModelConfig(
    backbone="test_convnext",
    num_classes=7,
    dn_labelbook_size=7,
    num_feature_levels=3,
    hidden_dim=64,
    nheads=4,
    enc_layers=2,
    dec_layers=2,
    dim_feedforward=128,
    num_queries=60,
    dn_number=20,
)


def tiny(**changes):
    torch.manual_seed(0)
    return dino_nb.build_model(dataclasses.replace(TINY, **changes))


def some_targets(counts, classes=7):
    torch.manual_seed(1)
    return [{"labels": torch.randint(0, classes, (n,)), "boxes": torch.rand(n, 4) * 0.3 + 0.2} for n in counts]


@pytest.mark.parametrize("sizes", [[(64, 64)], [(2000, 40)], [(33, 47), (90, 64), (64, 200)], [(32, 32)]])
def test_boxes_lie_in_the_image_at_any_size(sizes):
    model = tiny().eval()
    with torch.inference_mode():
        outputs = model([torch.rand(3, *s) for s in sizes])
    logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
    assert logits.shape == (*boxes.shape[:2], 7) and len(boxes) == len(sizes)
    assert 0 < boxes.shape[1] <= 60
    assert torch.isfinite(logits).all() and ((boxes >= 0) & (boxes <= 1)).all()
    results = postprocess(outputs, sizes, num_select=10_000)
    assert len(results[0]["scores"]) == boxes.shape[1] * 7, "num_select beyond queries x classes gives all"


def test_fewer_tokens_than_queries_train_too():
    model = tiny(num_queries=900).train()
    targets = some_targets([2, 0])
    outputs = model([torch.rand(3, 64, 64), torch.rand(3, 50, 60)], targets)
    assert outputs["pred_boxes"].shape[1] == 8 * 8 + 4 * 4 + 2 * 2
    losses = dino_nb.Criterion(model.config)(outputs, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_images_of_a_batch_do_not_see_each_other():
    model = tiny().double().eval()
    small, large, other = (torch.rand(3, *size).double() for size in ((64, 96), (128, 128), (128, 128)))
    with torch.inference_mode():
        first, second = model([small, large]), model([small, other])
    assert torch.allclose(first["pred_boxes"][0], second["pred_boxes"][0], atol=1e-12)
    assert not torch.allclose(first["pred_boxes"][1], second["pred_boxes"][1], atol=1e-3)


def test_tensor_and_list_input_agree():
    model = tiny().eval()
    batch = torch.rand(2, 3, 64, 80)
    with torch.inference_mode():
        from_tensor, from_list = model(batch), model(list(batch))
    assert torch.equal(from_tensor["pred_boxes"], from_list["pred_boxes"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float32(dtype):
    model = tiny().eval()
    image = torch.rand(3, 96, 128)
    with torch.inference_mode():
        reference = model([image])
        half = model.to(dtype)([image.to(dtype)])
    assert half["pred_boxes"].dtype == torch.float32, "boxes and references are never stored in 16 bit"
    best = lambda o: postprocess(o, [(96, 128)], 1)[0]["scores"]  # noqa: E731
    assert torch.allclose(best(half).float(), best(reference), atol=0.02)


def test_float32_is_within_a_thousandth_of_float64():
    model = tiny().eval()
    image = torch.rand(3, 96, 128)
    with torch.inference_mode():
        single = model([image])["pred_boxes"].double()
        double = model.double()([image.double()])["pred_boxes"]
    assert (single - double).abs().max() < 1e-3


def test_without_targets_every_trained_parameter_still_gets_a_gradient():
    model = tiny().train()
    targets = some_targets([0, 0])
    outputs = model([torch.rand(3, 64, 64)] * 2, targets)
    assert "dn_outputs" not in outputs
    losses = dino_nb.Criterion(model.config)(outputs, targets)
    sum(losses[k] * w for k, w in dino_nb.Criterion(model.config).weight_dict.items()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_grad_checkpointing_changes_no_gradient():
    gradients = []
    for on in (False, True):
        model = tiny().train()
        model.set_grad_checkpointing(backbone=on, encoder=on, decoder=on)
        targets = some_targets([3])
        torch.manual_seed(3)
        losses = dino_nb.Criterion(model.config)(model([torch.ones(3, 64, 64)], targets), targets)
        sum(losses.values()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "convnext_tiny"])
def test_any_timm_backbone(name):
    model = tiny(backbone=name).eval()
    with torch.inference_mode():
        assert model([torch.rand(3, 64, 64)])["pred_boxes"].shape == (1, 60, 4)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)], "batch statistics are frozen"


def test_resnet_trains_the_last_three_stages_only():
    model = tiny(backbone="resnet50")
    trained = {k.split(".")[0] for k, p in model.backbone.body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    scales = [b for k, b in model.backbone.body.named_buffers() if ".bn3.weight" in k]
    assert len(scales) == 16 and all(scale.all() for scale in scales), "no residual branch starts frozen at zero"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vit_tiny_patch16_224"}, "no feature map of stride 8"),
        ({"backbone": "resnet5O"}, "Did you mean 'resnet50'"),
        ({"backbone": "swin_L_384_22"}, "Did you mean 'swin_L_384_22k'"),
        ({"num_feature_levels": 2}, "less than the 3 backbone stages"),
        ({"return_interm_indices": (3, 1)}, "rising"),
        ({"hidden_dim": 100}, "multiple of 32"),
        ({"num_classes": 20}, "dn_labelbook_size=7 is too small for num_classes=20"),
    ],
)
def test_impossible_configurations_say_why(change, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        tiny(**change)


def test_images_of_the_wrong_shape_say_why():
    model = tiny()
    with pytest.raises(UserError, match="pass one as"):
        model(torch.rand(3, 64, 64))
    with pytest.raises(UserError, match=r"\(3, H, W\)"):
        model([torch.rand(1, 64, 64)])


def test_published_defaults():
    config = ModelConfig()
    assert (config.num_queries, config.num_select, config.hidden_dim) == (900, 300, 256)
    assert PRESETS["DINO_5scale"].return_interm_indices == (0, 1, 2, 3)


def test_build_model_takes_the_name_of_a_configuration():
    assert dino_nb.build_model("dino-tiny").config == PRESETS["dino-tiny"]
    with pytest.raises(UserError, match=r"no configuration 'dino-tny'.*dino-tiny"):
        dino_nb.build_model("dino-tny")


def test_backbone_download_that_fails_is_explained(monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *_, **__: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(UserError, match=r"'resnet50' could not be downloaded \(no route to host\)"):
        dino_nb.build_model(ModelConfig(), pretrained_backbone=True)


class _Harmful:
    def __reduce__(self):
        return print, ("this code ran",)


def test_backbone_file_runs_no_code(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"x": torch.ones(1)}, "extra": _Harmful()}, path)
    with pytest.raises(UserError, match=r"could not be read from .*weights\.pth"):
        tiny_backbone(path)
    assert "this code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x80\x02}q\x00"])
def test_backbone_file_that_is_no_weights_says_so(tmp_path, content):
    for ending in ("pth", "safetensors"):
        path = tmp_path / f"weights.{ending}"
        path.write_bytes(content)
        with pytest.raises(UserError, match="could not be read from"):
            tiny_backbone(path)
    with pytest.raises(UserError, match="could not be read from"):
        tiny_backbone(tmp_path / "missing.pth")


def test_backbone_file_of_another_network_says_so(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"module.other.0.weight": torch.ones(3, 3)}, path)
    with pytest.raises(UserError, match=r"weights?( in)? .*weights\.pth"):
        tiny_backbone(path)


def tiny_backbone(weights):
    return dino_nb.build_model(TINY, pretrained_backbone=weights)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp/x", "../x"])
def test_backbone_is_never_fetched_by_its_name(name):
    with pytest.raises(UserError, match="there is no backbone"):
        Backbone(name, (1, 2, 3))


def test_files_with_the_former_names_still_load():
    model = tiny()
    former = {
        k.replace("input_proj.", "neck.proj.")
        .replace("query_selection.enc_output_norm.", "query_selection.norm.")
        .replace("query_selection.enc_output.", "query_selection.proj."): v * 2
        for k, v in model.state_dict().items()
    }
    assert set(former) != set(model.state_dict())
    model.load_state_dict(former)
    assert torch.equal(model.input_proj[0][0].weight, former["neck.proj.0.0.weight"])


def test_backbone_is_made_where_timm_cannot_build_without_memory(monkeypatch):
    create = timm.create_model

    def old(*args, **options):
        torch.linspace(0, 1, 3).tolist()  # as timm 1.0.20 does
        return create(*args, **options)

    monkeypatch.setattr(timm, "create_model", old)
    with torch.device("meta"):
        model = dino_nb.build_model("dino-tiny")
    assert all(parameter.is_meta for parameter in model.parameters())
