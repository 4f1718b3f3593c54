"""What ``watch`` shows is what the network used."""

import pytest
import torch

from dino_nb.models.tap import watch
from dino_nb.ops import ms_deform_attn
from tests.models.test_dino import TINY, tiny


@pytest.fixture(scope="module")
def traced():
    model = tiny().eval()
    images = [torch.rand(3, 64, 96), torch.rand(3, 128, 80)]
    with torch.inference_mode(), watch(model) as seen:
        model([torch.rand(3, 32, 32)])  # replaced by the next pass
        outputs = model(images)
    return model, seen, outputs


def test_trace_has_every_layer(traced):
    _, seen, outputs = traced
    shapes = [(16, 12), (8, 6), (4, 3)]
    assert seen.spatial_shapes == shapes
    tokens = sum(h * w for h, w in shapes)
    assert seen.memory.shape == (2, tokens, 64) and seen.valid_ratios.shape == (2, 3, 2)
    assert len(seen.encoder) == len(seen.decoder) == 2
    assert seen.boxes.shape == seen.references.shape == (2, 2, 60, 4) and seen.logits.shape == (2, 2, 60, 7)
    assert torch.equal(seen.boxes[-1], outputs["pred_boxes"]) and torch.equal(seen.logits[-1], outputs["pred_logits"])
    # the first layer starts where the selected proposals are
    assert torch.allclose(seen.references[0], seen.proposals["pred_boxes"])
    assert (seen.proposals["tokens"] < tokens).all()


def test_trace_says_which_tokens_were_selected(traced):
    """The grid box of a selected token lies at the token's cell (of images without padding)."""
    model = traced[0]
    with torch.inference_mode(), watch(model) as seen:
        model([torch.rand(3, 64, 96)])
    token, box = seen.proposals["tokens"][0, 0].item(), seen.proposals["proposal_boxes"][0, 0]
    for h, w in seen.spatial_shapes:
        if token < h * w:
            break
        token -= h * w
    assert torch.allclose(box[:2], torch.tensor([(token % w + 0.5) / w, (token // w + 0.5) / h]), atol=1e-5)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_trace_attention_is_what_the_layer_computed(part, traced):
    _, seen, _ = traced
    attention = getattr(seen, part)[1]
    queries = [3, 11]
    locations, weights = attention.sampling_locations(queries), attention.attention_weights(queries)
    assert locations.shape == (2, 2, 4, 3, 4, 2) and weights.shape == (2, 2, 4, 3, 4)
    assert torch.allclose(weights.sum((-2, -1)), torch.ones(2, 2, 4))
    memory = torch.rand(2, seen.memory.shape[1], 64)
    with torch.inference_mode():
        value = attention.module.value_proj(memory).unflatten(-1, (4, -1))
        ours = attention.module.output_proj(ms_deform_attn(value, seen.spatial_shapes, locations, weights))
        inputs = attention.query[:, queries], attention.reference_points[:, queries]
        theirs = attention.module(*inputs, memory, seen.spatial_shapes, None)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_watch_leaves_no_hooks(traced):
    hooks = [m for m in traced[0].modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == [] and TINY.enc_layers == 2
