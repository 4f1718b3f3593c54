"""A few small calls of the op, forward and backward, for compute-sanitizer: ``python -m tests.gpu.small``."""

import torch

from dino_nb import ops
from tests.ops.cases import SHAPES, make


def main() -> None:
    ops.build()
    assert ops.status()["cuda"].startswith("native"), ops.status()
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        for dtype in (torch.float32, torch.float16):
            for d, q, p in ((32, 130, 4), (7, 5, 3)):
                value, points, offsets, logits = make(d=d, q=q, p=p, dtype=dtype, device="cuda")
                inputs = [x.requires_grad_() for x in (value, offsets, logits)]
                out = ops.ms_deform_attn_fused(value, SHAPES, points, offsets, logits)
                torch.autograd.grad(out.float().sum(), inputs)
    torch.cuda.synchronize()
    print("done")


if __name__ == "__main__":
    main()
