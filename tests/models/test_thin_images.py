"""Images thinner than a cell of the last feature map."""

import pytest
import torch

from dino_nb.config import ModelConfig
from dino_nb.models.dino import build_model
from dino_nb.presets import preset


@pytest.mark.parametrize("size", [(5, 267), (267, 1), (1, 1), (33, 31)])
def test_backbone_without_padding_takes_thin_images(size):
    torch.manual_seed(0)
    model = build_model(preset("dino-tiny")).eval()
    with torch.inference_mode():
        for images in ([torch.rand(3, *size)], torch.rand(2, 3, *size), [torch.rand(3, *size), torch.rand(3, 40, 20)]):
            outputs = model(images)
            assert outputs["pred_boxes"].isfinite().all() and outputs["pred_logits"].isfinite().all()


def test_published_backbones_see_no_padding_that_the_original_has_not():
    config = ModelConfig(enc_layers=1, dec_layers=1, num_queries=10, dim_feedforward=64)
    assert build_model(config).backbone.least_side == 1
