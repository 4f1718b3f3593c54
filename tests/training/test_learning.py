"""That it learns: the embedded sample from scratch, and a changed class list from where the checkpoint stands."""

import json

import pytest

import dino_nb
from dino_nb.prepare.sample import CLASSES, make_sample
from dino_nb.training.finetune import finetune


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """The sample with one class left out, one renamed, the others under other ids and in another order."""
    cocodir = make_sample(tmp_path_factory.mktemp("changed") / "sample", n_train=16, n_val=12, seed=3)
    for file in (cocodir / "annotations").glob("instances_*.json"):
        data = json.loads(file.read_text())
        old = {c["id"]: c["name"] for c in data["categories"]}
        names = {name: name for name in CLASSES} | {CLASSES[4]: "hoop"}
        del names[CLASSES[1]]
        new = {name: 10 + 7 * i for i, name in enumerate(sorted(names.values(), reverse=True))}
        data["categories"] = [{"id": id, "name": name} for name, id in new.items()]
        data["annotations"] = [
            {**a, "category_id": new[names[old[a["category_id"]]]]}
            for a in data["annotations"]
            if old[a["category_id"]] in names
        ]
        file.write_text(json.dumps(data))
    return cocodir


def test_finetune_with_a_changed_class_list_starts_at_the_retained_score(changed, tmp_path, capsys):
    before = dino_nb.evaluate(changed, "dino-tiny", device="cpu", progress=False)
    assert {row["name"] for row in before.per_class} == {"hoop", CLASSES[0], CLASSES[2], CLASSES[3]}
    result = finetune(changed, "dino-tiny", output_dir=tmp_path / "run", preset="tiny", epochs=1, live=False)
    out = capsys.readouterr().out
    assert "classes kept from the checkpoint       3" in out and "new classes                            1  hoop" in out
    start = result.history[0]
    assert start["AP50"] > 0.3, "three of four classes are known"
    assert start["AP50"] == pytest.approx(before.metrics["AP50"], abs=0.02)
    assert start["AP"] == pytest.approx(before.metrics["AP"], abs=0.02)
    assert result.best["AP50"] >= start["AP50"]


def test_finetune_from_random_weights_learns_the_sample(tmp_path):
    """1,536 steps from random weights; the weights that come with the package are the same, longer."""
    cocodir = make_sample(tmp_path / "sample", n_train=512, n_val=48)
    result = finetune(
        cocodir,
        None,
        output_dir=tmp_path / "run",
        preset="tiny",
        epochs=12,
        eval_every=12,
        backbone_weights=False,
        live=False,
    )
    assert result.history[0]["AP50"] < 0.01
    assert result.history[-1]["AP50"] >= 0.9
