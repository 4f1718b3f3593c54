"""The one custom operator of DINO: multi-scale deformable attention."""

from dino_nb.ops.reference import ms_deform_attn, ms_deform_attn_fused

__all__ = ["ms_deform_attn", "ms_deform_attn_fused"]
