"""``model.optimize()`` computes what the plain network does; the folded norms what timm's do."""

import copy
import pickle

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torchvision.ops import FrozenBatchNorm2d

from dino_nb.models import fast, fold
from dino_nb.models.backbone import Backbone
from dino_nb.models.tap import watch
from tests.benchmarks.published import published_formulation
from tests.models.test_dino import some_targets, tiny

CNNS = ["resnet50", "tf_efficientnet_lite0", "mobilenetv3_small_100", "test_convnext"]


def norms_that_matter(module):
    """Frozen norms far from the identity, and weights that keep activations in range."""
    generator = torch.Generator().manual_seed(0)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "bias")):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
        elif name.endswith(("running_var", "weight")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


@pytest.fixture(scope="module", params=["resnet50", "tf_efficientnet_lite0"])
def model(request):
    model = tiny(backbone=request.param).eval()
    norms_that_matter(model.backbone)
    return model


@pytest.mark.parametrize("name", CNNS)
def test_folded_norms_compute_what_timm_does(name):
    torch.manual_seed(0)
    ours = Backbone(name, (1, 2, 3)).eval()
    theirs = freeze_batch_norm_2d(timm.create_model(name, features_only=True)).eval()
    norms_that_matter(ours.body)
    assert theirs.load_state_dict(ours.body.state_dict(), strict=False).unexpected_keys == []
    image = torch.rand(1, 3, 70, 90)
    with torch.no_grad():
        wanted = dict(zip(theirs.feature_info.reduction(), theirs(image)))
        for stride, feature in zip((8, 16, 32), ours(image)):
            assert torch.allclose(feature, wanted[stride], rtol=1e-3, atol=1e-4 * wanted[stride].std())
    folded = [m for m in ours.body.modules() if isinstance(m, fast.Conv2d) and m.norms]
    assert len(folded) > 30 or name == "test_convnext"


class _Odd(torch.nn.Module):
    """A network whose convolution is read by its norm, and by something else."""

    def __init__(self, least=1):
        super().__init__()
        self.conv, self.norm, self.least = torch.nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4), least
        self.norm.bias.fill_(1)

    def forward(self, x):
        assert x.shape[-1] >= self.least
        x = self.conv(x)
        return [self.norm(x), x * 2]


@pytest.mark.parametrize("least", [1, 224])
def test_fold_norms_leaves_odd_networks_alone(least):
    body = _Odd(least)
    fold.fold_norms(body)
    assert type(body.conv) is torch.nn.Conv2d and type(body.norm) is FrozenBatchNorm2d
    assert not hasattr(body.conv, "norms"), "or optimize() would fold it all the same"


def test_folded_norms_pass_the_same_gradients():
    model = tiny(backbone="resnet50", dn_number=0).train()
    norms_that_matter(model.backbone)
    with torch.no_grad():
        model.bbox_embed.layers[-1].weight.normal_(std=0.01)
    other = published_formulation(model)
    grads = []
    for network in (model, other):
        features = network.double().backbone(torch.ones(1, 3, 64, 96, dtype=torch.float64))
        sum(f.square().mean() for f in features).backward()
        grads.append({k: p.grad for k, p in network.backbone.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 30
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name], rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("sizes", [[(64, 96)], [(64, 96), (120, 80)]])
def test_optimized_outputs_are_within_1e_4(model, sizes):
    images = [torch.rand(3, *size) for size in sizes]
    fused = copy.deepcopy(model).optimize()
    with torch.inference_mode():
        wanted = model(images)
        with watch(fused) as seen:
            got = fused(images)
    assert seen.memory.shape[0] == len(sizes) and len(seen.decoder) == 2
    for key in ("pred_logits", "pred_boxes"):
        assert (got[key] - wanted[key]).abs().max() < 1e-4
    assert torch.equal(got["interm_outputs"]["tokens"], wanted["interm_outputs"]["tokens"])


def test_optimized_network_notices_new_weights(model):
    fused, image = copy.deepcopy(model).optimize(), [torch.rand(3, 64, 64)]
    with torch.inference_mode():
        before = fused(image)["pred_logits"]
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.mul_(1.1)
        for name, buffer in fused.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1)
    changed = copy.deepcopy(fused).optimize(False)
    with torch.inference_mode():
        assert (fused(image)["pred_logits"] - changed(image)["pred_logits"]).abs().max() < 1e-4
        assert (fused(image)["pred_logits"] - before).abs().max() > 1e-3


def test_optimized_network_trains_and_copies_as_before(model):
    fused = copy.deepcopy(model).optimize()
    with torch.inference_mode():
        fused([torch.rand(3, 64, 64)])  # weights are packed now
    assert fused.state_dict().keys() == model.state_dict().keys()
    copies = [copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), model]
    targets, losses = some_targets([2]), []
    for network in copies:
        torch.manual_seed(0)
        outputs = network.train()([torch.ones(3, 64, 64)], targets)
        losses.append(outputs["pred_logits"].sum() + outputs["pred_boxes"].sum())
        losses[-1].backward()
        network.zero_grad(set_to_none=True)
        network.eval()
    assert torch.equal(losses[0], losses[2]) and torch.equal(losses[1], losses[2])


def test_optimized_network_falls_back_on_other_types(model):
    fused, image = copy.deepcopy(model).optimize().double(), torch.rand(3, 64, 64).double()
    with torch.inference_mode():
        assert torch.equal(fused([image])["pred_boxes"], copy.deepcopy(model).double()([image])["pred_boxes"])


def feed_forward_layers():
    torch.manual_seed(0)
    norm = torch.nn.LayerNorm(8)
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return norm, fast.Linear(8, 32), fast.Linear(32, 8)


@pytest.mark.parametrize("tokens", [7, 1024, 2500])
def test_feed_forward_passes_the_gradients_of_separate_layers(tokens):
    norm, linear1, linear2 = layers = [layer.double() for layer in feed_forward_layers()]
    x = torch.randn(2, tokens, 8, dtype=torch.float64, requires_grad=True)
    inputs = [x, *(parameter for layer in layers for parameter in layer.parameters())]
    separate = norm(x) + linear2(linear1(norm(x)).relu())
    grads = []
    for out in (fast.feed_forward(x, *layers, torch.nn.Dropout(0.0)), separate):
        grads.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(*grads))


def test_feed_forward_drops_out_where_asked_to():
    layers = feed_forward_layers()
    x = torch.randn(1, 5, 8)
    assert not torch.equal(*(fast.feed_forward(x, *layers, torch.nn.Dropout(0.5)) for _ in range(2)))
    with torch.autocast("cpu", torch.bfloat16):
        got = fast.feed_forward(x, *layers, torch.nn.Dropout(0.0))
    wanted = fast.feed_forward(x, *layers, torch.nn.Dropout(0.0))
    assert torch.allclose(got, wanted, atol=0.05) and not torch.equal(got, wanted), "computed in 16 bits"


def test_optimized_network_casts_its_weights_once_under_autocast(model):
    plain, image = copy.deepcopy(model), [torch.rand(3, 64, 64)]
    fused = copy.deepcopy(model).optimize()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        wanted, got = plain(image), fused(image)
        layer = fused.encoder.layers[0].linear1
        _, weight, _ = layer.packed.get(layer, torch.rand(1, 64))
        assert weight.dtype == torch.bfloat16 and layer.packed.get(layer, torch.rand(1, 64))[1] is weight
    assert torch.allclose(got["pred_logits"].float(), wanted["pred_logits"].float(), atol=0.05)


def test_published_formulation_computes_the_same(model):
    model = copy.deepcopy(model).double()
    images = [torch.rand(3, 64, 96).double(), torch.rand(3, 96, 70).double()]
    with torch.inference_mode():
        wanted, got = model(images), published_formulation(model)(images)
    for key in ("pred_logits", "pred_boxes"):
        assert torch.allclose(got[key], wanted[key], atol=1e-5)
