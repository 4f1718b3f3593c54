"""Downloads from a stand-in for Google Drive: the real client and the real gdown over a local server."""

import os
import re
import subprocess
import sys
import threading
import time

import pytest

from dino_nb.checkpoints import download, drive
from dino_nb.checkpoints.web import BLOCK, DownloadError
from dino_nb.errors import UserError
from tests.fake_drive import QUOTA_PAGE, File

ID = "1" + "a" * 32
OTHER = "1" + "b" * 32
FOLDER = "1" + "F" * 32
DATA = os.urandom(3_000_000)


@pytest.mark.parametrize(
    "text",
    [
        ID,
        f" {ID}\n",
        f"https://drive.google.com/file/d/{ID}/view?usp=sharing",
        f"https://drive.google.com/file/d/{ID}/view?usp=drive_link&resourcekey=0-x",
        f"https://drive.google.com/file/d/{ID}",
        f"https://drive.google.com/file/u/1/d/{ID}/preview",
        f"https://drive.google.com/open?id={ID}",
        f"https://drive.google.com/uc?export=download&id={ID}",
        f"https://drive.usercontent.google.com/download?id={ID}&export=download",
    ],
)
def test_every_form_of_a_drive_link_gives_its_id(text):
    assert drive.file_id(text) == ID
    assert drive.folder_id(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "dino-4scale-r50-12ep", "https://example.com/?id=" + ID, f"/tmp/{ID}.pth", f"folder/{ID}"),
        *("my_training_images_of_last_summer", "x" * 33, "2024-01-31_images-of-the-garden", "http://[::1/file/d/x"),
    ],
)
def test_what_is_no_drive_link_gives_no_id(text):
    assert drive.file_id(text) is None and drive.folder_id(text) is None


def test_folder_links_are_told_from_files():
    for link in (
        f"https://drive.google.com/drive/folders/{ID}?usp=sharing",
        f"https://drive.google.com/drive/u/0/folders/{ID}",
    ):
        assert drive.folder_id(link) == ID
        assert drive.file_id(link) is None


@pytest.mark.parametrize("kind", ["plain", "large"])
def test_a_file_arrives_whole_under_the_name_that_drive_gives(fake_drive, tmp_path, kind):
    fake_drive.files[ID] = File("data set.zip", DATA, kind)
    path = drive.fetch(f"https://drive.google.com/file/d/{ID}/view?usp=sharing", tmp_path)
    assert path == tmp_path / "data set.zip"
    assert path.read_bytes() == DATA
    assert [p.name for p in tmp_path.iterdir()] == ["data set.zip"]
    assert path.stat().st_mtime == 1_600_000_000


def test_an_unchanged_file_is_not_fetched_again_and_a_changed_one_is(fake_drive, tmp_path):
    fake_drive.files[ID] = File("a.zip", DATA)
    drive.fetch(ID, tmp_path)
    before = (tmp_path / "a.zip").stat().st_ino
    drive.fetch(ID, tmp_path)
    assert (tmp_path / "a.zip").stat().st_ino == before
    fake_drive.files[ID] = File("a.zip", DATA[::-1], time=1_700_000_000.0)
    assert drive.fetch(ID, tmp_path).read_bytes() == DATA[::-1]


@pytest.mark.parametrize("kind", ["plain", "large"])
def test_a_cut_connection_is_continued_where_it_broke(fake_drive, tmp_path, kind):
    fake_drive.files[ID] = File("a.zip", DATA, kind, cuts=[15 * BLOCK, 10 * BLOCK + 9])
    assert drive.fetch(ID, tmp_path).read_bytes() == DATA
    assert fake_drive.downloads() == [None, f"bytes={15 * BLOCK}-", f"bytes={25 * BLOCK}-"]


def test_a_download_that_was_given_up_goes_on_at_the_next_call(fake_drive, tmp_path):
    fake_drive.files[ID] = File("a.zip", DATA, "large", cuts=[20 * BLOCK, 0, 0, 0, 0])
    with pytest.raises(DownloadError, match=r"cut at 1\.3 MB of 3\.0 MB \(the next try continues there\)"):
        drive.fetch(ID, tmp_path)
    (part,) = tmp_path.iterdir()
    assert re.fullmatch(r"a\.zip\.\w{8}\.part", part.name) and part.stat().st_size == 20 * BLOCK
    del fake_drive.requests[:]
    assert drive.fetch(ID, tmp_path).read_bytes() == DATA
    assert fake_drive.downloads()[-1] == f"bytes={20 * BLOCK}-"
    assert not part.exists()


def test_a_complete_part_is_only_renamed(fake_drive, tmp_path):
    fake_drive.files[ID] = File("a.zip", DATA, cuts=[len(DATA) - 1, 0, 0, 0, 0])
    with pytest.raises(DownloadError):
        drive.fetch(ID, tmp_path)
    (part,) = tmp_path.iterdir()
    part.write_bytes(DATA)
    del fake_drive.requests[:]
    assert drive.fetch(ID, tmp_path).read_bytes() == DATA
    assert fake_drive.downloads() == [None]  # asked for its size and time, not read


def test_the_rest_of_another_version_is_never_appended(fake_drive, tmp_path):
    fake_drive.files[ID] = File("a.zip", DATA, cuts=[20 * BLOCK, 0, 0, 0, 0])
    with pytest.raises(DownloadError):
        drive.fetch(ID, tmp_path)
    fake_drive.files[ID] = File("a.zip", DATA[::-1], time=1_700_000_000.0)
    assert drive.fetch(ID, tmp_path).read_bytes() == DATA[::-1]


def test_a_server_that_cannot_continue_starts_over(fake_drive, tmp_path):
    fake_drive.pages["/a.zip"] = File("a.zip", DATA, cuts=[20 * BLOCK], ranges=False)
    assert drive.fetch("https://files.example/a.zip", tmp_path).read_bytes() == DATA


def test_a_quota_page_in_the_middle_is_not_appended(fake_drive, tmp_path):
    fake_drive.files[ID] = File("a.zip", DATA, "quota on resume", cuts=[20 * BLOCK])
    with pytest.raises(DownloadError, match="too many people"):
        drive.fetch(ID, tmp_path)
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == DATA[: 20 * BLOCK]
    fake_drive.files[ID].kind = "plain"  # the next day
    assert drive.fetch(ID, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("quota", "too many people downloaded it lately and Google Drive refuses it for up to a day"),
        ("login", "it is not shared with everyone who has the link"),
        ("denied", "it is not shared with everyone who has the link"),
        ("missing", "there is no such file (moved or deleted, or the link is mistyped)"),
        ("puzzling", "Google Drive sent a web page in its place"),
    ],
)
def test_a_refusal_is_one_sentence_with_the_way_out(fake_drive, tmp_path, kind, reason):
    if kind != "missing":
        fake_drive.files[ID] = File("a.zip", DATA, kind)
    with pytest.raises(DownloadError) as caught:
        drive.fetch(ID, tmp_path)
    link = f"https://drive.google.com/file/d/{ID}/view"
    assert str(caught.value) == (
        f"{link} cannot be downloaded, because {reason}: "
        f"open {link} in a browser, save the file, and give its path instead."
    )
    assert list(tmp_path.iterdir()) == []


def test_offline_is_one_sentence(offline, tmp_path):
    with pytest.raises(DownloadError, match=r"because drive\.google\.com cannot be reached from here \(no network\?\)"):
        drive.fetch(ID, tmp_path)
    with pytest.raises(DownloadError, match=r"because drive\.google\.com cannot be reached"):
        drive.list_folder(FOLDER)


def test_html_is_never_stored_however_it_is_labelled(fake_drive, tmp_path):
    fake_drive.files[ID] = File("a.pth", b"\n <!DOCTYPE html><html>" + b" " * 5000)
    fake_drive.files[OTHER] = File("b.pth", QUOTA_PAGE.encode(), type="text/html; charset=utf-8")
    for drive_id in (ID, OTHER):
        with pytest.raises(DownloadError):
            drive.fetch(drive_id, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_the_check_refuses_is_removed(fake_drive, tmp_path):
    fake_drive.files[ID] = File("a.zip", DATA)

    def refuse(part):
        assert part.read_bytes() == DATA and part.suffix == ".part"
        raise UserError("wrong file")

    with pytest.raises(UserError, match="wrong file"):
        drive.fetch(ID, tmp_path, check=refuse)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given, stored", [("../../evil.zip", "evil.zip"), ("..", "download"), ("a\\b.zip", "b.zip"), ("", "x y.zip")]
)
def test_names_from_the_server_stay_in_the_folder(fake_drive, tmp_path, given, stored):
    fake_drive.pages["/folder/x%20y.zip"] = File(given, b"PK")
    path = drive.fetch("https://files.example/folder/x%20y.zip", tmp_path / "in")
    assert path == tmp_path / "in" / stored
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_errors_of_other_servers_name_them(fake_drive, tmp_path):
    with pytest.raises(DownloadError, match="there is no such file"):
        drive.fetch("https://files.example/nothing.zip", tmp_path)
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 cannot be reached"):
        drive.fetch("http://127.0.0.1:9/nothing.zip", tmp_path)
    with pytest.raises(UserError, match="neither an http"):
        drive.fetch("nothing.zip", tmp_path)


def test_too_little_space_is_said_before_the_transfer(fake_drive, tmp_path, monkeypatch):
    fake_drive.files[ID] = File("a.zip", DATA)
    usage = type("usage", (), {"free": 1_000_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match=r"it takes 3\.0 MB and 1\.0 MB are free"):
        drive.fetch(ID, tmp_path)


def test_a_folder_is_listed_and_fetched_file_by_file(fake_drive, tmp_path):
    inner = "1" + "G" * 32
    fake_drive.folders.update({FOLDER: [ID, inner], inner: [OTHER]})
    fake_drive.folder_names.update({FOLDER: "my data", inner: "images"})
    fake_drive.files.update({ID: File("a.json", b"{}"), OTHER: File("ä.jpg", DATA)})
    listing = drive.list_folder(FOLDER)
    assert [(drive_id, path.as_posix()) for drive_id, path, _ in listing] == [(ID, "a.json"), (OTHER, "images/ä.jpg")]
    folder = drive.fetch(f"https://drive.google.com/drive/folders/{FOLDER}?usp=sharing", tmp_path)
    assert folder == tmp_path / "my data"
    assert (folder / "a.json").read_bytes() == b"{}" and (folder / "images" / "ä.jpg").read_bytes() == DATA


def test_a_folder_that_cannot_be_listed_is_one_sentence(fake_drive, tmp_path, capsys):
    with pytest.raises(DownloadError, match="because the folder is empty, or not there, or not shared with everyone"):
        drive.fetch(f"https://drive.google.com/drive/folders/{FOLDER}", tmp_path)
    assert capsys.readouterr().err == ""


def test_processes_that_fetch_one_file_at_once_share_one_download(fake_drive, tmp_path):
    file = fake_drive.pages["/a.zip"] = File("a.zip", DATA, gate=threading.Event())
    script = (
        "import sys, pathlib; from dino_nb.checkpoints.download import download;"
        "print(download(sys.argv[1], pathlib.Path(sys.argv[2])).stat().st_ino)"
    )
    command = [sys.executable, "-c", script, f"{fake_drive.address}/a.zip", str(tmp_path)]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(3)
    ]
    deadline = time.monotonic() + 60
    while len(fake_drive.downloads()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    file.gate.set()
    answers = {worker.communicate(timeout=60)[0] for worker in workers}
    assert answers == {f"{(tmp_path / 'a.zip').stat().st_ino}\n"}
    assert (tmp_path / "a.zip").read_bytes() == DATA
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
