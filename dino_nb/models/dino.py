"""DINO (arXiv 2203.03605): the whole detector, from images to boxes.

The data's way: images -> one padded batch and its mask -> backbone maps -> levels -> encoder memory -> selected
queries (and, in training, denoising queries before them) -> decoder -> classes and boxes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dino_nb.config import ModelConfig
from dino_nb.models.backbone import Backbone, InputProj, flatten_levels
from dino_nb.models.batch import pad_images, resize_mask, valid_sizes
from dino_nb.models.decoder import Decoder
from dino_nb.models.denoising import prepare_denoising
from dino_nb.models.encoder import Encoder
from dino_nb.models.fast import optimize
from dino_nb.models.layers import box_head, class_head, inverse_sigmoid
from dino_nb.models.position import pixel_embedding
from dino_nb.models.query_selection import QuerySelection
from dino_nb.presets import preset

# what parameters were called in files of earlier versions
_FORMER_NAMES = [
    (r"^neck\.proj\.", "input_proj."),
    (r"^query_selection\.proj\.", "query_selection.enc_output."),
    (r"^query_selection\.norm\.", "query_selection.enc_output_norm."),
]


def build_model(config: ModelConfig | str | None = None, pretrained_backbone: bool | str | Path = False) -> "DINO":
    """A DINO with fresh weights.

    Args:
        config: a ``ModelConfig``, or the name of one (``dino_nb.presets.PRESETS``); the published 4-scale R50 by
            default.
        pretrained_backbone: False; True to download timm's ImageNet weights; or a file that holds such weights.

    Raises:
        UserError: an unknown name, a backbone that timm does not have or that lacks a stage, or weights that cannot
            be read.
    """
    config = preset(config) if isinstance(config, str) else config or ModelConfig()
    return DINO(config, pretrained_backbone)


class DINO(nn.Module):
    """The detector.

    Attributes:
        config: its ``ModelConfig``.
        class_names: one name per output (None for an output without a class), or None where not known.
        category_ids: the data set's own id per output, or None.
        input_size: (short side, maximum long side) in pixels that images are resized to.
        thresholds: score thresholds chosen for it (``overall`` and ``per_class``), or None.
    """

    def __init__(self, config: ModelConfig, pretrained_backbone: bool | str | Path = False) -> None:
        super().__init__()
        self.config = config
        self.class_names: list[str | None] | None = None
        self.category_ids: list[int | None] | None = None
        self.input_size: tuple[int, int] = (800, 1333)
        self.thresholds: dict | None = None
        self.official_names: frozenset[str] | None = None  # of the published file that it was read from
        c = config.hidden_dim
        self.backbone = Backbone(config.backbone, config.return_interm_indices, config.drop_path, pretrained_backbone)
        self.input_proj = InputProj(self.backbone.channels, c, config.num_feature_levels)
        self.level_embed = nn.Parameter(torch.randn(config.num_feature_levels, c))
        self.encoder = Encoder(config)
        self.query_selection = QuerySelection(config)
        self.tgt_embed = nn.Embedding(config.num_queries, c)
        self.label_enc = nn.Embedding(config.dn_labelbook_size + 1, c)
        self.decoder = Decoder(config)
        self.class_embed = class_head(c, config.num_classes)
        self.bbox_embed = box_head(c)
        self._init_transformer()
        self.register_load_state_dict_pre_hook(_rename_former)

    def _init_transformer(self) -> None:
        for part in (self.encoder, self.decoder, self.query_selection.enc_output):
            for name, parameter in part.named_parameters():
                if parameter.dim() > 1 and not any(own in name for own in ("sampling_offsets", "attention_weights")):
                    nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        images: list[Tensor] | Tensor,
        targets: list[dict[str, Tensor]] | None = None,
        noise: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        """
        Args:
            images: list of B tensors ``(3, H_i, W_i)``, ImageNet-normalised, or one ``(B, 3, H, W)``.
            targets: in training, B dicts ``labels (n,) int64`` and ``boxes (n, 4)`` cxcywh in [0, 1]: denoising
                queries are made of them. Ignored in eval mode.
            noise: the denoising noise, see ``prepare_denoising``; drawn where None.

        Returns:
            ``pred_logits (B, Q, num_classes)`` and ``pred_boxes (B, Q, 4)`` (cxcywh in [0, 1]) of the last layer;
            ``aux_outputs``, a list of the same for each earlier layer; ``interm_outputs``, the same of the query
            selection, with ``proposal_boxes`` and ``tokens``; and in training with objects ``dn_outputs``: the same
            for the denoising queries, with ``aux_outputs`` and ``queries`` (a ``DenoisingQueries``).

        Raises:
            UserError: images of another shape.
        """
        batch, mask = pad_images(images, self.backbone.least_side)  # [bs, 3, H, W], [bs, H, W]
        srcs = self.input_proj(self.backbone(batch))  # L of [bs, C, h, w]
        spatial_shapes = [(src.shape[-2], src.shape[-1]) for src in srcs]
        masks = [resize_mask(mask, size) for size in spatial_shapes]  # L of [bs, h, w]
        unpadded = batch is images or all(image.shape[-2:] == batch.shape[-2:] for image in images)
        key_padding_mask = None if unpadded else torch.cat([m.flatten(1) for m in masks], 1)  # [bs, S]
        sizes = valid_sizes(masks)  # [bs, L, 2]
        valid_ratios = torch.stack(  # [bs, L, 2]
            [torch.stack([sizes[:, i, 0] / w, sizes[:, i, 1] / h], -1) for i, (h, w) in enumerate(spatial_shapes)], 1
        )
        src = flatten_levels(srcs)  # [bs, S, C]
        pos = self._positions(sizes, spatial_shapes, src.dtype)  # [bs, S, C]

        memory = self.encoder(src, pos, spatial_shapes, valid_ratios, key_padding_mask)  # [bs, S, C]
        refpoints, interm = self.query_selection(memory, spatial_shapes, sizes, key_padding_mask)  # [bs, nq, 4]
        # a copy: a view of a parameter would have the first decoder layer compiled apart from the others
        tgt = self.tgt_embed.weight[: refpoints.shape[1]].repeat(batch.shape[0], 1, 1)  # [bs, nq, C]

        denoising = prepare_denoising(targets, self.config, noise) if self.training and targets else None
        attn_mask = None
        if denoising is not None:
            empty = denoising.labels[..., None] < 0
            noisy = self.label_enc(denoising.labels.clamp(min=0)).masked_fill(empty, 0)  # [bs, P, C]
            attn_mask = denoising.attn_mask(refpoints.shape[1])  # [P + nq, P + nq]
            tgt = torch.cat([noisy, tgt], 1)  # [bs, P + nq, C]
            refpoints = torch.cat([denoising.box_logits.to(refpoints.dtype), refpoints], 1)  # [bs, P + nq, 4]
        elif self.training:
            # every parameter takes part in every step: several processes agree on what to reduce
            tgt = tgt + 0 * self.label_enc.weight[0, 0]

        hs, references = self.decoder(  # [layers, bs, P + nq, C], [layers, bs, P + nq, 4]
            tgt, refpoints, memory, spatial_shapes, valid_ratios, key_padding_mask, attn_mask, self.bbox_embed
        )
        logits = self.class_embed(hs)  # [layers, bs, P + nq, num_classes]
        boxes = (self.bbox_embed(hs) + inverse_sigmoid(references)).sigmoid()  # [layers, bs, P + nq, 4]
        split = denoising.labels.shape[1] if denoising is not None else 0
        outputs = {**_per_layer(logits[:, :, split:], boxes[:, :, split:]), "interm_outputs": interm}
        if denoising is not None:
            outputs["dn_outputs"] = {**_per_layer(logits[:, :, :split], boxes[:, :, :split]), "queries": denoising}
        return outputs

    def _positions(self, sizes: Tensor, spatial_shapes: list[tuple[int, int]], dtype: torch.dtype) -> Tensor:
        """Position plus level embedding of every token, ``(B, S, C)``."""
        config, levels = self.config, []
        for i, (h, w) in enumerate(spatial_shapes):
            y, x = pixel_embedding(sizes[:, i], (h, w), config.hidden_dim, config.pe_temperature)
            # added to the halves before they are spread out over rows and columns
            level_y, level_x = self.level_embed[i].chunk(2)
            y = (y.to(dtype) + level_y)[:, :, None].expand(-1, -1, w, -1)  # [bs, h, w, C / 2]
            x = (x.to(dtype) + level_x)[:, None].expand(-1, h, -1, -1)
            levels.append(torch.cat([y, x], -1).flatten(1, 2))  # [bs, h * w, C]
        return torch.cat(levels, 1)

    def optimize(self, enable: bool = True) -> "DINO":
        """Compute faster without gradients; ``False`` takes that back.

        Weights are prepared once: with the norms after them folded in, in half precision under autocast, and on a CPU
        in float32 for oneDNN's fused operators. Results differ from the plain ones in the last digits (boxes and logits
        by less than 1e-4 in float32). Training stays as it is, and weights may change afterwards. It costs the memory
        of one more copy of them.

        Returns:
            The model itself.
        """
        optimize(self, enable)
        return self

    def set_grad_checkpointing(self, backbone: bool = False, encoder: bool = False, decoder: bool = False) -> None:
        """Trade time for memory in training: recompute the activations of these parts in the backward pass."""
        self.backbone.set_grad_checkpointing(backbone)
        self.encoder.grad_checkpointing = encoder
        self.decoder.grad_checkpointing = decoder


def _per_layer(logits: Tensor, boxes: Tensor) -> dict[str, Any]:
    """``(layers, B, Q, C)`` and ``(layers, B, Q, 4)`` as the last layer's outputs, with ``aux_outputs``."""
    layers = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(logits, boxes)]
    return {**layers[-1], "aux_outputs": layers[:-1]}


def _rename_former(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name in [name for name in state_dict if name.startswith(prefix)]:
        own = name.removeprefix(prefix)
        for former, new in _FORMER_NAMES:
            own = re.sub(former, new, own)
        if prefix + own != name:
            state_dict[prefix + own] = state_dict.pop(name)
