"""Backbones from timm, made to compute what the published ones do."""

import timm
import torch.nn.functional as F
from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from dino_nb.errors import UserError, did_you_mean

# published name -> (timm name with the tag of its pre-training, what timm must be told)
_SWIN = {"strict_img_size": False, "always_partition": True}
PUBLISHED = {
    "resnet50": ("resnet50.tv_in1k", {}),
    "resnet101": ("resnet101.tv_in1k", {}),
    "swin_T_224_1k": ("swin_tiny_patch4_window7_224.ms_in1k", _SWIN),
    "swin_B_224_22k": ("swin_base_patch4_window7_224.ms_in22k", _SWIN),
    "swin_B_384_22k": ("swin_base_patch4_window12_384.ms_in22k", _SWIN),
    "swin_L_224_22k": ("swin_large_patch4_window7_224.ms_in22k", _SWIN),
    "swin_L_384_22k": ("swin_large_patch4_window12_384.ms_in22k", _SWIN),
    "convnext_xlarge_22k": ("convnext_xlarge.fb_in22k", {}),
}


class Backbone(nn.Module):
    """Feature maps of the chosen stages.

    Args:
        name: a published name or any timm name.
        stages: 0..3, for strides 4, 8, 16, 32.
        drop_path: stochastic depth of the published Swin and ConvNeXt.
        pretrained: False; True for timm's own weights (fetched); or a file with classification weights.

    Attributes:
        channels: of the maps that ``forward`` returns.
        norms: for Swin and ConvNeXt a LayerNorm a stage, as in dense prediction; those of unused stages (which some
            files hold) are frozen.
        least_side: pixels that a batch needs a side. The published ResNets and Swins take any number; others may
            stride an image away that has less than a cell of the last map.
    """

    def __init__(self, name, stages, drop_path=0.0, pretrained=False):
        super().__init__()
        self.body = _create(name, drop_path, pretrained)
        info = self.body.feature_info
        strides = [4 * 2**s for s in stages]
        if missing := [s for s in strides if s not in info.reduction()]:
            raise UserError(
                f"backbone {name!r} has no feature map of stride {missing[0]} (it has {info.reduction()}): choose "
                f"another backbone, or stages it has by return_interm_indices (0..3 for strides 4, 8, 16, 32)."
            )
        # of two maps with one stride the later sees more
        self._indices = [len(info) - 1 - info.reduction()[::-1].index(s) for s in strides]
        self.channels = [info.channels()[i] for i in self._indices]
        if self._indices[-1] < len(info) - 1:  # what comes after the last map in use is neither computed nor trained
            self.body = _create(name, drop_path, pretrained, out_indices=tuple(self._indices))
            self._indices = list(range(len(strides)))
        self._channels_last = _is_channels_last(self.body)
        self.norms = nn.ModuleDict()
        if name.startswith(("swin_", "convnext")) and name in PUBLISHED:
            kept = range(4) if name.startswith("convnext") else stages
            for s in kept:
                self.norms[str(s)] = nn.LayerNorm(info.channels()[s], eps=1e-5 if name.startswith("swin") else 1e-6)
                self.norms[str(s)].requires_grad_(s in stages)
        self.stages = tuple(stages)
        self.least_side = 1 if name in PUBLISHED and name.startswith(("resnet", "swin_")) else 32
        if name in ("resnet50", "resnet101"):
            for key, parameter in self.body.named_parameters():
                parameter.requires_grad_(key.startswith(("layer2.", "layer3.", "layer4.")))

    def forward(self, images):
        """``(B, 3, H, W)`` to a list of ``(B, C_i, h_i, w_i)``, h_i about H / stride."""
        features = self.body(images)
        maps = []
        for stage, index in zip(self.stages, self._indices):
            x = features[index]
            x = x if self._channels_last else x.permute(0, 2, 3, 1)
            if str(stage) in self.norms:
                x = self.norms[str(stage)](x)
            maps.append(x.permute(0, 3, 1, 2))
        return maps

    def set_checkpointing(self, enable=True):
        """Recompute stages in the backward pass instead of keeping their activations."""
        if hasattr(self.body, "set_grad_checkpointing"):
            self.body.set_grad_checkpointing(enable)
        for module in self.body.modules():
            if hasattr(module, "grad_checkpointing"):
                module.grad_checkpointing = enable


def _create(name, drop_path, pretrained, **kwargs):
    timm_name, own = PUBLISHED.get(name, (name, {}))
    kwargs = {**own, **kwargs}
    if name in PUBLISHED and not name.startswith("resnet"):
        kwargs = {**kwargs, "drop_path_rate": drop_path}
    if pretrained and pretrained is not True:
        kwargs = {**kwargs, "pretrained_cfg_overlay": {"file": str(pretrained)}}
    try:
        body = timm.create_model(timm_name, pretrained=bool(pretrained), features_only=True, **kwargs)
    except OSError as error:
        what = f"the file {pretrained}" if pretrained is not True else "the network"
        raise UserError(
            f"the ImageNet weights of backbone {name!r} could not be had from {what} ({str(error).splitlines()[0]}): "
            "name a file that holds them, or start without them."
        ) from error
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        if timm.is_model(timm_name):
            raise UserError(f"timm cannot make feature maps of {name!r}: {error}") from error
        near = did_you_mean(name, [*PUBLISHED, *timm.list_models()])
        raise UserError(f"there is no backbone {name!r}: not a published name, nor one of timm's.{near}") from None
    body = freeze_batch_norm_2d(body)  # batches of one or two pictures have no statistics worth learning from
    for module in body.modules():
        # timm starts the last norm of a residual branch at zero, for training to raise; frozen, it would stay dead
        frozen = isinstance(module, (FrozenBatchNorm2d, FrozenBatchNormAct2d))
        if frozen and not module.weight.is_meta and not module.weight.any():
            module.weight.fill_(1)
    if name.startswith("swin_") and name in PUBLISHED:
        body.patch_embed.dynamic_img_pad = True
        for module in body.modules():
            if isinstance(module, SwinTransformerBlock):
                module.__class__ = PaddedSwinBlock
    return body


def _is_channels_last(body):
    return str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")


class PaddedSwinBlock(SwinTransformerBlock):
    """timm's block, padded to whole windows before the cyclic shift instead of after it, as published."""

    def _attn(self, x):
        _, h, w, _ = x.shape
        window_h, window_w = self.window_size
        x = F.pad(x, (0, 0, 0, -w % window_w, 0, -h % window_h))
        return super()._attn(x)[:, :h, :w].contiguous()
