"""Data sets of Roboflow, Kaggle and the Hub, and results to the Hub, with a local server in their place."""

import shutil
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

from dino_nb import colab
from dino_nb.cli import main
from dino_nb.colab import hosts
from dino_nb.errors import UserError
from dino_nb.prepare.archive import pack
from tests.fake_hosts import HUB_TOKEN, KAGGLE_LOGIN, ROBOFLOW_KEY, FakeHosts, reroute

SECRETS = ("ROBOFLOW_API_KEY", "KAGGLE_USERNAME", "KAGGLE_KEY", "HF_TOKEN")
ADDRESSES = ("roboflow://team/cells/3", "kaggle://ann/cells", "hf://datasets/ann/cells")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, nowhere):
    """An empty working folder outside Colab, and no secrets."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return Path.cwd()


@pytest.fixture(scope="module")
def archive(sample_coco, tmp_path_factory):
    return pack(sample_coco, tmp_path_factory.mktemp("kept") / "coco.zip").read_bytes()


@pytest.fixture
def fake(monkeypatch, sample_coco, archive):
    """Each host holds the sample."""
    fake = FakeHosts()
    reroute(monkeypatch, fake)
    monkeypatch.setattr(hosts, "_EXPORT_PAUSES", (0, 0, 0))
    fake.sets = {"team/cells/3": archive, "ann/cells": archive}
    files = {str(p.relative_to(sample_coco)): p.read_bytes() for p in sample_coco.rglob("*") if p.is_file()}
    fake.hub = {"ann/cells": {**files, "README.md": b"# cells"}}
    yield fake
    fake.close()


@pytest.fixture
def keys(monkeypatch):
    """``keys(**secrets)``: the environment of someone who has them all, or others."""

    def give(**others):
        user, key = KAGGLE_LOGIN.split(":")
        for name, value in {**dict(zip(SECRETS, (ROBOFLOW_KEY, user, key, HUB_TOKEN))), **others}.items():
            monkeypatch.setenv(name, value)

    give()
    return give


def told(act, *words):
    """The message that ``act`` fails with; neither it nor its traceback shows a secret."""
    with pytest.raises(UserError) as caught:
        act()
    everything = "".join(traceback.format_exception(caught.value))
    for secret in (ROBOFLOW_KEY, KAGGLE_LOGIN.split(":")[1], HUB_TOKEN, "wr0ng"):
        assert secret not in everything
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("address", ADDRESSES)
def test_dataset_on_a_host_becomes_a_cocodir_once(fake, keys, address, capfd):
    folder = colab.dataset(f" {address} ")
    assert len(list((folder / "train2017").iterdir())) == 8 and len(list((folder / "val2017").iterdir())) == 4
    asked = len(fake.requests)
    assert colab.dataset(address) == folder and len(fake.requests) == asked
    out = "".join(capfd.readouterr())
    assert f"{address} was converted to {folder}: 8 images of train, 4 images of val" in out
    assert not [secret for secret in (ROBOFLOW_KEY, "kg_s3cret", HUB_TOKEN) if secret in out]


@pytest.mark.parametrize(
    "page",
    [
        "https://universe.roboflow.com/team/cells/dataset/3",
        "https://app.roboflow.com/team/cells/3",
        "https://www.kaggle.com/datasets/ann/cells",
        "https://huggingface.co/datasets/ann/cells",
    ],
)
def test_source_takes_the_page_of_a_data_set(fake, keys, page):
    assert Path(colab.source(page)).exists()


def test_source_of_a_host_is_downloaded_with_the_key_sent_to_its_own_host_alone(fake, keys):
    assert colab.source("kaggle://ann/cells") == Path("data/downloads/cells.zip")
    assert [(host, bool(login)) for host, _, login in fake.requests] == [
        ("www.kaggle.com", True),
        ("storage.example", False),
    ]


def test_source_waits_for_roboflows_export(fake, keys):
    fake.waits = 2
    assert colab.source("roboflow://team/cells/3") == Path("data/downloads/cells-3.zip")
    fake.waits = 9
    told(lambda: colab.source("roboflow://team/cells/3"), "still preparing the export")


def test_source_of_a_public_set_on_kaggle_and_the_hub_needs_no_key(fake):
    assert colab.source("kaggle://ann/cells").exists() and colab.source("hf://datasets/ann/cells").exists()
    assert {login for host, _, login in fake.requests} == {None}


@pytest.mark.parametrize("address", ADDRESSES)
def test_source_says_which_key_is_wrong_or_which_set_is_not_there(fake, keys, address):
    secret = {"r": "ROBOFLOW_API_KEY", "k": "KAGGLE_USERNAME and KAGGLE_KEY", "h": "HF_TOKEN"}[address[0]]
    missing = address.replace("cells", "sells")
    told(lambda: colab.source(missing), f"{missing}: ", f"put it into the environment as {secret}")
    for status, words in [(401, "refuses access"), (403, "refuses access"), (429, "quota is used up"), (500, "500")]:
        fake.status = status
        told(lambda: colab.source(address), f"{address}: ", words)
    assert not list(Path.cwd().rglob("*.zip"))


def test_source_says_that_a_wrong_key_is_refused(fake, keys):
    keys(ROBOFLOW_API_KEY="wr0ng", KAGGLE_KEY="wr0ng", HF_TOKEN="wr0ng")
    told(lambda: colab.source("roboflow://team/cells/3"), "refuses access. Check the name and the key")
    told(lambda: colab.source("kaggle://ann/cells"), "refuses access. Check the name and the key")


def test_source_on_roboflow_needs_a_key_and_says_where_to_put_it(fake, colab_session):
    told(lambda: colab.source(ADDRESSES[0]), "under Secrets", "ROBOFLOW_API_KEY", "allow this notebook")


@pytest.mark.parametrize("address", ADDRESSES)
def test_source_without_a_network_is_a_sentence(keys, monkeypatch, address):
    reroute(monkeypatch, None)
    told(lambda: colab.source(address), f"{address}: ")


@pytest.mark.parametrize("typed", ["roboflow://team/cells", "kaggle://cells", "hf://ann/cells", "Roboflow://x/y/1"])
def test_source_corrects_the_spelling_of_an_address(fake, keys, typed):
    told(lambda: colab.source(typed), "write roboflow://workspace/project/version, kaggle://owner/dataset or hf://")


def test_source_reads_the_secrets_of_a_colab_notebook(fake, colab_session, monkeypatch):
    colab_session.secrets = {"ROBOFLOW_API_KEY": f" {ROBOFLOW_KEY} "}
    assert colab.source("roboflow://team/cells/3").exists()
    colab_session.secrets = {}
    monkeypatch.setenv("ROBOFLOW_API_KEY", ROBOFLOW_KEY)  # not among the secrets, or not for this notebook
    assert colab.source("roboflow://team/cells/3").exists()


def test_source_on_the_hub_unpacks_its_zips(fake, archive):
    fake.hub = {"cells": {"data/all.zip": archive, "data/table.parquet": b"x"}}
    folder = colab.source("hf://datasets/cells")
    assert len(list((folder / "data" / "all" / "train2017").iterdir())) == 8
    assert not list(folder.rglob("*.parquet"))
    assert len(list((colab.dataset("hf://datasets/cells") / "val2017").iterdir())) == 4


def test_source_on_the_hub_that_cannot_be_used_is_a_sentence(fake, monkeypatch):
    fake.hub = {"ann/tables": {"data/train.parquet": b"x" * 10, "README.md": b""}, "ann/large": {"a.zip": b"x" * 9}}
    told(lambda: colab.source("hf://datasets/ann/tables"), "parquet tables are not read")
    monkeypatch.setattr(hosts.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5))
    told(lambda: colab.source("hf://datasets/ann/large"), "takes 0.0 MB and 0.0 MB are free")


def test_convert_takes_a_host_from_the_command_line(fake, keys, capsys):
    assert main(["convert", "roboflow://team/cells/3", "made"]) == 0
    assert len(list(Path("made/train2017").iterdir())) == 8 and [p.name for p in Path().iterdir()] == ["made"]
    asked = len(fake.requests)
    assert main(["convert", "roboflow://team/cells/3", "made"]) == 1
    assert "--overwrite" in capsys.readouterr().err and len(fake.requests) == asked
    assert main(["convert", "kaggle://ann/sells", "other"]) == 1
    assert "www.kaggle.com knows none of that name" in capsys.readouterr().err


@pytest.fixture
def run():
    """A run's folder."""
    folder = Path("run")
    folder.mkdir()
    for name in ("checkpoint_best.pth", "curves.png", "state_last.pt", ".hidden"):
        (folder / name).write_text(name)
    return folder


def test_push_to_hub_uploads_results_and_no_states(fake, keys, run, capsys):
    colab.send(run, "hf://ann/detector")
    assert fake.pushed == {"ann/detector": {n: n.encode() for n in ("checkpoint_best.pth", "curves.png")}}
    assert fake.private == {"ann/detector": True}
    assert f"run is at {fake.address}/ann/detector" in capsys.readouterr().out
    assert colab.push_to_hub(run / "curves.png", "ann/curves", private=False) == f"{fake.address}/ann/curves"
    assert fake.pushed["ann/curves"] == {"curves.png": b"curves.png"} and not fake.private["ann/curves"]


def test_push_to_hub_says_what_is_wrong(fake, keys, run):
    told(lambda: colab.push_to_hub(run, "detector"), "write owner/name")
    told(lambda: colab.push_to_hub("nothing", "ann/detector"), "there is no nothing")
    keys(HF_TOKEN="wr0ng")
    told(lambda: colab.push_to_hub(run, "ann/detector"), "refuses access", "HF_TOKEN")


def test_send_downloads_one_zip_of_the_results(run, colab_session, capsys):
    colab.send(run, " Download ")
    assert colab_session.downloads == [str(Path.cwd() / "run.zip")]
    shutil.unpack_archive("run.zip", "unpacked")
    assert sorted(p.name for p in Path("unpacked").iterdir()) == ["checkpoint_best.pth", "curves.png"]
    colab.send(run / "curves.png", "download")
    assert colab_session.downloads[1:] == [str(run / "curves.png")]


def test_send_outside_colab_copies_or_says_where_the_file_is(run, capsys):
    colab.send(run, "")
    assert not capsys.readouterr().out
    colab.send(run, "download")
    assert "run.zip is on this machine" in capsys.readouterr().out
    colab.send(run, "elsewhere")
    assert Path("elsewhere/run/curves.png").exists()


def test_source_reads_what_roboflow_exports(fake, keys, sample_coco):
    """A folder for each split, with its images and one JSON beside them."""
    for split, theirs in (("train", "train"), ("val", "valid")):
        folder = Path(shutil.copytree(sample_coco / f"{split}2017", f"export/{theirs}"))
        shutil.copy(sample_coco / f"annotations/instances_{split}2017.json", folder / "_annotations.coco.json")
    fake.sets["team/cells/3"] = Path(shutil.make_archive("export", "zip", "export")).read_bytes()
    made = colab.dataset("roboflow://team/cells/3")
    assert [len(list((made / f"{split}2017").iterdir())) for split in ("train", "val")] == [8, 4]
