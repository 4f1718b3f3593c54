import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dino_nb.config import ModelConfig
from dino_nb.models.layers import cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh
from dino_nb.training.criterion import Criterion, count_boxes
from dino_nb.training.matcher import HungarianMatcher

CONFIG = ModelConfig(num_classes=5, dec_layers=2)
match = HungarianMatcher()


def layer(batch=2, queries=6, classes=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, queries, classes, generator=generator)
    boxes = torch.rand(batch, queries, 4, generator=generator) * 0.4 + 0.3
    return {"pred_logits": logits.to(dtype).requires_grad_(), "pred_boxes": boxes.to(dtype).requires_grad_()}


def targets(counts, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "labels": torch.randint(0, 5, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.4 + 0.3,
        }
        for n in counts
    ]


def test_matcher_gives_every_object_a_query_and_takes_more_objects_than_queries():
    pairs = match([layer()], targets([3, 9]))[0]
    assert sorted(pairs[0][1].tolist()) == [0, 1, 2]
    assert len(set(pairs[0][0].tolist())) == 3
    assert pairs[1][0].tolist() == list(range(6)) and len(set(pairs[1][1].tolist())) == 6


def test_matcher_finds_the_right_query():
    one = targets([2])
    outputs = {"pred_logits": torch.full((1, 4, 5), -4.0), "pred_boxes": torch.full((1, 4, 4), 0.1)}
    for query, obj in ((3, 0), (1, 1)):
        outputs["pred_boxes"][0, query] = one[0]["boxes"][obj]
        outputs["pred_logits"][0, query, one[0]["labels"][obj]] = 4
    queries, objects = match([outputs], one)[0][0]
    assert dict(zip(queries.tolist(), objects.tolist())) == {3: 0, 1: 1}


def test_matcher_matches_layers_together_as_alone():
    layers, wanted = [layer(seed=s) for s in range(3)], targets([2, 4])
    together = match(layers, wanted)
    for single, joint in zip(layers, together):
        for (q, t), (q2, t2) in zip(match([single], wanted)[0], joint):
            assert torch.equal(q, q2) and torch.equal(t, t2)


def test_matcher_takes_outputs_that_are_not_finite():
    broken = layer()
    broken["pred_boxes"] = broken["pred_boxes"] * float("nan")
    assert len(match([broken], targets([2, 1]))[0][0][0]) == 2


def test_criterion_of_a_perfect_prediction_is_almost_nothing():
    wanted = targets([2, 1])
    outputs = {"pred_logits": torch.full((2, 6, 5), -20.0), "pred_boxes": torch.rand(2, 6, 4)}
    for i, t in enumerate(wanted):
        for j, (label, box) in enumerate(zip(t["labels"], t["boxes"])):
            outputs["pred_logits"][i, j, label] = 20.0
            outputs["pred_boxes"][i, j] = box
    losses = Criterion(CONFIG)(outputs, wanted)
    assert losses["loss_ce"] < 1e-6 and losses["loss_bbox"] < 1e-6 and losses["loss_giou"] < 1e-3


def test_criterion_names_are_the_same_with_and_without_denoising():
    criterion = Criterion(CONFIG)
    outputs = {**layer(), "aux_outputs": [layer(seed=3)], "interm_outputs": layer(seed=4)}
    losses = criterion(outputs, targets([2, 0]))
    assert set(losses) == set(criterion.weight_dict)
    assert losses["loss_ce_dn"] == 0
    sum(losses.values()).backward()


def test_criterion_of_half_precision_is_float32():
    outputs = layer(dtype=torch.float16)
    losses = Criterion(CONFIG)(outputs, targets([2, 1]))
    assert losses["loss_ce"].dtype == torch.float32


def test_criterion_divides_a_batch_without_objects_by_one():
    outputs, none = layer(), targets([0, 0])
    assert count_boxes(none) == 1.0
    losses = Criterion(CONFIG)(outputs, none)
    assert torch.isfinite(losses["loss_ce"]) and losses["loss_bbox"] == 0


def test_criterion_of_micro_batches_adds_up():
    outputs, wanted = layer(), targets([3, 1])
    whole = Criterion(CONFIG)(outputs, wanted)
    parts = [
        Criterion(CONFIG)({k: v[i : i + 1] for k, v in outputs.items()}, wanted[i : i + 1], num_boxes=4.0)
        for i in range(2)
    ]
    for key in ("loss_ce", "loss_bbox", "loss_giou"):
        assert torch.allclose(whole[key], parts[0][key] + parts[1][key])


def test_criterion_names_labels_beyond_the_head():
    with pytest.raises(ValueError, match=r"label 7, but the model has 5 classes: labels are 0\.\.4"):
        Criterion(CONFIG)(layer(), [{"labels": torch.tensor([7]), "boxes": torch.rand(1, 4)}, targets([1])[0]])


def test_weights_follow_the_configuration():
    weights = Criterion(dataclasses.replace(CONFIG, giou_loss_coef=3.0)).weight_dict
    assert weights["loss_giou_dn_0"] == 3.0 and weights["loss_bbox_interm"] == 5.0
    assert len(weights) == 3 * (2 * 2 + 1)


def test_iou_target_asks_for_scores_that_follow_the_fit():
    config = dataclasses.replace(CONFIG, iou_target=True)
    wanted = [{"labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}]

    def loss(box, logit):
        logits = torch.full((1, 1, 5), -20.0)
        logits[0, 0, 2] = logit
        return Criterion(config)({"pred_logits": logits, "pred_boxes": torch.tensor([[box]])}, wanted)["loss_ce"].item()

    perfect, half = [0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.2]
    assert loss(perfect, 8.0) < loss(perfect, 0.0), "a perfect box is to have a score of 1"
    assert loss(half, 0.0) < loss(half, 8.0), "and one of IoU 0.5 a score of 0.5"
    plain = Criterion(CONFIG)({"pred_logits": torch.zeros(1, 1, 5), "pred_boxes": torch.tensor([[half]])}, wanted)
    assert plain["loss_ce"] == pytest.approx(0.25 * 0.25 * 0.693147 + 4 * 0.75 * 0.25 * 0.693147, rel=1e-5)


def test_criterion_reads_nothing_back_by_layer():
    """Every look at a value makes a GPU wait: there are as many with one decoder layer as with five."""

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
            return function(*args, **(kwargs or {}))

    counts = []
    for layers in (1, 5):
        outputs = {
            **layer(),
            "aux_outputs": [layer(seed=s) for s in range(layers - 1)],
            "interm_outputs": layer(seed=9),
        }
        with Count() as count:
            Criterion(dataclasses.replace(CONFIG, dec_layers=layers))(outputs, targets([2, 3]), 5.0)
        counts.append(count.calls)
    assert counts[0] == counts[1]


def test_box_arithmetic():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    assert torch.allclose(cxcywh_to_xyxy(boxes), torch.tensor([[0.4, 0.3, 0.6, 0.7]]))
    assert torch.allclose(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)
    a = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert generalized_iou(a, a) == pytest.approx(1, abs=1e-5)
    assert generalized_iou(a, a + 1).item() == pytest.approx(-0.5, abs=1e-5)
    empty = torch.zeros(1, 4)
    assert torch.isfinite(generalized_iou(empty, empty)).all()
