"""Saving training states and finding the one to go on from, whatever happened to the files."""

import dataclasses
import json
import random
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_nb.errors import UserError
from dino_nb.training.copier import Copier
from dino_nb.training.randomness import seed_everything
from dino_nb.training.state import (
    BEST,
    LAST,
    PREVIOUS,
    StateKeeper,
    check_same_run,
    data_fingerprint,
    describe_difference,
)
from dino_nb.training.state_file import BadStateError, read_head, read_state, write_state


def make_state(step, epoch=0):
    return {
        "epoch": epoch,
        "step": step,
        "model": {"weight": torch.full((50,), float(step)), "half": torch.ones(3, dtype=torch.bfloat16)},
        "history": [{"loss": 1.5, "ap": None}],
        "config": {"lr": 1e-4, "lr_drop": (11,)},
        "data_fingerprint": {"instances_train2017.json": "a" * 64},
    }


@pytest.fixture
def reports():
    return []


@pytest.fixture
def keeper(tmp_path, reports):
    return StateKeeper(tmp_path / "run", 0, report=reports.append)


def test_a_state_comes_back_as_it_was_saved(keeper):
    keeper.save(make_state(7))
    state = keeper.load("auto")
    assert state["step"] == 7 and state["config"]["lr_drop"] == (11,) and state["history"][0]["ap"] is None
    assert torch.equal(state["model"]["weight"], torch.full((50,), 7.0))
    assert state["model"]["half"].dtype == torch.bfloat16


def test_last_previous_and_best_are_kept(keeper):
    for step in range(4):
        keeper.save(make_state(step), is_best=step == 1)
    steps = {name: read_state(keeper.output_dir / name)["step"] for name in (LAST, PREVIOUS, BEST)}
    assert steps == {LAST: 3, PREVIOUS: 2, BEST: 1}
    assert sorted(p.name for p in keeper.output_dir.iterdir()) == sorted([LAST, PREVIOUS, BEST])


def test_it_is_due_by_the_clock(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dino_nb.training.state.time.monotonic", lambda: now[0])
    keeper = StateKeeper(tmp_path, every_minutes=10)
    assert not keeper.due()
    now[0] += 600
    assert keeper.due()
    keeper.save(make_state(1))
    assert not keeper.due()


def test_a_state_file_loads_with_torch_alone(keeper):
    keeper.save(make_state(3))
    assert torch.load(keeper.output_dir / LAST, weights_only=True)["step"] == 3


def test_numpy_dataclasses_and_paths_are_saved_as_plain_data(tmp_path):
    @dataclasses.dataclass
    class Settings:
        rate: float = 0.5

    write_state(tmp_path / "s.pt", {"ap": np.float64(0.25), "counts": np.arange(3), "set": Settings(), "at": tmp_path})
    state = read_state(tmp_path / "s.pt")
    assert state["ap"] == 0.25 and type(state["ap"]) is float and state["set"] == {"rate": 0.5}
    assert state["counts"].tolist() == [0, 1, 2] and state["at"] == str(tmp_path)


def test_what_could_not_be_loaded_again_is_refused_at_once_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"state\['history'\]\[0\]\['when'\] is a object"):
        write_state(tmp_path / "s.pt", {"history": [{"when": object()}]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -60, -300])
def test_a_truncated_file_falls_back_to_the_one_before_and_says_so(keeper, reports, keep):
    keeper.save(make_state(1))
    keeper.save(make_state(2))
    last = keeper.output_dir / LAST
    last.write_bytes(last.read_bytes()[:keep])
    assert keeper.load("auto")["step"] == 1
    assert len(reports) == 1 and str(last) in reports[0] and PREVIOUS in reports[0] and "step 1" in reports[0]


_WHOLE = []


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_every_flipped_bit_is_noticed(tmp_path_factory, where, bit):
    if not _WHOLE:
        path = tmp_path_factory.mktemp("flip") / "state.pt"
        write_state(path, make_state(1))
        _WHOLE.extend([path, path.read_bytes()])
    path, whole = _WHOLE
    damaged = bytearray(whole)
    damaged[int(where * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    with pytest.raises(BadStateError):
        read_state(path)


def test_every_flipped_bit_of_the_tail_is_noticed(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, make_state(1))
    whole = path.read_bytes()
    for at in range(read_head(path)["payload"], len(whole)):
        for bit in (0, 5):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(BadStateError):
                read_state(path)


def test_when_no_whole_state_is_left_the_error_says_what_to_do(keeper):
    keeper.save(make_state(1))
    (keeper.output_dir / LAST).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"state_last.pt cannot be resumed: it has no end mark.*overwrite"):
        keeper.load("auto")


def test_nothing_is_resumed_unasked(keeper):
    assert keeper.load(None) is None
    keeper.save(make_state(1))
    with pytest.raises(UserError, match=r'holds a training state already.*resume="auto".*--overwrite'):
        StateKeeper(keeper.output_dir).load(None)


def test_starting_over_sets_the_states_before_aside_until_its_first_save(tmp_path):
    keeper = StateKeeper(tmp_path / "run", drive_dir=tmp_path / "drive")
    for step in (8, 9):
        keeper.save(make_state(step), is_best=True)
        keeper.wait()
    over = StateKeeper(keeper.output_dir, drive_dir=keeper.drive_dir)
    assert over.load(None, overwrite=True) is None
    replaced = [f"replaced_{name}" for name in (BEST, LAST, PREVIOUS)]
    for folder in (keeper.output_dir, keeper.drive_dir):
        assert sorted(p.name for p in folder.iterdir()) == replaced
    assert over.load("auto", overwrite=True) is None, "what a launcher starts again does not go on with the old run"
    over.save(make_state(1))
    assert over.wait()
    for folder in (keeper.output_dir, keeper.drive_dir):
        assert [p.name for p in folder.iterdir()] == [LAST]
    assert over.load("auto")["step"] == 1


def test_auto_starts_anew_in_an_empty_folder(keeper):
    assert keeper.load("auto") is None


def test_a_path_is_a_file_or_a_folder(keeper, tmp_path):
    keeper.save(make_state(1))
    keeper.save(make_state(2))
    other = StateKeeper(tmp_path / "other")
    assert other.load(keeper.output_dir)["step"] == 2
    assert other.load(keeper.output_dir / PREVIOUS)["step"] == 1
    assert keeper.load(str(keeper.output_dir / LAST))["step"] == 2
    with pytest.raises(UserError, match=r"there is no training state .*Did you mean 'state_last.pt'"):
        other.load(keeper.output_dir / "state_lst.pt")
    with pytest.raises(UserError, match="holds no training state"):
        other.load(tmp_path)


def test_a_state_from_elsewhere_does_not_push_aside_the_one_that_is_there(keeper, tmp_path):
    keeper.save(make_state(1))
    other = StateKeeper(tmp_path / "other")
    other.save(make_state(5))
    with pytest.raises(UserError, match="holds a training state already"):
        other.load(keeper.output_dir / LAST)
    assert other.load(keeper.output_dir / LAST, overwrite=True)["step"] == 1


def test_weights_are_told_from_a_training_state(keeper, tmp_path):
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=r"no training state.*--pretrain_model_path"):
        keeper.load(tmp_path / "checkpoint.pth")


def test_a_newer_layout_is_refused(keeper, monkeypatch):
    monkeypatch.setattr("dino_nb.training.state.VERSION", 2)
    keeper.save(make_state(1))
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer dino-nb"):
        keeper.load("auto")


@pytest.mark.parametrize("victim", ["write_state", "_link"])
def test_killed_while_saving_the_folder_still_holds_a_whole_state(keeper, monkeypatch, victim):
    keeper.save(make_state(1))
    keeper.save(make_state(2))

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"dino_nb.training.state.{victim}", die)
    with pytest.raises(KeyboardInterrupt):
        keeper.save(make_state(3))
    monkeypatch.undo()
    half_written = keeper.output_dir / f".{LAST}.abc.part"
    half_written.touch()
    assert keeper.load("auto")["step"] == 2
    keeper.save(make_state(4))
    assert sorted(p.name for p in keeper.output_dir.iterdir()) == [LAST, PREVIOUS], "leftovers are cleared away"


def test_a_full_disk_is_reported_and_costs_no_state(keeper, reports, monkeypatch):
    keeper.save(make_state(1))

    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dino_nb.training.state.write_state", full)
    assert keeper.save(make_state(2)) is False
    assert "No space left" in reports[0]
    assert keeper.load("auto")["step"] == 1


def test_the_drive_copy_serves_when_the_local_disk_is_gone(tmp_path, reports):
    keeper = StateKeeper(tmp_path / "run", drive_dir=tmp_path / "drive", report=reports.append)
    for step in (1, 2):
        keeper.save(make_state(step), is_best=step == 1)
        assert keeper.wait()
    (tmp_path / "run" / "log.jsonl").write_text("{}")
    keeper.copy_also(tmp_path / "run" / "log.jsonl")
    assert keeper.wait()
    assert sorted(p.name for p in (tmp_path / "drive").iterdir()) == ["log.jsonl", BEST, LAST, PREVIOUS]
    assert read_state(tmp_path / "drive" / BEST)["step"] == 1
    fresh = StateKeeper(tmp_path / "new", drive_dir=tmp_path / "drive", report=reports.append)
    with pytest.raises(UserError, match="holds a training state already"):
        fresh.load(None)
    assert fresh.load("auto")["step"] == 2
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["log.jsonl"], "results that Drive alone has come back"
    (tmp_path / "drive" / LAST).write_bytes(b"cut")
    assert fresh.load("auto")["step"] == 1 and len(reports) == 1


def test_a_damaged_local_file_is_replaced_by_its_drive_copy(tmp_path, reports):
    keeper = StateKeeper(tmp_path / "run", drive_dir=tmp_path / "drive", report=reports.append)
    for step in (1, 2):
        keeper.save(make_state(step))
        keeper.wait()
    (tmp_path / "run" / LAST).write_bytes(b"cut")
    assert keeper.load("auto")["step"] == 2
    assert str(tmp_path / "drive") in reports[0]


def test_saving_does_not_wait_for_the_drive_and_of_what_waits_the_newest_is_copied(tmp_path, monkeypatch):
    gate, copied = threading.Event(), []
    real = Copier._copy

    def slow(self, source, name, keep_as):
        gate.wait(10)
        copied.append(read_head(source)["step"])
        real(self, source, name, keep_as)

    monkeypatch.setattr(Copier, "_copy", slow)
    keeper = StateKeeper(tmp_path / "run", drive_dir=tmp_path / "drive")
    for step in range(5):
        keeper.save(make_state(step))
    assert not copied
    gate.set()
    assert keeper.wait()
    assert copied[-1] == 4 and len(copied) <= 2
    assert read_state(tmp_path / "drive" / LAST)["step"] == 4


def test_a_drive_that_fails_is_reported_and_tried_again(tmp_path, reports):
    (tmp_path / "drive").write_text("a file where the folder should be")
    keeper = StateKeeper(tmp_path / "run", drive_dir=tmp_path / "drive", report=reports.append)
    keeper.save(make_state(1))
    assert not keeper.wait()
    assert f"{LAST} could not be copied to {tmp_path / 'drive'}" in reports[0]
    (tmp_path / "drive").unlink()
    assert keeper.wait()
    assert read_state(tmp_path / "drive" / LAST)["step"] == 1


def test_half_a_copy_of_a_cut_off_session_is_swept_from_the_drive(tmp_path):
    stale = tmp_path / "drive" / f".{LAST}.abc.part"
    stale.parent.mkdir()
    stale.write_bytes(b"half")
    keeper = StateKeeper(tmp_path / "run", drive_dir=tmp_path / "drive")
    keeper.save(make_state(1))
    assert keeper.wait() and not stale.exists()


def test_seeds_of_parts_differ():
    draws = set()
    for parts in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        seed_everything(*parts)
        draws.add((random.random(), np.random.rand(), torch.rand(1).item()))
    assert len(draws) == 4


def test_differences_are_named():
    saved = {"lr": 1e-4, "drops": [11], "model": {"layers": 6, "old": 1}, "workers": 2}
    current = {"lr": 2e-4, "drops": (11,), "model": {"layers": 6, "new": 2}, "workers": 4}
    text = describe_difference(saved, current, ignore=("workers",))
    assert text == "lr was 0.0001 and is 0.0002; model.new is 2 and was not there; model.old was 1 and is gone"
    assert describe_difference(saved, saved) == ""


def test_another_data_set_or_configuration_is_an_error_that_names_it(tmp_path):
    state = make_state(1)
    check_same_run(state, state["config"], state["data_fingerprint"])
    with pytest.raises(UserError, match=r"the configuration changed \(lr was 0.0001 and is 0.001\)"):
        check_same_run(state, {"lr": 1e-3, "lr_drop": (11,)}, state["data_fingerprint"])
    with pytest.raises(UserError, match=r"the data set changed \(instances_train2017.json has other contents\)"):
        check_same_run(state, state["config"], {"instances_train2017.json": "b" * 64})


def test_the_fingerprint_is_that_of_the_annotations(tmp_path):
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps({"images": []}))
    before = data_fingerprint(tmp_path)
    path.write_text(json.dumps({"images": [1]}))
    assert list(before) == [path.name] and before != data_fingerprint(tmp_path)
