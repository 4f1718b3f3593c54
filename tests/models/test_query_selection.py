import pytest
import torch
from torchvision.ops import generalized_box_iou

from dino_nb.config import ModelConfig
from dino_nb.models import query_selection
from dino_nb.models.layers import cxcywh_to_xyxy
from dino_nb.models.query_selection import QuerySelection, distinct_first


def test_distinct_first_puts_near_copies_last_in_their_order():
    a, b, near_a, far = [0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.2, 0.3], [0.31, 0.3, 0.2, 0.2], [0.3, 0.5, 0.2, 0.2]
    boxes = torch.tensor([[a, near_a, b, near_a, far], [far, b, a, near_a, near_a]])
    assert distinct_first(boxes, 0.5).tolist() == [[0, 2, 4, 1, 3], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("rows", [64, 512])
def test_distinct_first_judges_a_box_by_all_better_ones(rows, monkeypatch):
    monkeypatch.setattr(query_selection, "_ROWS", rows)  # the last of five blocks is ragged; or one block
    torch.manual_seed(0)
    boxes = torch.rand(1, 300, 4) * torch.tensor([0.6, 0.6, 0.2, 0.2]) + 0.2
    corners = cxcywh_to_xyxy(boxes[0])
    overlaps = generalized_box_iou(corners, corners)
    copies = [i for i in range(300) if any(overlaps[i, j] > 0.6 for j in range(i))]
    assert 20 < len(copies) < 280
    assert distinct_first(boxes, 0.6)[0].tolist() == [i for i in range(300) if i not in copies] + copies


@pytest.mark.parametrize("queries", [10, 60, 1000])
def test_query_selection_starts_queries_apart(queries):
    torch.manual_seed(0)
    shapes, sizes = [(12, 16), (6, 8)], torch.tensor([[16.0, 12.0], [8.0, 6.0]]).expand(2, -1, -1)
    memory = torch.randn(2, 12 * 16 + 6 * 8, 64)
    config = {"hidden_dim": 64, "num_queries": queries, "num_classes": 3}
    plain = QuerySelection(ModelConfig(**config))
    with torch.no_grad():
        plain.bbox_embed.layers[-1].bias[2:] += 2  # larger than a cell: neighbours overlap
    distinct = QuerySelection(ModelConfig(**config, proposal_nms=0.1))
    distinct.load_state_dict(plain.state_dict())
    references, outputs = distinct(memory, shapes, sizes, None)
    before = plain(memory, shapes, sizes, None)[1]
    assert references.shape == (2, min(queries, 240), 4)
    assert torch.equal(references.sigmoid(), outputs["pred_boxes"])
    for boxes, other in zip(outputs["pred_boxes"], before["pred_boxes"]):
        if queries < 60:
            assert _near(boxes) == 0 < _near(other)
        elif queries > 240:
            assert torch.equal(boxes.sort(0).values, other.sort(0).values), "every token, in another order"
    # the best token comes first in both
    assert torch.equal(outputs["pred_logits"][:, 0], before["pred_logits"][:, 0])


def _near(boxes):
    """Pairs that overlap so much that one of them should have given way."""
    corners = cxcywh_to_xyxy(boxes.detach())
    return int((generalized_box_iou(corners, corners).triu(1) > 0.1).sum())
