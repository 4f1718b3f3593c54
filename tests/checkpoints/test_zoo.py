"""The published checkpoints: names, downloads from a stand-in for Google Drive, files put there by hand."""

import dataclasses
import hashlib
import io
import os

import pytest
import torch

import dino_nb
from dino_nb.checkpoints import zoo
from dino_nb.checkpoints.checkpoint import save_checkpoint
from dino_nb.checkpoints.web import BLOCK, DownloadError
from dino_nb.cli import main
from dino_nb.errors import UserError
from tests.fake_drive import QUOTA_PAGE, File

R50 = "checkpoint0011_4scale.pth"  # its Drive id and its SHA-256 are known
R50_24 = "checkpoint0023_4scale.pth"  # its id is known
SWIN = "checkpoint0029_4scale_swin.pth"  # neither is
FOLDER_LINK = "https://drive.google.com/drive/folders/1qD5m1NmK0kjE5hh-G17XUX751WsEG-h_"


def checkpoint_bytes(seed=0):
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.randn(500, 500, generator=torch.Generator().manual_seed(seed))}}, buffer)
    return buffer.getvalue()


DATA = checkpoint_bytes()


@pytest.fixture
def published(fake_drive, home, monkeypatch):
    """The ten files on the fake Drive, all with the same bytes, whose hash stands for each published one."""
    sha = hashlib.sha256(DATA).hexdigest()
    items = [dataclasses.replace(item, sha256=item.sha256 and sha) for item in zoo.ZOO]
    monkeypatch.setattr(zoo, "ZOO", items)
    fake_drive.folders[zoo.FOLDER_ID] = []
    fake_drive.folder_names[zoo.FOLDER_ID] = "DINO checkpoints"
    for number, item in enumerate(items):
        drive_id = item.drive_id or f"1{number}" + "x" * 31
        fake_drive.files[drive_id] = File(item.file, DATA, "large")
        fake_drive.folders[zoo.FOLDER_ID].append(drive_id)
    return fake_drive


def of(drive, name):
    return next(file for file in drive.files.values() if file.name == name)


def test_the_ten_published_checkpoints():
    found = {(item.file, item.backbone, item.scales, item.epochs, item.ap) for item in zoo.ZOO}
    assert found == {
        ("checkpoint0011_4scale.pth", "R50", 4, 12, 49.0),
        ("checkpoint0011_5scale.pth", "R50", 5, 12, 49.4),
        ("checkpoint0011_4scale_swin.pth", "Swin-L", 4, 12, 56.8),
        ("checkpoint0011_5scale_swin.pth", "Swin-L", 5, 12, 57.3),
        ("checkpoint0023_4scale.pth", "R50", 4, 24, 50.4),
        ("checkpoint0022_5scale.pth", "R50", 5, 24, 51.3),
        ("checkpoint0033_4scale.pth", "R50", 4, 36, 50.9),
        ("checkpoint0031_5scale.pth", "R50", 5, 36, 51.2),
        ("checkpoint0029_4scale_swin.pth", "Swin-L", 4, 36, 58.0),
        ("checkpoint0027_5scale_swin.pth", "Swin-L", 5, 36, 58.5),
    }
    assert len(set(zoo.names())) == 10
    assert zoo.find("dino-4scale-r50-12ep").file == zoo.find("checkpoint0011_4scale").file == R50
    assert zoo.find("DINO-5scale-SwinL-36ep").file == "checkpoint0027_5scale_swin.pth"
    assert dino_nb.zoo is zoo


@pytest.mark.parametrize("name", ["dino-4scale-r50-12ep", R50, "dino-4scale-r50-24ep", "dino-4scale-swinl-36ep"])
def test_fetching_gives_the_verified_file_once(published, home, capsys, name):
    path = zoo.fetch(name)
    item = zoo.find(name)
    assert path == home / "checkpoints" / item.file
    assert path.read_bytes() == DATA
    assert torch.load(path, weights_only=True)["model"]["weight"].shape == (500, 500)
    assert ("No SHA-256" in capsys.readouterr().err) == (item.sha256 is None)
    listed = any("embeddedfolderview" in where or "/folders/" in where for where, _ in published.requests)
    assert listed == (item.drive_id is None)
    del published.requests[:]
    assert zoo.fetch(name) == path
    assert published.requests == []


def test_a_cut_download_goes_on(published, home):
    of(published, R50).cuts = [5 * BLOCK, 0, 0, 0, 0]
    with pytest.raises(
        DownloadError, match=r"checkpoint0011_4scale\.pth cannot be downloaded, because the connection was"
    ):
        zoo.fetch(R50)
    assert "first 0.3 MB" in zoo.table()
    assert zoo.fetch(R50).read_bytes() == DATA
    assert published.downloads()[-1] == f"bytes={5 * BLOCK}-"
    assert "1.0 MB, verified" in zoo.table()


@pytest.mark.parametrize("name, reason", [(R50, "too many people"), (SWIN, "too many people")])
def test_quota_is_one_sentence_with_the_way_out(published, home, name, reason):
    of(published, name).kind = "quota"
    with pytest.raises(DownloadError) as caught:
        zoo.fetch(name)
    text = str(caught.value)
    assert text.startswith(f"{name} cannot be downloaded, because {reason}")
    assert f"from {FOLDER_LINK}" in text and f"put it at {home / 'checkpoints' / name}, and run this again." in text
    assert ("pan.baidu.com/s/1St5rvfgfPwpnPuf_Oe6DpQ (code DINO)" in text) == (name == R50)
    assert "\n" not in text and text.count(". ") == 0
    assert not (home / "checkpoints" / name).exists()


def test_offline_and_permission_name_the_same_way_out(published, home):
    of(published, R50).kind = "denied"
    with pytest.raises(DownloadError, match=r"because it is not shared with everyone .* put it at .*0011_4scale\.pth"):
        zoo.fetch(R50)
    del published.folders[zoo.FOLDER_ID]
    with pytest.raises(DownloadError, match=r"0029_4scale_swin\.pth cannot be .* folder is empty, or not .* put it at"):
        zoo.fetch(SWIN)


@pytest.mark.parametrize("name", [R50, SWIN])
def test_offline(offline, home, name):
    with pytest.raises(
        DownloadError, match=rf"{name} cannot be downloaded, because drive\.google\.com .*no network.*put it"
    ):
        zoo.fetch(name)


def test_a_file_missing_from_the_folder_is_said(published):
    published.folders[zoo.FOLDER_ID] = published.folders[zoo.FOLDER_ID][:3]
    with pytest.raises(DownloadError, match=r"0029_4scale_swin\.pth is not among the 3 files of the published Drive"):
        zoo.fetch(SWIN)


def test_a_wrong_hash_is_refused_and_nothing_is_kept(published, home):
    of(published, R50).data = checkpoint_bytes(1)
    with pytest.raises(DownloadError, match=r"what arrived has the SHA-256 \w{12}\.\.\. and not the published \w{12}"):
        zoo.fetch(R50)
    assert list((home / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    "data, problem",
    [
        (QUOTA_PAGE.encode(), "is a web page, not a checkpoint"),
        (b"\xef\xbb\xbf\n<HTML><body>", "is a web page, not a checkpoint"),
        (DATA[:-100], "is cut short"),
        (b"some text", "is no PyTorch checkpoint"),
        (b"", "is empty"),
    ],
)
@pytest.mark.parametrize("name", [R50, SWIN])
def test_what_is_no_checkpoint_is_refused_by_hand_and_by_download(published, home, data, problem, name):
    path = home / "checkpoints" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{name} {problem}: remove it"):
        zoo.fetch(name)
    assert path.read_bytes() == data  # the user's file is the user's to remove
    path.unlink()
    of(published, name).data = data
    with pytest.raises(DownloadError, match=problem.partition(",")[0].removeprefix("is ")):
        zoo.fetch(name)
    assert list(path.parent.iterdir()) == []


def test_a_file_put_there_by_hand_is_taken_and_read_through_once(published, home, monkeypatch):
    path = home / "checkpoints" / R50
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert "1.0 MB, not verified yet" in zoo.table()
    assert zoo.fetch("dino-4scale-r50-12ep") == path
    assert published.requests == []
    assert "1.0 MB, verified" in zoo.table()
    monkeypatch.setattr(zoo, "sha256", None)  # would fail if it were read again
    assert zoo.fetch(R50) == path
    monkeypatch.undo()
    monkeypatch.setenv("DINO_NB_HOME", str(home))
    path.write_bytes(checkpoint_bytes(2))
    with pytest.raises(UserError, match="not the published"):
        zoo.fetch(R50)


def test_links_and_ids_have_a_folder_each(published, home):
    """Half of all checkpoints are called checkpoint.pth: one must never be taken for another."""
    one, two = "1" + "p" * 32, "1" + "q" * 32
    published.files[one] = File("checkpoint.pth", checkpoint_bytes(3))
    published.files[two] = File("checkpoint.pth", checkpoint_bytes(4))
    published.pages["/a/checkpoint.pth"] = File("checkpoint.pth", checkpoint_bytes(5))
    first = zoo.fetch(one)
    second = zoo.fetch(f"https://drive.google.com/file/d/{two}/view?usp=sharing")
    third = zoo.fetch("https://files.example/a/checkpoint.pth")
    assert [p.read_bytes() for p in (first, second, third)] == [checkpoint_bytes(n) for n in (3, 4, 5)]
    assert {p.name for p in (first, second, third)} == {"checkpoint.pth"}
    del published.requests[:]
    assert zoo.fetch(f"https://drive.google.com/uc?id={one}") == first
    assert published.requests == []


def test_loading_by_name_by_link_and_by_id(published, home, tmp_path, monkeypatch):
    """A small network of ours stands for the published ones, whose reading is tested by itself."""
    tiny = dino_nb.load("dino-tiny", device="cpu").model
    data = save_checkpoint(tmp_path / "tiny.pth", tiny).read_bytes()
    sha = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(zoo, "ZOO", [dataclasses.replace(item, sha256=item.sha256 and sha) for item in zoo.ZOO])
    drive_id = zoo.find(R50).drive_id
    published.files[drive_id].data = data
    for name in ("dino-4scale-r50-12ep", f"https://drive.google.com/file/d/{drive_id}/view", drive_id):
        model = dino_nb.load(name, device="cpu").model
        assert model.class_names == tiny.class_names
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), tiny.parameters()))


def test_a_damaged_file_behind_a_link_is_refused(published, home):
    published.pages["/a.pth"] = File("a.pth", DATA[:-100])
    with pytest.raises(DownloadError, match="what arrived is cut short"):
        zoo.fetch("https://files.example/a.pth")
    with pytest.raises(UserError, match=r"is a folder: give the id or link of one file in it: 1\S+ \(checkpoint0011"):
        zoo.fetch(FOLDER_LINK)


def test_a_local_path_is_taken_as_it_is(home, tmp_path, monkeypatch):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"whatever the loader makes of it")
    assert zoo.fetch(path) == path
    monkeypatch.chdir(tmp_path)
    assert zoo.fetch("mine.pth").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "name, answer",
    [
        ("dino-4scale-r50-12e", r"Did you mean 'dino-4scale-r50-12ep'\?"),
        ("dino-4scale-swin-36ep", r"Did you mean 'dino-4scale-swinl-36ep'\?"),
        ("checkpoint0011_4scale.pht", r"Did you mean 'checkpoint0011_4scale\.pth'\?"),
        ("folder/mine.pht", r"there is no file folder/mine\.pht"),
        ("whatever", r"The published ones are dino-4scale-r50-12ep, .*, dino-5scale-swinl-36ep\."),
    ],
)
def test_unknown_names(home, name, answer):
    with pytest.raises(UserError, match=answer):
        zoo.fetch(name)


def test_near_misses_of_the_user_s_own_files(home, tmp_path):
    (tmp_path / "checkpoint_best.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"Did you mean 'checkpoint_best\.pth'\?"):
        zoo.fetch(tmp_path / "checkpoint_bets.pth")
    (tmp_path / "other.pth").write_bytes(b"x")
    assert zoo.fetch(tmp_path).name == "checkpoint_best.pth"
    (tmp_path / "checkpoint_best.pth").rename(tmp_path / "one.pth")
    with pytest.raises(UserError, match=r"is a folder: give the checkpoint file in it: one\.pth, other\.pth"):
        zoo.fetch(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"run holds no checkpoint \(\.pth, \.pt, \.safetensors\): did its training"):
        zoo.fetch(tmp_path / "run")


def test_command_line(published, home, capsys):
    assert main(["zoo"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("dino-") == 12 - 1 and "58.5  checkpoint0027_5scale_swin.pth  -" in printed
    assert str(home / "checkpoints") in printed and FOLDER_LINK in printed
    assert main(["zoo", "--verify"]) == 0
    assert "None of the published" in capsys.readouterr().out
    assert main(["zoo", "dino-4scale-r50-12ep", SWIN]) == 0
    assert capsys.readouterr().out.splitlines() == [str(home / "checkpoints" / R50), str(home / "checkpoints" / SWIN)]
    assert main(["zoo", "--verify"]) == 0
    printed = capsys.readouterr().out
    assert f"ok    {R50}  SHA-256 as published" in printed
    assert f"ok    {SWIN}  whole; SHA-256 {hashlib.sha256(DATA).hexdigest()}, none is published" in printed
    os.truncate(home / "checkpoints" / SWIN, 1000)
    assert main(["zoo", "--verify"]) == 1
    assert f"BAD   {SWIN}  is cut short" in capsys.readouterr().out
    assert main(["zoo", "dino-4scale-r50-12epochs"]) == 1
    assert "Did you mean 'dino-4scale-r50-12ep'?" in capsys.readouterr().err


MIRROR = "/LibreYOLO/LibreDINODETRr50/resolve/main/LibreDINODETRr50.pt"


@pytest.mark.parametrize("name", ["dino-4scale-r50-12ep", R50])
def test_mirror_on_the_hub_is_tried_before_google_drive(published, home, capsys, name):
    published.pages[MIRROR] = File("LibreDINODETRr50.pt", checkpoint_bytes(7))
    path = zoo.fetch(name)
    assert path == home / "checkpoints" / "LibreDINODETRr50.pt" and path.read_bytes() == checkpoint_bytes(7)
    assert "is the mirror of checkpoint0011_4scale.pth; its form was checked, no SHA-256" in capsys.readouterr().err
    assert not any("drive" in where or "/uc" in where for where, _ in published.requests)
    assert "1.0 MB, verified, from hf://LibreYOLO/LibreDINODETRr50/LibreDINODETRr50.pt" in zoo.table()
    del published.requests[:]
    assert zoo.fetch(R50) == path and published.requests == []
    ((checked, bad, verdict),) = zoo.verify()
    assert checked == path and not bad and verdict.startswith("whole; SHA-256 ")


def test_mirror_that_fails_is_one_line_and_google_drive_the_next_source(published, home, capsys):
    path = zoo.fetch(R50)
    assert path.name == R50 and path.read_bytes() == DATA
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "cannot be downloaded" in line] == [
        "LibreDINODETRr50.pt cannot be downloaded, because there is no such file (moved or deleted, or the link is "
        "mistyped): the mirror is not the only source. Trying the next source."
    ]
    assert "1.0 MB, verified, from Google Drive" in zoo.table()


def test_mirror_with_a_web_page_in_its_place_is_not_kept(published, home):
    published.pages[MIRROR] = File("LibreDINODETRr50.pt", b"<!DOCTYPE html><html>sign in")
    assert zoo.fetch(R50).name == R50
    assert {p.name for p in (home / "checkpoints").iterdir()} == {R50, f".{R50}.verified"}


def test_file_on_a_mounted_drive_is_taken_from_there(published, home, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo.files, "DRIVE", tmp_path / "MyDrive")
    monkeypatch.setattr(zoo.files, "drive_mounted", lambda: True)
    (tmp_path / "MyDrive").mkdir()
    (tmp_path / "MyDrive" / R50).write_bytes(DATA)
    assert zoo.fetch(R50) == tmp_path / "MyDrive" / R50
    assert published.requests == []


@pytest.mark.parametrize("name", ["hf://me/my-dino/run/checkpoint_best.pth", "hf://me/my-dino@v1.0/a.pth"])
def test_hub_address_of_any_repository(published, home, name):
    where = {"hf://me/my-dino/run/checkpoint_best.pth": "/me/my-dino/resolve/main/run/checkpoint_best.pth"}
    page = where.get(name, "/me/my-dino/resolve/v1.0/a.pth")
    published.pages[page] = File("", checkpoint_bytes(8))
    path = zoo.fetch(name)
    assert path.read_bytes() == checkpoint_bytes(8) and path.name == page.rpartition("/")[2]
    del published.requests[:]
    assert zoo.fetch(name) == path and published.requests == []


@pytest.mark.parametrize("name", ["hf://", "hf://me", "hf://me/repo", "hf://me/repo/../../x", "hf://me/re po/x"])
def test_hub_address_that_is_none_is_a_sentence(name, home, offline):
    with pytest.raises(UserError, match="is not hf://owner/repo/file"):
        zoo.fetch(name)


def test_hub_endpoint_of_the_environment_is_used(published, home, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://files.example/hub/")
    published.pages["/hub/me/repo/resolve/main/a.pth"] = File("a.pth", DATA)
    assert zoo.fetch("hf://me/repo/a.pth").read_bytes() == DATA
