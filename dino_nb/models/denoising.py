"""Contrastive denoising (section 3.3): noisy copies of the objects join the queries, to be told from worse copies."""

from dataclasses import dataclass

import torch

from dino_nb.models.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from dino_nb.models.heads import inverse_sigmoid


@dataclass(frozen=True)
class DenoisingQueries:
    """What the decoder gets in front of its matching queries.

    Attributes:
        labels: ``(B, P)`` int64, rows of the label embedding; -1 where a slot is empty.
        box_logits: ``(B, P, 4)`` inverse sigmoid of noisy cxcywh; 0 where a slot is empty.
        groups, slots: P = groups * 2 * slots; each group holds ``slots`` positives, then ``slots`` negatives.
        chosen: per picture, the target indices that take part, in slot order.
    """

    labels: torch.Tensor
    box_logits: torch.Tensor
    groups: int
    slots: int
    chosen: list

    def attn_mask(self, num_queries):
        """``(P + num_queries,) * 2`` bool, True = hidden: groups from each other, and all of them from matching."""
        device = self.labels.device
        group = torch.arange(self.labels.shape[1], device=device) // (2 * self.slots)
        viewer = torch.cat([group, group.new_full((num_queries,), -1)])
        visible = torch.zeros(len(viewer), num_queries, dtype=torch.bool, device=device)
        return torch.cat([viewer[:, None] != group, visible], 1)


def prepare_denoising(targets, config, draws=None):
    """Noisy copies of the targets, or None where no picture of the batch has an object.

    The random draws are made in the published order, over all copies of all pictures: one uniform a label, one new
    class a flipped label, one sign and one uniform a box coordinate.

    Args:
        targets: list of B dicts ``labels (n,) int64``, ``boxes (n, 4)`` cxcywh in [0, 1].
        config: a ``ModelConfig``: ``dn_number``, ``dn_max_objects``, ``dn_label_noise_ratio``, ``dn_box_noise_scale``,
            ``num_classes``. ``dn_number=0`` switches denoising off.
        draws: ``label_uniform (N,)``, ``new_labels (flipped,)``, ``box_sign (N, 4)`` of -1 and 1, ``box_uniform
            (N, 4)``, to be used instead of the generator's; N = 2 * groups * objects of all pictures.
    """
    draws = draws or {}
    chosen = [_choose(len(t["labels"]), config.dn_max_objects, t["labels"].device) for t in targets]
    counts = [len(c) for c in chosen]
    slots = max(counts, default=0)
    if not slots or not config.dn_number:
        return None
    groups = max(1, 2 * config.dn_number // (2 * slots))
    copies = 2 * groups
    device = targets[0]["labels"].device

    labels = torch.cat([t["labels"][c] for t, c in zip(targets, chosen)]).repeat(copies)
    boxes = torch.cat([t["boxes"][c] for t, c in zip(targets, chosen)]).repeat(copies, 1)
    if config.dn_label_noise_ratio > 0:
        labels = _flip_labels(labels, config, draws)
    if config.dn_box_noise_scale > 0:
        negative = torch.arange(copies, device=device).remainder(2).repeat_interleave(sum(counts)).bool()
        boxes = _move_boxes(boxes, negative, config.dn_box_noise_scale, draws)

    # where copy k of object j of picture i goes: row i, column k * slots + j
    picture = torch.cat([torch.full((n,), i, device=device) for i, n in enumerate(counts)]).repeat(copies)
    slot = torch.cat([torch.arange(n, device=device) for n in counts]).repeat(copies)
    column = slot + slots * torch.arange(copies, device=device).repeat_interleave(sum(counts))
    all_labels = labels.new_full((len(targets), copies * slots), -1)
    all_labels[picture, column] = labels
    all_boxes = boxes.new_zeros(len(targets), copies * slots, 4)
    all_boxes[picture, column] = inverse_sigmoid(boxes)
    return DenoisingQueries(all_labels, all_boxes, groups, slots, chosen)


def _choose(count, most, device):
    """All objects, or a random ``most`` of them: a picture of a thousand objects must not exhaust the memory."""
    if count <= most:
        return torch.arange(count, device=device)
    return torch.randperm(count, device=device)[:most].sort().values


def _flip_labels(labels, config, draws):
    uniform = draws.get("label_uniform")
    uniform = torch.rand_like(labels, dtype=torch.float32) if uniform is None else uniform
    flipped = (uniform < config.dn_label_noise_ratio * 0.5).nonzero()[:, 0]
    new = draws.get("new_labels")
    new = torch.randint_like(flipped, 0, config.num_classes) if new is None else new
    return labels.index_copy(0, flipped, new)


def _move_boxes(boxes, negative, scale, draws):
    """Corners move by less than half a side (positives) or by half to a whole side (negatives), times ``scale``."""
    sign, uniform = draws.get("box_sign"), draws.get("box_uniform")
    sign = torch.randint_like(boxes, 0, 2) * 2 - 1 if sign is None else sign
    uniform = torch.rand_like(boxes) if uniform is None else uniform
    amount = (uniform + negative[:, None]) * sign
    half_sides = (boxes[:, 2:] / 2).repeat(1, 2)
    return xyxy_to_cxcywh((cxcywh_to_xyxy(boxes) + amount * half_sides * scale).clamp(0, 1))
