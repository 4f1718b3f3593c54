"""Backbones from timm, made to compute what the published ones do, and the projection of their maps to the encoder."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d
from timm.models.resnet import Bottleneck
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from dino_nb.errors import UserError, did_you_mean
from dino_nb.models.fold import fold_norms

# published name -> (timm name with the tag of its pre-training, extra arguments for timm)
_SWIN = {"strict_img_size": False, "always_partition": True}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
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
        pretrained: False; True to download timm's own weights; or a file with classification weights.

    Attributes:
        channels: of the maps that ``forward`` returns.
        norms: for Swin and ConvNeXt a LayerNorm per stage, as in dense prediction; those of unused stages (which some
            files hold) are frozen.
        least_side: minimum height and width of a batch, in pixels. The published ResNets and Swins take any size;
            other backbones may stride away an image that is smaller than a cell of the last map.
    """

    def __init__(
        self, name: str, stages: Sequence[int], drop_path: float = 0.0, pretrained: bool | str | Path = False
    ) -> None:
        super().__init__()
        self.body: Any = _create(name, drop_path, pretrained)
        info = self.body.feature_info
        strides = [4 * 2**s for s in stages]
        if missing := [s for s in strides if s not in info.reduction()]:
            raise UserError(
                f"backbone {name!r} has no feature map of stride {missing[0]} (it has {info.reduction()}): choose "
                f"another backbone, or stages it has by return_interm_indices (0..3 for strides 4, 8, 16, 32)."
            )
        # of two maps with one stride the later sees more
        self._indices = [len(info) - 1 - info.reduction()[::-1].index(s) for s in strides]
        self.channels: list[int] = [info.channels()[i] for i in self._indices]
        if self._indices[-1] < len(info) - 1:  # what comes after the last map in use is neither computed nor trained
            self.body = _create(name, drop_path, pretrained, out_indices=tuple(self._indices))
            self._indices = list(range(len(strides)))
        self._channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
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

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` to a list of ``(B, C_i, h_i, w_i)``, h_i about H / stride."""
        # Tokens are channels last: maps that are so too need no copy. With one thread and gradients PyTorch has no such
        # 1x1 convolutions in float32, and would copy each map twice.
        half = torch.is_autocast_enabled("cpu")
        wanted = not torch.is_grad_enabled() or torch.get_num_threads() > 1 or half
        if images.device.type == "cpu" and not self._channels_last and wanted:
            images = images.contiguous(memory_format=torch.channels_last)
        features = self.body(images)
        maps = []
        for stage, index in zip(self.stages, self._indices):
            x = features[index]  # [bs, C_i, h_i, w_i], or channels last
            x = x if self._channels_last else x.permute(0, 2, 3, 1)  # [bs, h_i, w_i, C_i]
            if str(stage) in self.norms:
                x = self.norms[str(stage)](x)
            maps.append(x.permute(0, 3, 1, 2))
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute stages in the backward pass instead of keeping their activations."""
        if hasattr(self.body, "set_grad_checkpointing"):
            self.body.set_grad_checkpointing(enable)
        for module in self.body.modules():
            if hasattr(module, "grad_checkpointing"):
                module.grad_checkpointing = enable


class InputProj(nn.ModuleList):
    """1x1 convolutions on the backbone's maps; further levels by 3x3 stride-2 convolutions from the last one."""

    def __init__(self, in_channels: list[int], hidden_dim: int, num_levels: int) -> None:
        extra = num_levels - len(in_channels)
        sources = [(c, 1) for c in in_channels]
        sources += [(in_channels[-1] if i == 0 else hidden_dim, 3) for i in range(extra)]
        super().__init__(
            nn.Sequential(
                nn.Conv2d(c, hidden_dim, kernel, stride=1 if kernel == 1 else 2, padding=kernel // 2),
                nn.GroupNorm(32, hidden_dim),
            )
            for c, kernel in sources
        )
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                nn.init.xavier_uniform_(conv.weight)
                nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """List of ``(B, C_i, h_i, w_i)`` to a list of ``num_levels`` maps ``(B, hidden_dim, h, w)``."""
        srcs = [proj(feature) for proj, feature in zip(self, features)]
        for i, proj in enumerate(list(self)[len(features) :]):
            srcs.append(proj(features[-1] if i == 0 else srcs[-1]))
        return srcs


def flatten_levels(maps: list[Tensor]) -> Tensor:
    """List of ``(B, C, h, w)`` to tokens ``(B, S, C)``, level after level, row by row."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)


def _create(name: str, drop_path: float, pretrained: bool | str | Path, **kwargs: Any) -> Any:
    timm_name, own = PUBLISHED.get(name, (name, {}))
    if not timm.is_model(timm_name):  # nor is anything that timm would download or read by its name ("hf-hub:...")
        near = did_you_mean(name, [*PUBLISHED, *timm.list_models()])
        raise UserError(f"there is no backbone {name!r}: not a published name, nor one of timm's.{near}")
    kwargs = {**own, **kwargs}
    if name in PUBLISHED and not name.startswith("resnet"):
        kwargs["drop_path_rate"] = drop_path
    state: dict[str, Tensor] = {}
    if pretrained and pretrained is not True:
        state = _read_weights(Path(pretrained), name)
        kwargs["pretrained_cfg_overlay"] = {"state_dict": state}
    make = partial(timm.create_model, timm_name, pretrained=bool(pretrained), features_only=True, **kwargs)
    try:
        try:
            body = make()
        except NotImplementedError:  # timm 1.0.20 reads values while it builds, and on "meta" there are none
            with torch.device("cpu"):
                body = make()
            body = body.to(torch.get_default_device())
    except OSError as error:
        raise UserError(
            f"the ImageNet weights of backbone {name!r} could not be downloaded ({str(error).splitlines()[0]}). Is "
            "there a network? Otherwise give a file that holds them as backbone_weights (in a terminal: BACKBONE), or "
            "start from a checkpoint, which brings its own."
        ) from error
    except (RuntimeError, AttributeError, TypeError, ValueError, KeyError) as error:
        held = f" with the weights in {pretrained}" if state else ""
        raise UserError(f"timm cannot make feature maps of {name!r}{held}: {error}") from error
    if state and not _first_values(state.values()) & _first_values(body.parameters()):  # timm only logs this
        raise UserError(f"no weight in {pretrained} fits backbone {name!r}: it is a file of another network.")
    for module in body.modules():
        if isinstance(settings := getattr(module, "pretrained_cfg", None), dict):
            settings.pop("state_dict", None)  # or every copy of the model would carry it along
    body = freeze_batch_norm_2d(body)  # batches of one or two images have no statistics worth learning from
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
    elif not next(body.parameters()).is_meta:
        fold_norms(body)
        if name in PUBLISHED and name.startswith("resnet"):
            body.conv1.relu, body.act1 = True, nn.Identity()
            for module in body.modules():
                if isinstance(module, Bottleneck):
                    module.__class__ = FoldedBottleneck
    return body


def _first_values(tensors: Iterable[Tensor]) -> set[tuple]:
    return {(*x.shape, x.flatten()[0].item()) for x in tensors if x.dim() > 1 and not x.is_meta}


def _read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """The state dict in a file, read without running code (timm itself does so from 1.0.26 on)."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            content: Any = load(path.read_bytes())
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
            content = content[key] if isinstance(content.get(key), dict) else content
        return {k.removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    except Exception as error:  # a stranger's file can fail the readers in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the ImageNet weights of backbone {name!r} could not be read from {path} ({reason}): name a PyTorch or "
            "safetensors file that holds nothing but weights."
        ) from error


class FoldedBottleneck(Bottleneck):
    """timm's ResNet block, whose convolutions hold their norms and end in the ReLU and the residual."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)  # [bs, 4 * planes, h, w]
        x = self.conv1(x, relu=True)  # [bs, planes, H, W]
        x = self.conv2(x, relu=True)  # [bs, planes, h, w], which strides where the stage begins
        return self.conv3(x, relu=True, add=shortcut)  # [bs, 4 * planes, h, w]


class PaddedSwinBlock(SwinTransformerBlock):
    """timm's block, padded to whole windows before the cyclic shift instead of after it, as published."""

    def _attn(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        window_h, window_w = self.window_size
        x = F.pad(x, (0, 0, 0, -w % window_w, 0, -h % window_h))
        return super()._attn(x)[:, :h, :w].contiguous()
