import copy
import dataclasses
import itertools
from dataclasses import replace

import pytest
import torch

from dino_nb.config import TrainConfig
from dino_nb.errors import UserError
from dino_nb.models.dino import build_model
from dino_nb.presets import TRAIN_PRESETS, preset, train_preset
from dino_nb.training.optim import (
    Ema,
    clip_gradients,
    freeze,
    load_optimizer,
    make_optimizer,
    rate_factor,
)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(2, 2)
        self.encoder = torch.nn.Linear(2, 2)
        self.norm = torch.nn.BatchNorm1d(2)


def test_the_two_published_groups():
    config = TrainConfig()
    optimizer = make_optimizer(Net(), config)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [
        (1e-4, 1e-4, 4),
        (1e-5, 1e-4, 2),
    ]


def test_every_trained_parameter_of_the_detector_is_in_one_group():
    model = build_model(preset("dino-tiny"))
    optimizer = make_optimizer(model, TrainConfig())
    ids = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    _, backbone = optimizer.param_groups
    assert {id(p) for p in backbone["params"]} == {id(p) for p in model.backbone.parameters() if p.requires_grad}


def rates(model, **changes):
    """{parameter name: (rate, weight decay)} of the groups that ``changes`` make."""
    optimizer = make_optimizer(model, TrainConfig(**changes))
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["initial_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_optimizer_groups_by_sampling_decay_and_depth():
    model = build_model(preset("dino-tiny"))
    found = rates(model, sampling_lr=0.1, decay_norms=False, layer_decay=0.5)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(rate == pytest.approx(1e-5) for name, (rate, _) in found.items() if "sampling_offsets" in name)
    for name, p in model.named_parameters():
        assert found[name][1] == (1e-4 if p.ndim > 1 else 0.0)
    by_stage = {depth: {rate for name, (rate, _) in found.items() if f"stages_{depth}." in name} for depth in (0, 1, 2)}
    assert by_stage == {0: {2.5e-6}, 1: {5e-6}, 2: {1e-5}}
    assert {rate for name, (rate, _) in found.items() if "stem" in name} == {1.25e-6}
    plain = rates(model)
    assert {rate for name, (rate, _) in plain.items()} == {1e-4, 1e-5}, "as published unless asked for"


@pytest.mark.parametrize("backbone", ["resnet50", "swin_T_224_1k", "test_efficientnet"])
def test_layer_decay_knows_the_stages_of_backbones(backbone):
    model = build_model(replace(preset("dino-tiny"), backbone=backbone))
    found = {rate for name, (rate, _) in rates(model, layer_decay=0.5).items() if "backbone" in name}
    assert len(found) >= 2 and max(found) == 1e-5 and min(found) <= 5e-6


def test_optimizer_takes_states_of_an_unfused_one():
    model = Net()
    old = torch.optim.AdamW([{"params": [p], "name": "x"} for p in model.parameters() if p.ndim > 1])
    sum(p.sum() for p in model.parameters()).backward()
    old.step()
    new = torch.optim.AdamW([{"params": [p], "initial_lr": 0.5} for p in model.parameters() if p.ndim > 1], fused=True)
    load_optimizer(new, old.state_dict())
    new.step()
    assert [group["initial_lr"] for group in new.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("name, drop", [("12ep", 11), ("24ep", 20), ("36ep", 30)])
def test_published_schedules(name, drop):
    config = TRAIN_PRESETS[f"4scale-r50-{name}"]
    per_epoch = 7
    factors = [rate_factor(config, step, per_epoch) for step in range(config.epochs * per_epoch)]
    assert factors[: drop * per_epoch] == [1.0] * (drop * per_epoch)
    assert factors[drop * per_epoch :] == pytest.approx([0.1] * ((config.epochs - drop) * per_epoch))


def test_multistep_warm_up_and_cosine():
    config = TrainConfig(lr_drop=(2, 4), warmup_steps=4)
    assert [rate_factor(config, s, 10) for s in (0, 1, 3, 4, 19, 20, 39, 40)] == pytest.approx(
        [0.25, 0.5, 1, 1, 1, 0.1, 0.1, 0.01]
    )
    config = TrainConfig(schedule="cosine", epochs=4, warmup_steps=10)
    factors = [rate_factor(config, s, 10) for s in range(41)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[10] == 1 and factors[25] == pytest.approx(0.505) and factors[40] == pytest.approx(0.01)


def test_freezing_by_name():
    model = Net()
    freeze(model, ("backbone", "norm.bias"))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "encoder.weight",
        "encoder.bias",
        "norm.weight",
    ]
    optimizer = make_optimizer(model, TrainConfig())
    assert [g["lr"] for g in optimizer.param_groups] == [1e-4]
    with pytest.raises(UserError, match=r"'bakcbone' is in no parameter's name. Did you mean 'backbone'"):
        freeze(model, ("bakcbone",))
    freeze(model, ("encoder", "norm"))
    with pytest.raises(UserError, match="leaves no parameter to train"):
        make_optimizer(model, TrainConfig())


def test_clipping():
    p = torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.full((4,), 3.0)
    assert clip_gradients([p], 0) == 6 and p.grad.norm() == 6
    assert clip_gradients([p], 0.1) == 6
    assert p.grad.norm() == pytest.approx(0.1, rel=1e-4)


def test_ema_is_the_running_average():
    torch.manual_seed(0)
    model = Net()
    ema = Ema(model, decay=0.9)
    ema.step = 1000  # beyond the ramp
    expected = copy.deepcopy(model.encoder.weight.detach())
    for _ in range(3):
        with torch.no_grad():
            model.encoder.weight.add_(1.0)
            model.norm.running_mean.add_(1.0)
        ema.update(model)
        expected = 0.9 * expected + 0.1 * model.encoder.weight.detach()
    torch.testing.assert_close(ema.module.encoder.weight, expected)
    assert torch.equal(ema.module.norm.running_mean, model.norm.running_mean)
    assert not any(p.requires_grad for p in ema.module.parameters())
    other = Ema(Net())
    other.load_state_dict(ema.state_dict())
    assert other.step == 1003 and torch.equal(other.module.encoder.weight, ema.module.encoder.weight)


def test_ema_starts_fast():
    model = Net()
    ema = Ema(model, decay=0.9997)
    with torch.no_grad():
        model.encoder.weight.fill_(5.0)
    for _ in range(30):
        ema.update(model)
    assert (ema.module.encoder.weight - 5).abs().max() < 0.01


def test_presets():
    assert len([n for n in TRAIN_PRESETS if n.endswith("ep")]) == 12
    config = train_preset("dino-5scale-swinl-36ep")
    assert (config.model, config.epochs, config.lr_drop) == ("DINO_5scale_swin", 36, (30,))
    assert (config.batch_size, config.lr, config.lr_backbone, config.clip_max_norm) == (16, 1e-4, 1e-5, 0.1)
    with pytest.raises(UserError, match=r"Did you mean '4scale-r50-12ep'"):
        train_preset("4scale-r50-12epp")
    for field, bad in {
        "schedule": "cosin",
        "amp": "bf61",
        "epochs": 0,
        "batch_size": 0,
        "input_size": (800, 600),
    }.items():
        with pytest.raises(UserError, match=field):
            dataclasses.replace(TrainConfig(), **{field: bad})
    assert TrainConfig(lr_drop=7).lr_drop == (7,)
