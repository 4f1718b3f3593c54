"""DINO's losses: focal, L1 and GIoU on every layer, on the query selection and on the denoising queries."""

import itertools

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import sigmoid_focal_loss

from dino_nb import distributed
from dino_nb.config import ModelConfig
from dino_nb.models.denoising import DenoisingQueries
from dino_nb.models.layers import at_least_float32, cxcywh_to_xyxy, generalized_iou
from dino_nb.training.matcher import HungarianMatcher


class Criterion:
    """``criterion(outputs, targets)`` -> dict of scalar losses, to be summed with the factors in ``weight_dict``.

    Names are the published ones: ``loss_ce``, ``loss_bbox``, ``loss_giou`` of the last layer, with ``_0``, ``_1``, ...
    for the earlier layers, ``_interm`` for the query selection, ``_dn``, ``_dn_0``, ... for the denoising queries.

    Args:
        config: a ``ModelConfig``: ``*_loss_coef``, ``set_cost_*``, ``focal_*`` and ``dec_layers``.

    Attributes:
        weight_dict: loss name -> factor.
        matcher: the ``HungarianMatcher``.
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        self.config = c = config or ModelConfig()
        self.matcher = HungarianMatcher(
            c.set_cost_class, c.set_cost_bbox, c.set_cost_giou, c.focal_alpha, c.focal_gamma
        )
        factors = {"loss_ce": c.cls_loss_coef, "loss_bbox": c.bbox_loss_coef, "loss_giou": c.giou_loss_coef}
        earlier = [f"_{i}" for i in range(c.dec_layers - 1)]
        suffixes = ["", "_dn", *earlier, *(f"_dn{s}" for s in earlier), "_interm"]
        self.weight_dict = {name + suffix: factor for suffix in suffixes for name, factor in factors.items()}

    def __call__(self, outputs: dict, targets: list[dict], num_boxes: float | None = None) -> dict[str, Tensor]:
        """
        Args:
            outputs: of ``DINO.forward``.
            targets: B dicts ``labels (n,) int64`` in [0, C), ``boxes (n, 4)`` cxcywh in [0, 1].
            num_boxes: what sums are divided by; by default the objects of the batch, averaged over the processes and
                at least 1. Accumulated micro-batches pass that of their whole batch.

        Raises:
            ValueError: a label is outside [0, C).
        """
        if num_boxes is None:
            num_boxes = count_boxes(targets)
        # The objects of all images lie one after another: one index picks those of all images and layers.
        labels = torch.cat([t["labels"] for t in targets])  # (N,)
        boxes = torch.cat([t["boxes"] for t in targets])  # (N, 4)
        firsts = list(itertools.accumulate((len(t["labels"]) for t in targets), initial=0))
        self._check_labels(labels, outputs["pred_logits"].shape[-1])
        layers = {"": outputs} | {f"_{i}": layer for i, layer in enumerate(outputs.get("aux_outputs", []))}
        if "interm_outputs" in outputs:
            layers["_interm"] = outputs["interm_outputs"]
        matches = self.matcher(list(layers.values()), targets)
        pairs = [  # for each layer and image (3, P): image, query and object
            torch.stack([torch.full_like(src, i), src, tgt + firsts[i]])
            for layer in matches
            for i, (src, tgt) in enumerate(layer)
        ]
        index = torch.cat(pairs, 1).to(labels.device, non_blocking=True)  # of all layers in one copy
        counts = [sum(len(src) for src, _ in layer) for layer in matches]
        matched = (x.split(counts, -1) for x in (index[:2], labels[index[2]]))
        terms = list(zip(layers, layers.values(), *matched, boxes[index[2]].split(counts), itertools.repeat(num_boxes)))

        losses: dict[str, Tensor] = {}
        suffixes = ["_dn", *(f"_dn_{i}" for i in range(len(outputs.get("aux_outputs", []))))]
        if noisy := outputs.get("dn_outputs"):
            index = self._copies(noisy["queries"], firsts, labels.device)
            same = index[:2], labels[index[2]], boxes[index[2]], num_boxes * noisy["queries"].num_dn_groups
            terms += [(s, layer, *same) for s, layer in zip(suffixes, [noisy, *noisy["aux_outputs"]])]
        for suffix, layer, *of_layer in terms:
            found = self.loss_labels(layer, *of_layer) | self.loss_boxes(layer, *of_layer)
            losses |= {name + suffix: loss for name, loss in found.items()}
        if not noisy:
            # The same names in every step: averages over steps and processes stay comparable.
            zero = outputs["pred_logits"].sum() * 0
            losses |= {name + s: zero for s in suffixes for name in ("loss_ce", "loss_bbox", "loss_giou")}
        return losses

    def loss_labels(
        self, layer: dict, index: Tensor, labels: Tensor, boxes: Tensor, num_boxes: float
    ) -> dict[str, Tensor]:
        """Focal loss (arXiv 1708.02002, eq. 5) of all queries and classes.

        ``index (2, P)``: image and query of each matched pair; ``labels (P,)``, ``boxes (P, 4)``: of its object.
        """
        batch_idx, src_idx = index
        alpha, gamma = self.config.focal_alpha, self.config.focal_gamma
        logits = at_least_float32(layer["pred_logits"])  # (B, Q, C)
        target = torch.zeros_like(logits)
        target[batch_idx, src_idx, labels] = 1
        if self.config.iou_target:  # varifocal: the better a box fits, the higher its score is to be
            iou = _iou(*(cxcywh_to_xyxy(b) for b in (layer["pred_boxes"][batch_idx, src_idx], boxes)))
            weight = (1 - alpha) * logits.detach().sigmoid() ** gamma * (1 - target)
            target[batch_idx, src_idx, labels] = iou.detach().to(target.dtype)
            loss = binary_cross_entropy_with_logits(logits, target, weight + target, reduction="sum")
        else:
            loss = sigmoid_focal_loss(logits, target, alpha, gamma).sum()
        return {"loss_ce": loss / num_boxes}

    def loss_boxes(
        self, layer: dict, index: Tensor, labels: Tensor, boxes: Tensor, num_boxes: float
    ) -> dict[str, Tensor]:
        """L1 and GIoU of the matched queries; arguments as in ``loss_labels``."""
        src_boxes = layer["pred_boxes"][index[0], index[1]]  # (P, 4) cxcywh
        boxes = boxes.to(src_boxes.dtype)
        giou = generalized_iou(cxcywh_to_xyxy(src_boxes), cxcywh_to_xyxy(boxes))  # (P,)
        return {"loss_bbox": (src_boxes - boxes).abs().sum() / num_boxes, "loss_giou": (1 - giou).sum() / num_boxes}

    @staticmethod
    def _copies(queries: DenoisingQueries, firsts: list[int], device: torch.device) -> Tensor:
        """``(3, P)``: image, query and object of the positives of all denoising groups."""
        starts = 2 * queries.max_gt * torch.arange(queries.num_dn_groups, device=device)[:, None]  # (groups, 1)
        pairs = []
        for i, (chosen, first) in enumerate(zip(queries.chosen, firsts)):
            # query j of a group's positives is a copy of the image's object chosen[j]
            src_idx = (starts + torch.arange(len(chosen), device=device)).flatten()
            tgt_idx = chosen.repeat(queries.num_dn_groups) + first
            pairs.append(torch.stack([torch.full_like(src_idx, i), src_idx, tgt_idx]))
        return torch.cat(pairs, 1)

    @staticmethod
    def _check_labels(labels, num_classes):
        # On a GPU the look at the values would wait for it; there the data set's own check stands.
        if labels.device.type == "cpu" and len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            wrong = labels[(labels < 0) | (labels >= num_classes)][0].item()
            raise ValueError(
                f"a target has label {wrong}, but the model has {num_classes} classes: labels are 0..{num_classes - 1}."
            )


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """``(P, 4), (P, 4) -> (P,)`` of xyxy boxes, pair by pair."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    return shared / (union + 1e-6)


def count_boxes(targets: list[dict]) -> float:
    """``num_boxes`` of a batch: its objects, averaged over the processes, at least 1."""
    return max(distributed.reduce_mean(sum(len(t["labels"]) for t in targets)), 1.0)
