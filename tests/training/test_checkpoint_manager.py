"""Saving training states and finding the one to resume, whatever happened to the files."""

import json
import random
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_nb.errors import UserError
from dino_nb.training.checkpoint_manager import (
    BEST,
    LAST,
    PREVIOUS,
    BadStateError,
    CheckpointManager,
    _differences,
    check_same_run,
    data_fingerprint,
    read_state,
    write_state,
)
from dino_nb.training.copier import Copier
from dino_nb.training.sampler import seed_everything


def make_state(step, epoch=0):
    return {
        "epoch": epoch,
        "step": step,
        "sampler": {},
        "optimizer": {},
        "model": {"weight": torch.full((50,), float(step)), "half": torch.ones(3, dtype=torch.bfloat16)},
        "history": [{"loss": 1.5, "ap": None}],
        "config": {"lr": 1e-4, "lr_drop": (11,)},
        "data_fingerprint": {"instances_train2017.json": "a" * 64},
    }


def load(manager, *args, **kwargs):
    path = manager.find(*args, **kwargs)
    return None if path is None else read_state(path)


@pytest.fixture
def reports():
    return []


@pytest.fixture
def manager(tmp_path, reports):
    return CheckpointManager(tmp_path / "run", 0, report=reports.append)


def test_state_comes_back_as_it_was_saved(manager):
    manager.save(make_state(7))
    state = load(manager, "auto")
    assert state["step"] == 7 and state["config"]["lr_drop"] == (11,) and state["history"][0]["ap"] is None
    assert torch.equal(state["model"]["weight"], torch.full((50,), 7.0))
    assert state["model"]["half"].dtype == torch.bfloat16


def test_save_keeps_last_previous_and_best(manager):
    for step in range(4):
        manager.save(make_state(step), is_best=step == 1)
    steps = {name: read_state(manager.output_dir / name)["step"] for name in (LAST, PREVIOUS, BEST)}
    assert steps == {LAST: 3, PREVIOUS: 2, BEST: 1}
    assert sorted(p.name for p in manager.output_dir.iterdir()) == sorted([LAST, PREVIOUS, BEST])


def test_save_is_due_by_the_clock(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dino_nb.training.checkpoint_manager.time.monotonic", lambda: now[0])
    manager = CheckpointManager(tmp_path, every_minutes=10)
    assert not manager.due()
    now[0] += 600
    assert manager.due()
    manager.save(make_state(1))
    assert not manager.due()


def test_state_file_loads_with_torch_alone(manager):
    manager.save(make_state(3))
    assert torch.load(manager.output_dir / LAST, weights_only=True)["step"] == 3


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -60, -300])
def test_truncated_state_falls_back_to_the_one_before_and_says_so(manager, reports, keep):
    manager.save(make_state(1))
    manager.save(make_state(2))
    last = manager.output_dir / LAST
    last.write_bytes(last.read_bytes()[:keep])
    assert load(manager, "auto")["step"] == 1
    assert len(reports) == 1 and str(last) in reports[0] and PREVIOUS in reports[0] and "step 1" in reports[0]


def test_read_state_notices_a_tensor_marked_as_a_folder(tmp_path):
    """One bit of a zip's directory, outside of every checksum, makes torch read other numbers."""
    path = tmp_path / "state.pt"
    write_state(path, make_state(1))
    damaged = bytearray(path.read_bytes())
    name = damaged.rindex(b"/data/0")
    entry = damaged.rindex(b"PK\x01\x02", 0, name)
    damaged[entry + 38] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(BadStateError, match="marked as a folder"):
        read_state(path)


_WHOLE = []


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_read_state_notices_every_flipped_bit_that_matters(tmp_path_factory, where, bit):
    if not _WHOLE:
        path = tmp_path_factory.mktemp("flip") / "state.pt"
        write_state(path, make_state(1))
        _WHOLE.extend([path, path.read_bytes(), read_state(path)])
    path, whole, state = _WHOLE
    damaged = bytearray(whole)
    damaged[int(where * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        read = read_state(path)
    except BadStateError:
        return
    assert str(read) == str(state), "a bit of padding, or of a date"


def test_read_state_takes_states_with_bytes_behind_them(manager):
    """As the first versions wrote them: the file, and a digest of it at its end."""
    manager.save(make_state(4))
    path = manager.output_dir / LAST
    path.write_bytes(path.read_bytes() + b'{"sha256": "...", "epoch": 0, "step": 4}DINOSTA1')
    assert load(manager, "auto")["step"] == 4


def test_find_says_what_to_do_when_no_whole_state_is_left(manager):
    manager.save(make_state(1))
    (manager.output_dir / LAST).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"state_last.pt cannot be resumed: it is cut off.*overwrite"):
        load(manager, "auto")


def test_find_resumes_nothing_unasked(manager):
    assert load(manager, None) is None
    manager.save(make_state(1))
    with pytest.raises(UserError, match=r'holds a training state already.*resume="auto".*--overwrite'):
        CheckpointManager(manager.output_dir).find(None)


def test_overwrite_sets_the_run_before_aside_until_the_first_save(tmp_path):
    manager = CheckpointManager(tmp_path / "run", drive_dir=tmp_path / "drive")
    for step in (8, 9):
        manager.save(make_state(step), is_best=True)
        manager.wait()
    over = CheckpointManager(manager.output_dir, drive_dir=manager.drive_dir)
    assert load(over, None, overwrite=True) is None
    replaced = [f"replaced_{name}" for name in (BEST, LAST, PREVIOUS)]
    for folder in (manager.output_dir, manager.drive_dir):
        assert sorted(p.name for p in folder.iterdir()) == replaced
    assert load(over, "auto", overwrite=True) is None, "what a launcher starts again does not resume the old run"
    over.save(make_state(1))
    assert over.wait()
    for folder in (manager.output_dir, manager.drive_dir):
        assert [p.name for p in folder.iterdir()] == [LAST]
    assert load(over, "auto")["step"] == 1


def test_find_auto_starts_a_run_in_an_empty_folder(manager):
    assert load(manager, "auto") is None


def test_find_takes_a_file_or_a_folder(manager, tmp_path):
    manager.save(make_state(1))
    manager.save(make_state(2))
    other = CheckpointManager(tmp_path / "other")
    assert load(other, manager.output_dir)["step"] == 2
    assert load(other, manager.output_dir / PREVIOUS)["step"] == 1
    assert load(manager, str(manager.output_dir / LAST))["step"] == 2
    with pytest.raises(UserError, match=r"there is no training state .*Did you mean 'state_last.pt'"):
        load(other, manager.output_dir / "state_lst.pt")
    with pytest.raises(UserError, match="holds no training state"):
        load(other, tmp_path)


def test_find_elsewhere_does_not_push_aside_the_state_that_is_there(manager, tmp_path):
    manager.save(make_state(1))
    other = CheckpointManager(tmp_path / "other")
    other.save(make_state(5))
    with pytest.raises(UserError, match="holds a training state already"):
        load(other, manager.output_dir / LAST)
    assert load(other, manager.output_dir / LAST, overwrite=True)["step"] == 1


def test_find_tells_weights_from_a_training_state(manager, tmp_path):
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=r"no training state.*--pretrain_model_path"):
        load(manager, tmp_path / "checkpoint.pth")


def test_find_refuses_a_newer_layout(manager, monkeypatch):
    monkeypatch.setattr("dino_nb.training.checkpoint_manager.VERSION", 2)
    manager.save(make_state(1))
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer dino-nb"):
        load(manager, "auto")


@pytest.mark.parametrize("victim", ["write_state", "_link"])
def test_save_that_is_killed_leaves_a_whole_state(manager, monkeypatch, victim):
    manager.save(make_state(1))
    manager.save(make_state(2))

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"dino_nb.training.checkpoint_manager.{victim}", die)
    with pytest.raises(KeyboardInterrupt):
        manager.save(make_state(3))
    monkeypatch.undo()
    half_written = manager.output_dir / f".{LAST}.abc.part"
    half_written.touch()
    assert load(manager, "auto")["step"] == 2
    manager.save(make_state(4))
    assert sorted(p.name for p in manager.output_dir.iterdir()) == [LAST, PREVIOUS], "leftovers are cleared away"


def test_save_on_a_full_disk_is_reported_and_costs_no_state(manager, reports, monkeypatch):
    manager.save(make_state(1))

    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dino_nb.training.checkpoint_manager.write_state", full)
    assert manager.save(make_state(2)) is False
    assert "No space left" in reports[0]
    assert load(manager, "auto")["step"] == 1


def test_drive_copy_serves_when_the_local_disk_is_gone(tmp_path, reports):
    manager = CheckpointManager(tmp_path / "run", drive_dir=tmp_path / "drive", report=reports.append)
    for step in (1, 2):
        manager.save(make_state(step), is_best=step == 1)
        assert manager.wait()
    (tmp_path / "run" / "log.jsonl").write_text("{}")
    manager.copy_also(tmp_path / "run" / "log.jsonl")
    assert manager.wait()
    assert sorted(p.name for p in (tmp_path / "drive").iterdir()) == ["log.jsonl", BEST, LAST, PREVIOUS]
    assert read_state(tmp_path / "drive" / BEST)["step"] == 1
    fresh = CheckpointManager(tmp_path / "new", drive_dir=tmp_path / "drive", report=reports.append)
    with pytest.raises(UserError, match="holds a training state already"):
        load(fresh, None)
    assert load(fresh, "auto")["step"] == 2
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["log.jsonl"], "results that Drive alone has come back"
    (tmp_path / "drive" / LAST).write_bytes(b"cut")
    assert load(fresh, "auto")["step"] == 1 and len(reports) == 1


def test_drive_copy_serves_when_the_local_file_is_damaged(tmp_path, reports):
    manager = CheckpointManager(tmp_path / "run", drive_dir=tmp_path / "drive", report=reports.append)
    for step in (1, 2):
        manager.save(make_state(step))
        manager.wait()
    (tmp_path / "run" / LAST).write_bytes(b"cut")
    assert load(manager, "auto")["step"] == 2
    assert str(tmp_path / "drive") in reports[0]


def test_save_does_not_wait_for_the_drive_which_gets_the_newest(tmp_path, monkeypatch):
    gate, copied = threading.Event(), []
    real = Copier._copy

    def slow(self, source, name, keep_as):
        gate.wait(10)
        copied.append(read_state(source)["step"])
        real(self, source, name, keep_as)

    monkeypatch.setattr(Copier, "_copy", slow)
    manager = CheckpointManager(tmp_path / "run", drive_dir=tmp_path / "drive")
    for step in range(5):
        manager.save(make_state(step))
    assert not copied
    gate.set()
    assert manager.wait()
    assert copied[-1] == 4 and len(copied) <= 2
    assert read_state(tmp_path / "drive" / LAST)["step"] == 4


def test_drive_that_fails_is_reported_and_tried_again(tmp_path, reports):
    (tmp_path / "drive").write_text("a file where the folder should be")
    manager = CheckpointManager(tmp_path / "run", drive_dir=tmp_path / "drive", report=reports.append)
    manager.save(make_state(1))
    assert not manager.wait()
    assert f"{LAST} could not be copied to {tmp_path / 'drive'}" in reports[0]
    (tmp_path / "drive").unlink()
    assert manager.wait()
    assert read_state(tmp_path / "drive" / LAST)["step"] == 1


def test_copier_tells_once_that_the_drive_is_full(tmp_path, monkeypatch):
    told, full = [], [True]

    def copy(reading, writing, size):
        if full[0]:
            raise OSError(28, "No space left on device")
        writing.write(reading.read())

    monkeypatch.setattr("dino_nb.training.copier.shutil.copyfileobj", copy)
    copier = Copier(tmp_path / "drive", told.append)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
        copier.put(tmp_path / name, name)
    assert not copier.wait()
    assert len(told) == 1 and "No space left on device. Free some space there" in told[0]
    full[0] = False
    assert copier.wait() and sorted(p.name for p in (tmp_path / "drive").iterdir()) == ["a", "b", "c"]


def test_half_written_files_of_a_killed_run_are_swept_and_those_of_others_stay(tmp_path):
    stale, others = [], []
    for folder in (tmp_path / "drive", tmp_path / "run"):
        folder.mkdir()
        stale.append(folder / f".{LAST}.abc.part")
        others += [folder / ".thesis.docx.part", folder / ".holiday.zip.1a2b3c4d.part"]
    stale.append(tmp_path / "run" / ".batches.jpg.abc.part")
    for path in stale + others:
        path.write_bytes(b"half")
    manager = CheckpointManager(tmp_path / "run", drive_dir=tmp_path / "drive")
    assert manager.find("auto") is None
    manager.save(make_state(1))
    assert manager.wait()
    assert not any(path.exists() for path in stale)
    assert all(path.read_bytes() == b"half" for path in others)


def test_seed_everything_differs_by_each_part():
    draws = set()
    for parts in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        seed_everything(*parts)
        draws.add((random.random(), np.random.rand(), torch.rand(1).item()))
    assert len(draws) == 4


def test_differences_names_each_setting_that_both_have():
    saved = {"lr": 1e-4, "drops": [11], "of_an_older_version": 1, "workers": 2}
    current = {"lr": 2e-4, "drops": (11,), "of_a_newer_version": 2, "workers": 4}
    assert _differences(saved, current, ignore=("workers",)) == "lr was 0.0001 and is 0.0002"
    assert _differences(saved, saved) == ""


def test_check_same_run_names_another_data_set_or_configuration(tmp_path):
    state = make_state(1)
    check_same_run(state, state["config"], state["data_fingerprint"], tmp_path)
    with pytest.raises(UserError, match=r"the configuration changed \(lr was 0.0001 and is 0.001\)"):
        check_same_run(state, {"lr": 1e-3, "lr_drop": (11,)}, state["data_fingerprint"], tmp_path)
    with pytest.raises(UserError, match=r"the data set changed \(instances_train2017.json has other contents\)"):
        check_same_run(state, state["config"], {"instances_train2017.json": "b" * 64}, tmp_path)


def test_data_fingerprint_is_that_of_the_annotations(tmp_path):
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps({"images": []}))
    before = data_fingerprint(tmp_path)
    path.write_text(json.dumps({"images": [1]}))
    assert list(before) == [path.name] and before != data_fingerprint(tmp_path)
