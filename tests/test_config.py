import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dino_nb.config import ModelConfig, TrainConfig, apply_overrides
from dino_nb.errors import UserError, did_you_mean
from dino_nb.presets import PRESETS, preset


def test_defaults_are_the_published_four_scale_model():
    config = ModelConfig()
    assert config == preset("DINO_4scale") == preset("config/DINO/DINO_4scale.py")
    assert (config.hidden_dim, config.nheads, config.enc_layers, config.dec_layers) == (256, 8, 6, 6)
    assert (config.dim_feedforward, config.num_queries, config.num_select, config.num_classes) == (2048, 900, 300, 91)
    assert (config.dn_number, config.dn_box_noise_scale, config.dn_label_noise_ratio) == (100, 1.0, 0.5)
    assert (config.set_cost_class, config.set_cost_bbox, config.set_cost_giou) == (2, 5, 2)
    assert (config.cls_loss_coef, config.bbox_loss_coef, config.giou_loss_coef) == (1, 5, 2)


def test_published_configurations_differ_where_they_should():
    assert preset("DINO_5scale").num_feature_levels == 5
    assert preset("DINO_5scale").return_interm_indices == (0, 1, 2, 3)
    assert preset("DINO_4scale_swin").backbone == "swin_L_384_22k"
    assert preset("DINO_4scale_convnext").backbone == "convnext_xlarge_22k"


def test_a_mistyped_configuration_is_corrected():
    with pytest.raises(UserError, match=r"'DINO_4scales'\. Did you mean 'DINO_4scale'\?"):
        preset("DINO_4scales")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"return_interm_indices": (2, 1)}, "rising numbers of 0..3"),
        ({"return_interm_indices": ()}, "rising numbers of 0..3"),
        ({"num_feature_levels": 2}, "less than the 3 backbone stages"),
        ({"hidden_dim": 100}, "multiple of 32"),
        ({"num_classes": 100}, "dn_labelbook_size=91 is too small for num_classes=100"),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**options)


def test_options_as_they_are_typed():
    config = apply_overrides(
        ModelConfig(),
        [
            *("num_queries=300", "dropout=0", "backbone=resnet101", "return_interm_indices=[0, 1, 2, 3]"),
            *("num_feature_levels = 5", "focal_alpha=.5"),
        ],
    )
    assert (config.num_queries, config.backbone, config.num_feature_levels) == (300, "resnet101", 5)
    assert config.dropout == 0.0 and isinstance(config.dropout, float)
    assert config.return_interm_indices == (0, 1, 2, 3)
    assert config.focal_alpha == 0.5
    assert apply_overrides(TrainConfig(), ["frozen=backbone, encoder"]).frozen == ("backbone", "encoder")
    assert apply_overrides(TrainConfig(), ["frozen=backbone"]).frozen == ("backbone",)


@pytest.mark.parametrize(
    "option, message",
    [
        ("dn_labebook_size=91", r"no option 'dn_labebook_size' in ModelConfig\. Did you mean 'dn_labelbook_size'\?"),
        ("num_queries", "must be key=value, not 'num_queries'"),
        ("num_queries=many", "num_queries takes a whole number, not 'many'"),
        ("num_queries=3.5", "num_queries takes a whole number, not 3.5"),
        ("num_queries=True", "num_queries takes a whole number, not True"),
        ("dropout=none at all", "dropout takes a number"),
        ("dropout=None", "dropout takes a number, not None"),
        ("num_queries={[]}", r"num_queries takes a whole number, not '\{\[\]\}'"),
        ("return_interm_indices=none", "return_interm_indices takes a whole number or several, not None"),
        ("return_interm_indices=['a', 1]", "return_interm_indices takes a whole number or several"),
    ],
)
def test_options_of_the_wrong_kind_are_errors(option, message):
    with pytest.raises(UserError, match=message):
        apply_overrides(ModelConfig(), [option])


@pytest.mark.parametrize(
    "kind, options, message",
    [
        (TrainConfig, {"lr": -1}, "lr must be between 0 and 0.1, not -1"),
        (TrainConfig, {"lr": 10}, "lr must be between 0 and 0.1, not 10"),
        (TrainConfig, {"lr": float("nan")}, "lr must be between 0 and 0.1, not nan"),
        (TrainConfig, {"lr": "fast"}, "lr must be between 0 and 0.1, not 'fast'"),
        (TrainConfig, {"ema_decay": 2}, "ema_decay must be between 0 and 0.99999, not 2"),
        (TrainConfig, {"epochs": 0}, "epochs must be between 1 and 1,000,000, not 0"),
        (TrainConfig, {"input_size": (800, 600)}, "input_size must be a short side and a longest long side"),
        (TrainConfig, {"input_size": (8, 600)}, "between 16 and 10,000 pixels, not (8, 600)"),
        (TrainConfig, {"amp": "fp61"}, "amp='fp61' is not one of auto, fp32, fp16, bf16. Did you mean 'fp16'?"),
        (ModelConfig, {"num_queries": 0}, "num_queries must be between 1 and 20,000, not 0"),
        (ModelConfig, {"num_queries": 10**9}, "num_queries must be between 1 and 20,000, not 1000000000"),
        (ModelConfig, {"nheads": 0}, "nheads must be between 1 and 64, not 0"),
        (ModelConfig, {"dropout": 2.0}, "dropout must be between 0 and 0.99, not 2.0"),
        (ModelConfig, {"backbone": "hf-hub:someone/something"}, "backbone must be a published name or the name of a"),
        (ModelConfig, {"backbone": "local-dir:/etc"}, "backbone must be a published name or the name of a timm model"),
        (ModelConfig, {"backbone": 3}, "backbone must be a published name or the name of a timm model, not 3"),
    ],
)
def test_configs_name_the_range_of_a_value_outside_it(kind, options, message):
    with pytest.raises(UserError) as caught:
        kind(**options)
    assert message in str(caught.value)


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_option_ends_in_anything_but_a_user_error(key, value):
    for known in (key, "num_queries", "return_interm_indices", "backbone", "dropout", "input_size", "frozen", "lr"):
        config = TrainConfig() if known in ("input_size", "frozen", "lr") else ModelConfig()
        try:
            config = apply_overrides(config, [f"{known}={value}"])
        except UserError as error:
            assert str(error)
        else:
            assert dataclasses.is_dataclass(config)


def test_presets_are_models_that_can_be_written_down():
    for config in PRESETS.values():
        assert ModelConfig(**dataclasses.asdict(config)) == config


def test_did_you_mean():
    assert did_you_mean("Personn", ["person", "cat"]) == " Did you mean 'person'?"
    assert did_you_mean("xyz", ["person", "cat"]) == ""
    assert did_you_mean("x", []) == ""
