"""DINO (arXiv 2203.03605): the whole detector, from pictures to boxes.

The data's way: pictures -> one padded batch and its mask -> backbone maps -> levels -> encoder memory -> selected
queries (and, in training, denoising queries before them) -> decoder -> classes and boxes.
"""

import torch
from torch import nn

from dino_nb.config import ModelConfig
from dino_nb.models.backbone import Backbone
from dino_nb.models.batch import pad_images, resize_mask, valid_ratios
from dino_nb.models.decoder import Decoder
from dino_nb.models.denoising import prepare_denoising
from dino_nb.models.encoder import Encoder
from dino_nb.models.heads import box_head, class_head, inverse_sigmoid
from dino_nb.models.neck import Neck, flatten_levels
from dino_nb.models.position import pixel_embedding
from dino_nb.models.query_selection import QuerySelection


def build_model(config=None, pretrained_backbone=False):
    """A DINO with fresh weights.

    Args:
        config: a ``ModelConfig``; the published 4-scale R50 by default.
        pretrained_backbone: False; True to fetch timm's ImageNet weights; or a file that holds such weights.
    """
    return DINO(config or ModelConfig(), pretrained_backbone)


class DINO(nn.Module):
    """The detector.

    Attributes:
        config: its ``ModelConfig``.
        class_names: one name per output (None for an output without a class), or None where not known.
        category_ids: the data set's own id per output, or None.
        input_size: (short side, long side at most) in pixels that pictures are resized to.
    """

    def __init__(self, config, pretrained_backbone=False):
        super().__init__()
        self.config = config
        self.class_names = None
        self.category_ids = None
        self.input_size = (800, 1333)
        c = config.hidden_dim
        self.backbone = Backbone(config.backbone, config.return_interm_indices, config.drop_path, pretrained_backbone)
        self.neck = Neck(self.backbone.channels, c, config.num_feature_levels)
        self.level_embed = nn.Parameter(torch.randn(config.num_feature_levels, c))
        self.encoder = Encoder(config)
        self.query_selection = QuerySelection(config)
        self.tgt_embed = nn.Embedding(config.num_queries, c)
        self.label_enc = nn.Embedding(config.dn_labelbook_size + 1, c)
        self.decoder = Decoder(config)
        self.class_embed = class_head(c, config.num_classes)
        self.bbox_embed = box_head(c)
        self._init_transformer()

    def _init_transformer(self):
        for part in (self.encoder, self.decoder, self.query_selection.proj):
            for name, parameter in part.named_parameters():
                if parameter.dim() > 1 and not any(own in name for own in ("sampling_offsets", "attention_weights")):
                    nn.init.xavier_uniform_(parameter)

    def forward(self, images, targets=None, draws=None):
        """
        Args:
            images: list of B tensors ``(3, H_i, W_i)``, ImageNet-normalised, or one ``(B, 3, H, W)``.
            targets: in training, B dicts ``labels (n,) int64`` and ``boxes (n, 4)`` cxcywh in [0, 1]: denoising
                queries are made of them. Ignored in eval mode.
            draws: the denoising noise, see ``prepare_denoising``; drawn where None.

        Returns:
            ``pred_logits (B, Q, num_classes)`` and ``pred_boxes (B, Q, 4)`` (cxcywh in [0, 1]) of the last layer;
            ``aux_outputs``, a list of the same for each earlier layer; ``interm_outputs``, the same of the query
            selection, with ``proposal_boxes``; and in training with objects ``dn_outputs``: the same for the
            denoising queries, with ``aux_outputs`` and ``queries`` (a ``DenoisingQueries``).
        """
        batch, mask = pad_images(images, self.backbone.least_side)
        maps = self.neck(self.backbone(batch))
        masks = [resize_mask(mask, m.shape[-2:]) for m in maps]
        shapes = [tuple(m.shape[-2:]) for m in maps]
        tokens, ratios = flatten_levels(maps), valid_ratios(masks)
        padding = None if _is_unpadded(images, batch) else torch.cat([m.flatten(1) for m in masks], 1)
        pos = self._positions(masks, tokens.dtype)

        memory = self.encoder(tokens, pos, shapes, ratios, padding)
        references, interm = self.query_selection(memory, shapes, masks)
        content = self.tgt_embed.weight[: references.shape[1]].expand(len(batch), -1, -1)

        denoising = prepare_denoising(targets, self.config, draws) if self.training and targets else None
        attn_mask = None
        if denoising is not None:
            empty = denoising.labels[..., None] < 0
            noisy = self.label_enc(denoising.labels.clamp(min=0)).masked_fill(empty, 0)
            attn_mask = denoising.attn_mask(references.shape[1])
            content = torch.cat([noisy, content], 1)
            references = torch.cat([denoising.box_logits.to(references.dtype), references], 1)
        elif self.training:
            # every parameter takes part in every step, so that several processes agree on what to reduce
            content = content + 0 * self.label_enc.weight[0, 0]

        hidden, starts = self.decoder(content, references, memory, shapes, ratios, padding, attn_mask, self.bbox_embed)
        layers = [
            {"pred_logits": self.class_embed(h), "pred_boxes": (self.bbox_embed(h) + inverse_sigmoid(s)).sigmoid()}
            for h, s in zip(hidden, starts)
        ]
        split = denoising.labels.shape[1] if denoising is not None else 0
        matching = [{k: v[:, split:] for k, v in layer.items()} for layer in layers]
        outputs = {**matching[-1], "aux_outputs": matching[:-1], "interm_outputs": interm}
        if denoising is not None:
            noisy = [{k: v[:, :split] for k, v in layer.items()} for layer in layers]
            outputs["dn_outputs"] = {**noisy[-1], "aux_outputs": noisy[:-1], "queries": denoising}
        return outputs

    def _positions(self, masks, dtype):
        config = self.config
        parts = [
            pixel_embedding(mask, config.hidden_dim, config.pe_temperature).to(dtype) + self.level_embed[level]
            for level, mask in enumerate(masks)
        ]
        return torch.cat(parts, 1)

    def set_checkpointing(self, backbone=False, encoder=False, decoder=False):
        """Trade time for memory in training: recompute the activations of these parts in the backward pass."""
        self.backbone.set_checkpointing(backbone)
        self.encoder.checkpointing = encoder
        self.decoder.checkpointing = decoder


def _is_unpadded(images, batch):
    return all(image.shape[-2:] == batch.shape[-2:] for image in images)
