"""A network that finds the same three objects in every image, so that results can be told beforehand."""

from types import SimpleNamespace

import torch
from torch import nn

NAMES = ["cat", None, "dog"]  # output 1 belongs to no class
# query -> (output, score, box cxcywh); a score of the unused output is the highest of all
FOUND = [(0, 0.9, (0.5, 0.5, 0.2, 0.4)), (1, 0.95, (0.5, 0.5, 1.0, 1.0)), (2, 0.6, (0.25, 0.25, 0.5, 0.5))]
FOUND += [(2, 0.1, (0.9, 0.9, 0.4, 0.4))]


class FakeModel(nn.Module):
    def __init__(self, class_names=NAMES):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.class_names, self.category_ids, self.input_size = class_names, None, (64, 107)
        self.config = SimpleNamespace(num_classes=3, num_select=300, backbone="fake")
        self.seen = []

    def forward(self, images):
        self.seen.append([tuple(image.shape) for image in images])
        logits = torch.full((len(images), len(FOUND), 3), -20.0)
        for query, (label, score, _) in enumerate(FOUND):
            logits[:, query, label] = torch.tensor(score).logit()
        boxes = torch.tensor([box for _, _, box in FOUND]).expand(len(images), -1, -1)
        return {"pred_logits": logits, "pred_boxes": boxes}
