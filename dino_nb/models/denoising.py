"""Contrastive denoising (section 3.3): noisy copies of the objects join the queries, to be told from worse copies."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_nb.config import ModelConfig
from dino_nb.models.layers import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh


@dataclass(frozen=True)
class DenoisingQueries:
    """What the decoder gets in front of its matching queries.

    Attributes:
        labels: ``(B, P)`` int64, rows of the label embedding; -1 where a slot is empty.
        box_logits: ``(B, P, 4)`` inverse sigmoid of noisy cxcywh; 0 where a slot is empty.
        num_dn_groups, max_gt: P = num_dn_groups * 2 * max_gt; each group holds ``max_gt`` positives, then as many
            negatives.
        chosen: per image, the target indices that take part, in the order of their slots.
    """

    labels: Tensor
    box_logits: Tensor
    num_dn_groups: int
    max_gt: int
    chosen: list[Tensor]

    def attn_mask(self, num_queries: int) -> Tensor:
        """``(P + num_queries,) * 2`` bool, True = hidden: groups from each other, and all of them from matching."""
        device = self.labels.device
        group = torch.arange(self.labels.shape[1], device=device) // (2 * self.max_gt)  # [P]
        viewer = torch.cat([group, group.new_full((num_queries,), -1)])  # [P + num_queries]
        visible = torch.zeros(len(viewer), num_queries, dtype=torch.bool, device=device)
        return torch.cat([viewer[:, None] != group, visible], 1)


def prepare_denoising(
    targets: list[dict[str, Tensor]], config: ModelConfig, noise: Mapping[str, Tensor] | None = None
) -> DenoisingQueries | None:
    """Noisy copies of the targets, or None where no image of the batch has an object.

    The random draws are made in the published order, over all copies of all images: one uniform and one new class per
    label, one sign and one uniform per box coordinate.

    Args:
        targets: list of B dicts ``labels (n,) int64``, ``boxes (n, 4)`` cxcywh in [0, 1].
        config: ``dn_number`` (0 switches denoising off), ``dn_max_objects``, ``dn_label_noise_ratio``,
            ``dn_box_noise_scale`` and ``num_classes`` are used.
        noise: ``label_uniform (N,)``, ``new_labels (flipped,)``, ``box_sign (N, 4)`` of -1 and 1, ``box_uniform
            (N, 4)``, to be used instead of random draws; N = 2 * num_dn_groups * objects of all images.
    """
    noise = noise or {}
    chosen = [_choose(len(t["labels"]), config.dn_max_objects, t["labels"].device) for t in targets]
    counts = [len(c) for c in chosen]
    max_gt = max(counts, default=0)
    if not max_gt or not config.dn_number:
        return None
    num_dn_groups = max(1, 2 * config.dn_number // (2 * max_gt))
    copies = 2 * num_dn_groups
    device = targets[0]["labels"].device

    labels = torch.cat([t["labels"][c] for t, c in zip(targets, chosen)]).repeat(copies)  # [N]
    boxes = torch.cat([t["boxes"][c] for t, c in zip(targets, chosen)]).repeat(copies, 1)  # [N, 4]
    if config.dn_label_noise_ratio > 0:
        labels = _flip_labels(labels, config, noise)
    if config.dn_box_noise_scale > 0:
        negative = torch.arange(copies, device=device).remainder(2).repeat_interleave(sum(counts)).bool()  # [N]
        boxes = _move_boxes(boxes, negative, config.dn_box_noise_scale, noise)

    # where copy k of object j of image i goes: row i, column k * max_gt + j
    image = torch.cat([torch.full((n,), i, device=device) for i, n in enumerate(counts)]).repeat(copies)
    slot = torch.cat([torch.arange(n, device=device) for n in counts]).repeat(copies)
    column = slot + max_gt * torch.arange(copies, device=device).repeat_interleave(sum(counts))
    all_labels = labels.new_full((len(targets), copies * max_gt), -1)  # [bs, P]
    all_labels[image, column] = labels
    all_boxes = boxes.new_zeros(len(targets), copies * max_gt, 4)  # [bs, P, 4]
    all_boxes[image, column] = inverse_sigmoid(boxes)
    return DenoisingQueries(all_labels, all_boxes, num_dn_groups, max_gt, chosen)


def _choose(count: int, most: int, device: torch.device) -> Tensor:
    """All objects, or a random ``most`` of them: an image of a thousand objects must not exhaust the memory."""
    if count <= most:
        return torch.arange(count, device=device)
    return torch.randperm(count, device=device)[:most].sort().values


def _flip_labels(labels: Tensor, config: ModelConfig, noise: Mapping[str, Tensor]) -> Tensor:
    uniform = noise.get("label_uniform")
    uniform = torch.rand_like(labels, dtype=torch.float32) if uniform is None else uniform
    # one new class per label, of which the first serve the flipped ones: to count these first would wait for the device
    new = noise.get("new_labels")
    new = torch.randint_like(labels, 0, config.num_classes) if new is None else new
    return labels.masked_scatter(uniform < config.dn_label_noise_ratio * 0.5, new)


def _move_boxes(boxes: Tensor, negative: Tensor, scale: float, noise: Mapping[str, Tensor]) -> Tensor:
    """Corners move by less than half a side (positives) or by half to a whole side (negatives), times ``scale``."""
    sign, uniform = noise.get("box_sign"), noise.get("box_uniform")
    sign = torch.randint_like(boxes, 0, 2) * 2 - 1 if sign is None else sign
    uniform = torch.rand_like(boxes) if uniform is None else uniform
    amount = (uniform + negative[:, None]) * sign  # [N, 4] in half sides
    half_sides = (boxes[:, 2:] / 2).repeat(1, 2)  # [N, 4]
    return xyxy_to_cxcywh((cxcywh_to_xyxy(boxes) + amount * half_sides * scale).clamp(0, 1))
