import torch

from dino_nb.inference.fusion import mirrored, suppress, weighted_boxes


def found(*rows):
    scores, labels, boxes = zip(*rows) if rows else ((), (), ())
    return {
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
    }


def test_weighted_boxes_average_by_score_and_count_looks():
    """By hand: two looks agree on a box, one alone sees another; a third class is apart though it overlaps."""
    looks = [found((0.8, 0, [0, 0, 10, 10]), (0.6, 1, [0, 0, 10, 10])), found((0.4, 0, [0, 0, 13, 10]))]
    fused = weighted_boxes(looks)
    torch.testing.assert_close(fused["scores"], torch.tensor([(0.8 + 0.4) / 2, 0.6 / 2]))
    assert fused["labels"].tolist() == [0, 1]
    torch.testing.assert_close(
        fused["boxes"], torch.tensor([[0, 0, (0.8 * 10 + 0.4 * 13) / 1.2, 10], [0.0, 0, 10, 10]])
    )


def test_weighted_boxes_keep_what_lies_apart():
    looks = [found((0.9, 0, [0, 0, 10, 10]), (0.5, 0, [20, 0, 30, 10])), found((0.7, 0, [6, 0, 16, 10]))]
    assert len(weighted_boxes(looks)["scores"]) == 3
    assert weighted_boxes([found(), found()])["boxes"].shape == (0, 4)


def test_weighted_boxes_of_equal_looks_change_nothing():
    one = found((0.9, 0, [0, 0, 10, 10]), (0.5, 2, [20, 0, 30, 10]))
    for key, values in weighted_boxes([one, one, one]).items():
        torch.testing.assert_close(values, one[key])


def test_suppress_takes_the_better_of_a_class():
    both = found((0.9, 0, [0, 0, 10, 10]), (0.8, 0, [1, 0, 11, 10]), (0.7, 1, [1, 0, 11, 10]))
    assert suppress(both, 0.5)["scores"].tolist() == torch.tensor([0.9, 0.7]).tolist()
    assert len(suppress(both, 0.95)["scores"]) == 3


def test_mirrored_twice_is_the_same():
    one = found((0.9, 0, [1, 2, 10, 20]))
    assert mirrored(one, 50)["boxes"].tolist() == [[40, 2, 49, 20]]
    assert torch.equal(mirrored(mirrored(one, 50), 50)["boxes"], one["boxes"])
