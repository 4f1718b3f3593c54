from dataclasses import replace

import pytest

from dino_nb.config import ModelConfig, TrainConfig, apply_overrides
from dino_nb.errors import UserError
from dino_nb.options import parse_options
from dino_nb.presets import PRESETS, TRAIN_PRESETS, folder_name, recipe_for


def test_options_in_published_spelling():
    published = ["dn_scalar=100", "embed_init_tgt=TRUE", "dn_label_coef=1.0", "dn_bbox_coef=1.0", "use_ema=False"]
    given = parse_options([*published, "epochs=24", "dn_box_noise_scale=1.0", "num_classes=91", "dn_labebook_size=91"])
    assert given.model == {"dn_number": "100", "dn_box_noise_scale": "1.0"}
    assert given.training == {"ema": "False", "epochs": "24"}
    assert len(given.notes) == 2 and all("comes from the data set" in note for note in given.notes)


def test_options_from_python_are_the_same():
    given = parse_options({"dn_scalar": 100, "use_ema": False, "lr_drop": 11, "num-workers": 3, "dn_label_coef": 1.0})
    assert given.model == {"dn_number": 100}
    assert given.training == {"ema": False, "lr_drop": 11, "num_workers": 3}
    assert parse_options(None).training == {}


@pytest.mark.parametrize(
    "option, message",
    [
        ("num_querys=3", "there is no option 'num_querys'. Did you mean 'num_queries'"),
        ("embed_init_tgt=False", "embed_init_tgt is always true here, not False"),
        ("two_stage_type=no", "two_stage_type is always standard here"),
        ("epochs", "must be key=value, not 'epochs'"),
        ("max_size=600", "needs the short side too: input_size=SHORT,600"),
    ],
)
def test_options_that_cannot_be_followed(option, message):
    with pytest.raises(UserError, match=message):
        parse_options([option])


def test_option_lr_drop_takes_one_epoch_or_several():
    for text, drops in (("lr_drop=11", (11,)), ("lr_drop=[8, 11]", (8, 11)), ("lr_drop_list=[8,11]", (8, 11))):
        assert apply_overrides(TrainConfig(), parse_options([text]).training).lr_drop == drops
    both = parse_options(["lr_drop=11", "multi_step_lr=False", "lr_drop_list=[33, 45]"])
    assert apply_overrides(TrainConfig(), both.training).lr_drop == (11,)


@pytest.mark.parametrize("options", [["size=64", "max_size=107"], ["input_size=64,107"], ["input-size=(64, 107)"]])
def test_option_input_size_is_one_pair(options):
    assert apply_overrides(TrainConfig(), parse_options(options).training).input_size == (64, 107)


def test_input_size_of_one_number_keeps_the_published_ratio():
    assert TrainConfig(input_size=800).input_size == (800, 1333)
    assert apply_overrides(TrainConfig(), {"input_size": 480}).input_size == (480, 800)


def test_folder_name_is_that_of_the_model():
    names = {name: folder_name(config) for name, config in PRESETS.items()}
    assert names == {
        "DINO_4scale": "R50-MS4",
        "DINO_5scale": "R50-MS5",
        "DINO_4scale_swin": "SwinL-MS4",
        "DINO_5scale_swin": "SwinL-MS5",
        "DINO_4scale_convnext": "ConvNeXtXL-MS4",
        "dino-small": "dino-small",
        "dino-tiny": "dino-tiny",
    }
    assert folder_name(ModelConfig(backbone="swin_T_224_1k")) == "SwinT-MS4"
    assert folder_name(ModelConfig(backbone="mobilenetv3_large_100")) == "mobilenetv3_large_100-MS4"


def test_recipe_follows_the_network():
    assert recipe_for(PRESETS["dino-small"]) == replace(TRAIN_PRESETS["small"], input_size=())
    assert recipe_for(PRESETS["DINO_4scale"]) == recipe_for(ModelConfig(backbone="mobilenetv3_large_100"))
    assert recipe_for(PRESETS["DINO_4scale"]) == TRAIN_PRESETS["finetune"]


def test_presets_of_training_name_networks_that_exist():
    assert {recipe.model for recipe in TRAIN_PRESETS.values()} <= set(PRESETS)
