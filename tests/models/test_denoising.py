import dataclasses

import pytest
import torch

from dino_nb.config import ModelConfig
from dino_nb.models.denoising import prepare_denoising

CONFIG = ModelConfig(num_classes=10)


def targets(counts):
    torch.manual_seed(0)
    return [{"labels": torch.arange(n) % 10, "boxes": torch.rand(n, 4) * 0.2 + 0.3} for n in counts]


@pytest.mark.parametrize(("counts", "groups"), [([1], 100), ([3, 7], 14), ([100, 2], 1), ([250], 1), ([0, 4], 25)])
def test_group_count_as_published(counts, groups):
    queries = prepare_denoising(targets(counts), CONFIG)
    assert queries.num_dn_groups == groups and queries.max_gt == max(counts)
    assert queries.labels.shape == (len(counts), groups * 2 * max(counts))
    filled = (queries.labels >= 0).sum(1)
    assert filled.tolist() == [2 * groups * n for n in counts]


def test_crowded_image_is_bounded():
    queries = prepare_denoising(targets([5000, 3]), CONFIG)
    assert queries.labels.shape[1] == 2 * CONFIG.dn_max_objects
    chosen = queries.chosen[0]
    assert len(chosen.unique()) == CONFIG.dn_max_objects and chosen.max() < 5000
    assert queries.chosen[1].tolist() == [0, 1, 2]


def test_nothing_to_denoise():
    assert prepare_denoising(targets([0, 0]), CONFIG) is None
    assert prepare_denoising(targets([3]), dataclasses.replace(CONFIG, dn_number=0)) is None


def test_positives_stay_near_and_negatives_move_further():
    one = [{"labels": torch.tensor([4]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.1]])}]
    queries = prepare_denoising(one, CONFIG)
    boxes = queries.box_logits[0].sigmoid().view(queries.num_dn_groups, 2, 4)
    low = boxes[..., :2] - boxes[..., 2:] / 2
    moved = (low - torch.tensor([0.4, 0.45])).abs() / torch.tensor([0.1, 0.05])
    assert (moved[:, 0] < 1.001).all()
    # a corner that passes the opposite one swaps sides in the width's sign; before that it moved at least half a side
    assert (moved[:, 1] > 0.99).any() and moved[:, 1].mean() > moved[:, 0].mean()


def test_noise_free_copies_are_the_objects():
    config = dataclasses.replace(CONFIG, dn_label_noise_ratio=0.0, dn_box_noise_scale=0.0)
    given = targets([2, 1])
    queries = prepare_denoising(given, config)
    assert queries.labels[0].view(-1, 2).tolist() == [[0, 1]] * (2 * queries.num_dn_groups)
    assert torch.allclose(queries.box_logits[0, :2].sigmoid(), given[0]["boxes"], atol=1e-6)
    assert (queries.labels[1].view(-1, 2)[:, 1] == -1).all()


def test_half_the_label_noise_ratio_is_flipped():
    queries = prepare_denoising(targets([10]), dataclasses.replace(CONFIG, dn_number=2000))
    flipped = (queries.labels.view(-1, 10) != torch.arange(10)).float().mean().item()
    # a quarter is redrawn, and a tenth of the draws hits the old class
    assert flipped == pytest.approx(0.25 * 0.9, abs=0.02)


def test_groups_and_matching_queries_are_hidden_from_each_other():
    queries = prepare_denoising(targets([50]), CONFIG)
    mask = queries.attn_mask(5)
    size = 2 * queries.max_gt
    assert mask.shape == (queries.num_dn_groups * size + 5,) * 2
    assert mask[-5:, :-5].all() and not mask[:, -5:].any()
    assert not mask[:size, :size].any() and mask[:size, size:-5].all()
