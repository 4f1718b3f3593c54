"""A recipe sized in optimiser steps: what follows from the number of images, and what the user's own choices keep."""

from dataclasses import replace

import pytest

from dino_nb.config import TrainConfig
from dino_nb.errors import UserError
from dino_nb.presets import TRAIN_PRESETS
from dino_nb.training import trainer
from dino_nb.training.progress import read_log
from dino_nb.training.recipe import fit_into, of_length, size_in_steps
from tests.training.tiny_run import CONFIG, tiny_run

STEPS = TRAIN_PRESETS["finetune"]


def test_recipe_of_published_presets_is_left_alone():
    for name, config in TRAIN_PRESETS.items():
        if name not in ("finetune", "t4", "small"):
            assert size_in_steps(config, 200) is config


@pytest.mark.parametrize("images, batch", [(1, 4), (25, 4), (200, 4), (799, 4), (800, 8), (1600, 16), (118_000, 16)])
def test_recipe_batch_grows_with_the_data_set(images, batch):
    config = size_in_steps(STEPS, images)
    assert config.batch_size == batch
    assert (config.lr, config.lr_backbone) == (1e-4, 1e-5)


def test_recipe_rates_fall_with_a_smaller_batch():
    config = size_in_steps(TrainConfig(steps=4000, batch_size=16), 200)
    assert (config.batch_size, config.lr, config.lr_backbone) == (4, pytest.approx(5e-5), pytest.approx(5e-6))


@pytest.mark.parametrize("images", [3, 25, 205, 1000, 5000])
def test_recipe_length_is_the_budget(images):
    config = size_in_steps(STEPS, images)
    per_epoch = -(-images // config.batch_size)
    assert config.steps == config.epochs * per_epoch
    assert abs(config.steps - 4000) <= per_epoch / 2 or config.epochs in (12, 100)
    assert config.warmup_steps == round(config.steps / 20)
    assert 15 <= config.epochs / config.eval_every <= 25 or config.eval_every == 1
    assert config.ema_decay == pytest.approx(1 - 40 / config.steps)


def test_recipe_shows_a_small_data_set_a_hundred_times_unless_the_steps_are_given():
    assert size_in_steps(STEPS, 50).epochs == 100
    assert size_in_steps(STEPS, 50, given=["steps"]).epochs == round(4000 / 13)


def test_recipe_shows_a_large_data_set_twelve_times_unless_the_steps_are_given():
    assert size_in_steps(STEPS, 100_000).epochs == 12
    assert size_in_steps(STEPS, 100_000, given=["steps"]).epochs == 1


def test_recipe_keeps_what_the_user_gave():
    given = {"epochs": 10, "batch_size": 2, "lr": 3e-4, "warmup_steps": 7, "ema_decay": 0.5}
    config = size_in_steps(TrainConfig(steps=4000, **given), 200, given)
    assert {name: getattr(config, name) for name in given} == given
    assert config.steps == 1000, "the rest follows from them"


def test_recipe_budget_below_its_warm_up_is_an_error():
    with pytest.raises(UserError, match="warmup_steps=100 leaves nothing of a run of 50 steps"):
        size_in_steps(TrainConfig(steps=50, warmup_steps=100), 200, ["steps", "warmup_steps"])


def test_recipe_of_few_epochs_shortens_a_warm_up_that_would_fill_them():
    config = TrainConfig(epochs=4, batch_size=4, warmup_steps=100)
    assert size_in_steps(config, 101) is config, "104 steps"
    assert size_in_steps(config, 40).warmup_steps == 2, "5 % of 40"
    with pytest.raises(UserError, match="warmup_steps=100 leaves nothing of a run of 40 steps"):
        size_in_steps(config, 40, ["warmup_steps"])


def test_finetune_says_that_it_shortens_the_warm_up(small_sample, tmp_path, capsys):
    tiny_run(small_sample, tmp_path / "run", preset=replace(CONFIG, warmup_steps=100), epochs=1, max_hours=0)
    out = capsys.readouterr().out
    assert "the recipe's warm-up of 100 steps is longer than this run: it is 0 now" in out
    with pytest.raises(UserError, match="warmup_steps=100 leaves nothing of a run of 3 steps"):
        tiny_run(small_sample, tmp_path / "other", epochs=1, warmup_steps=100)


def test_fit_into_leaves_a_run_that_fits_alone():
    config = size_in_steps(STEPS, 200)
    assert fit_into(config, 50, seconds=1e9, step=0.5, evaluation=10) is config


@pytest.mark.parametrize("seconds", [600, 1800, 3600])
@pytest.mark.parametrize("evaluation", [1, 30, 60])
def test_fit_into_ends_within_the_time(seconds, evaluation):
    config = fit_into(size_in_steps(STEPS, 200), 50, seconds, step=1.0, evaluation=evaluation)
    evaluations = 1 + -(-config.epochs // config.eval_every)
    assert config.steps == config.epochs * 50 < 4000
    assert 0.6 * seconds < config.steps + (1 + evaluations) * evaluation <= seconds
    assert config.warmup_steps == round(config.steps / 20), "the whole schedule is that of the shorter run"


def test_fit_into_keeps_what_the_user_gave():
    given = {"warmup_steps": 3, "eval_every": 7}
    config = size_in_steps(TrainConfig(steps=4000, **given), 200, given)
    shorter = fit_into(config, 50, 600, step=1.0, evaluation=10, given=given)
    assert (shorter.warmup_steps, shorter.eval_every) == (3, 7)


def test_finetune_shapes_a_run_to_its_hours(small_sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "_UNTIMED", 1)
    monkeypatch.setattr(trainer, "_TIMED", 4)
    monkeypatch.setattr(trainer, "fit_into", lambda config, per_epoch, *rest: of_length(config, 3, per_epoch))
    options = {"preset": replace(CONFIG, steps=4000, schedule="cosine"), "batch_size": 2, "max_hours": 1}
    stopped = tiny_run(small_sample, tmp_path, **{**options, "max_hours": 0})
    assert stopped.stopped == "max_hours"
    result = tiny_run(small_sample, tmp_path, resume="auto", **options)
    assert result.stopped == "finished" and result.history[-1]["epoch"] == 3
    assert "there is time for 3 epochs, which is little" in "".join(capsys.readouterr())
    steps = [r for r in read_log(tmp_path / "log.jsonl") if r["kind"] == "step"]
    assert len(steps) == 9 and steps[-1]["lr"] < 0.2 * CONFIG.lr, "the rate is at its end"
    assert tiny_run(small_sample, tmp_path, resume="auto", **options).stopped == "finished", (
        "and stays as it was shaped"
    )
