"""DINO's losses: focal, L1 and GIoU on every layer, on the query selection and on the denoising queries."""

import torch
import torch.nn.functional as F

from dino_nb import distributed
from dino_nb.config import ModelConfig
from dino_nb.models.boxes import cxcywh_to_xyxy, generalized_iou
from dino_nb.models.heads import at_least_float32
from dino_nb.training.matcher import match


class Criterion:
    """``criterion(outputs, targets)`` -> dict of scalar losses, to be summed with the factors in ``weights``.

    Names are the published ones: ``loss_ce``, ``loss_bbox``, ``loss_giou`` of the last layer, with ``_0``, ``_1``, ...
    for the earlier layers, ``_interm`` for the query selection, ``_dn``, ``_dn_0``, ... for the denoising queries.

    Args:
        config: a ``ModelConfig``: ``*_loss_coef``, ``set_cost_*``, ``focal_*`` and ``dec_layers``.

    Attributes:
        weights: loss name -> factor.
    """

    def __init__(self, config=None):
        self.config = config or ModelConfig()
        factors = {
            "loss_ce": self.config.cls_loss_coef,
            "loss_bbox": self.config.bbox_loss_coef,
            "loss_giou": self.config.giou_loss_coef,
        }
        earlier = [f"_{i}" for i in range(self.config.dec_layers - 1)]
        suffixes = ["", "_dn", *earlier, *(f"_dn{s}" for s in earlier), "_interm"]
        self.weights = {name + suffix: factor for suffix in suffixes for name, factor in factors.items()}

    def __call__(self, outputs, targets, num_boxes=None):
        """
        Args:
            outputs: of ``DINO.forward``.
            targets: B dicts ``labels (n,) int64`` in [0, C), ``boxes (n, 4)`` cxcywh in [0, 1].
            num_boxes: what sums are divided by; by default the objects of the batch, averaged over the processes and
                at least 1. Accumulated micro-batches pass that of their whole batch.

        Raises:
            ValueError: a label is outside [0, C).
        """
        self._check_labels(outputs, targets)
        if num_boxes is None:
            num_boxes = count_boxes(targets)
        layers = {"": outputs}
        layers |= {f"_{i}": layer for i, layer in enumerate(outputs.get("aux_outputs", []))}
        if "interm_outputs" in outputs:
            layers["_interm"] = outputs["interm_outputs"]
        matches = match(list(layers.values()), targets, self.config)
        losses = {}
        for (suffix, layer), matched in zip(layers.items(), matches):
            losses |= self._layer_losses(layer, targets, matched, num_boxes, suffix)
        losses |= self._denoising_losses(outputs, targets, num_boxes)
        return losses

    def _denoising_losses(self, outputs, targets, num_boxes):
        noisy = outputs.get("dn_outputs")
        suffixes = ["_dn", *(f"_dn_{i}" for i in range(len(outputs.get("aux_outputs", []))))]
        if noisy is None:
            # The same names in every step: averages over steps and processes stay comparable.
            zero = outputs["pred_logits"].sum() * 0
            return {name + s: zero for s in suffixes for name in ("loss_ce", "loss_bbox", "loss_giou")}
        queries = noisy["queries"]
        group_starts = torch.arange(queries.groups)[:, None] * (2 * queries.slots)
        matched = []
        for chosen in queries.chosen:
            positives = (group_starts + torch.arange(len(chosen))).flatten()
            matched.append((positives, chosen.cpu().repeat(queries.groups)))
        losses = {}
        for suffix, layer in zip(suffixes, [noisy, *noisy["aux_outputs"]]):
            losses |= self._layer_losses(layer, targets, matched, num_boxes * queries.groups, suffix)
        return losses

    def _layer_losses(self, layer, targets, matched, num_boxes, suffix):
        logits, boxes = at_least_float32(layer["pred_logits"]), layer["pred_boxes"]
        device = logits.device
        picture = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(matched)]).to(device)
        query = torch.cat([q for q, _ in matched]).to(device)
        # Objects of all pictures lie one after another; one index picks them, without a loop over pictures.
        firsts = [0]
        for target in targets[:-1]:
            firsts.append(firsts[-1] + len(target["labels"]))
        objects = torch.cat([t + first for (_, t), first in zip(matched, firsts)]).to(device)
        labels = torch.cat([t["labels"] for t in targets])[objects]
        wanted = torch.cat([t["boxes"] for t in targets])[objects].to(boxes.dtype)

        one_hot = torch.zeros_like(logits)
        one_hot[picture, query, labels] = 1
        predicted = boxes[picture, query]
        giou = generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        return {
            "loss_ce" + suffix: self._focal(logits, one_hot).sum() / num_boxes,
            "loss_bbox" + suffix: (predicted - wanted).abs().sum() / num_boxes,
            "loss_giou" + suffix: (1 - giou).sum() / num_boxes,
        }

    def _focal(self, logits, one_hot):
        """Focal loss (arXiv 1708.02002, eq. 5) of each entry."""
        p = logits.sigmoid()
        p_right = p * one_hot + (1 - p) * (1 - one_hot)
        alpha = self.config.focal_alpha * one_hot + (1 - self.config.focal_alpha) * (1 - one_hot)
        entropy = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
        return alpha * (1 - p_right) ** self.config.focal_gamma * entropy

    def _check_labels(self, outputs, targets):
        classes = outputs["pred_logits"].shape[-1]
        labels = torch.cat([t["labels"] for t in targets])
        # On a GPU the look at the values would wait for it; there the data set's own check stands.
        if labels.device.type == "cpu" and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            wrong = labels[(labels < 0) | (labels >= classes)][0].item()
            raise ValueError(
                f"a target has label {wrong}, but the model has {classes} classes: labels are 0..{classes - 1}."
            )


def count_boxes(targets):
    """Objects in the batch, averaged over the processes, at least 1 (a float)."""
    return max(distributed.reduce_mean(sum(len(t["labels"]) for t in targets)), 1.0)
