import dataclasses

import pytest
import torch

from dino_nb.errors import UserError
from dino_nb.models.dino import build_model
from dino_nb.presets import preset
from dino_nb.training.warmstart import PRIOR_BIAS, warm_start
from tests.training.tiny_run import MODEL

HEADS = ("class_embed.weight", "class_embed.bias", "query_selection.class_embed.weight")


def detector(names, seed, **changes):
    config = {**MODEL, "num_classes": len(names), "dn_labelbook_size": len(names), **changes}
    torch.manual_seed(seed)
    model = build_model(dataclasses.replace(preset("dino-tiny"), **config))
    model.class_names = list(names)
    torch.nn.init.normal_(model.class_embed.bias)
    return model.eval()


def test_warm_start_rows_follow_their_class():
    source, model = detector(["cat", "dog", "cow"], 0), detector(["cow", "bird", "cat"], 1)
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    report = warm_start(model, source.state_dict(), rows={0: 2, 2: 0})
    old, new = source.state_dict(), model.state_dict()
    for name in (*HEADS, "label_enc.weight"):
        assert torch.equal(new[name][0], old[name][2]) and torch.equal(new[name][2], old[name][0])
    assert new["class_embed.weight"][1].abs().sum() == 0
    assert new["class_embed.bias"][1] == pytest.approx(PRIOR_BIAS)
    assert torch.equal(new["label_enc.weight"][1], fresh["label_enc.weight"][1])
    assert report.kept_classes == ["cow", "cat"] and report.new_classes == ["bird"]
    others = [n for n in new if n not in report.by_class]
    assert all(torch.equal(new[n], old[n]) for n in others) and report.loaded == others
    assert len(report.by_class) == 5


def test_warm_start_predicts_kept_classes_as_the_checkpoint_does():
    """Classes in another order and a new one among them: what is said of the old ones stays the same."""
    source, model = detector(["cat", "dog"], 0), detector(["dog", "new", "cat"], 1)
    warm_start(model, source.state_dict(), rows={0: 1, 2: 0})
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 64)]
    with torch.no_grad():
        before, after = source(images), model(images)
    torch.testing.assert_close(after["pred_boxes"], before["pred_boxes"])
    torch.testing.assert_close(after["pred_logits"][..., [2, 0]], before["pred_logits"])
    assert (after["pred_logits"][..., 1] == PRIOR_BIAS).all()


def test_warm_start_leaves_ignored_parts_and_refuses_a_typo():
    source, model = detector(["cat", "dog"], 0), detector(["cat", "dog"], 1)
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    report = warm_start(model, source.state_dict(), {0: 0, 1: 1}, ignore=["label_enc.weight", "class_embed"])
    assert set(report.ignored) == {n for n in fresh if "class_embed" in n} | {"label_enc.weight"}
    assert all(torch.equal(model.state_dict()[n], fresh[n]) for n in report.ignored)
    assert report.by_class == []
    with pytest.raises(
        UserError, match=r"--finetune_ignore 'clas_embed' matches no tensor. Did you mean 'class_embed'"
    ):
        warm_start(model, source.state_dict(), ignore=["clas_embed"])


def test_warm_start_lists_misfits_with_both_shapes():
    source, model = detector(["cat"], 0), detector(["cat"], 1, num_queries=12, enc_layers=2)
    report = warm_start(model, source.state_dict(), {0: 0})
    assert report.misfits == {"tgt_embed.weight": ((10, 32), (12, 32))}
    assert all(name.startswith("encoder.layers.1.") for name in report.missing) and report.missing
    table = report.table()
    assert "tgt_embed.weight (10, 32) -> (12, 32)" in table and "re-initialised: not in checkpoint" in table
    assert "cat" in table
    assert max(map(len, table.splitlines())) < 200


def test_warm_start_without_names_loads_tensors_of_the_same_shape():
    source, model = detector(["a", "b"], 0), detector(["a", "b"], 1)
    warm_start(model, source.state_dict())
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())


def test_warm_start_refuses_a_checkpoint_of_something_else():
    with pytest.raises(UserError, match="nothing in this checkpoint fits"):
        warm_start(detector(["a"], 0), {"fc.weight": torch.zeros(2, 2)})
