"""What all tests share: real data where it is at hand, a home of their own, and a stand-in for Google Drive."""

import os
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job (`make test &`) starts without one
SLOW = Path(__file__).with_name("slow.txt")
LONGEST = (
    *("test_learning.py", "fine-tune.ipynb", "test_resume.py", "test_notebook_settings.py"),
    *("test_notebook_mishaps.py", "test_golden.py"),
)


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="leave out what tests/slow.txt lists")
    parser.addoption("--write-slow", action="store_true", help="write tests/slow.txt: tests of this run over a second")


def pytest_collection_modifyitems(config, items):
    """``--quick``: files and tests that ``slow.txt`` names are not run. Otherwise the longest files come first."""
    slow = tuple(SLOW.read_text(encoding="utf-8").split())
    if config.getoption("--quick"):
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid.startswith(slow)])
        items[:] = [item for item in items if not item.nodeid.startswith(slow)]
    # side by side, the last file should not keep one worker busy for minutes while the other waits
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if item.path.match(name)), len(LONGEST)))


_seconds = defaultdict(float)


def pytest_runtest_logreport(report):
    _seconds[report.nodeid.split("[")[0]] += report.duration


def pytest_sessionfinish(session):
    if session.config.getoption("--write-slow") and not os.environ.get("PYTEST_XDIST_WORKER"):
        slow = sorted(name for name, seconds in _seconds.items() if seconds > 1)
        SLOW.write_text("".join(f"{name}\n" for name in slow), encoding="utf-8")


@pytest.fixture(scope="session")
def bccd():
    """The BCCD blood cell data set (Pascal VOC), a folder."""
    return _given("DINO_NB_BCCD", "the folder of the BCCD data set in its Pascal VOC form")


@pytest.fixture(scope="session")
def lite0_weights():
    """ImageNet weights of timm's tf_efficientnet_lite0, a safetensors file."""
    return _given("DINO_NB_LITE0", "the safetensors file of timm's tf_efficientnet_lite0")


def _given(variable, what):
    if not os.environ.get(variable):
        pytest.skip(f"{variable} does not say where {what} is")
    path = Path(os.environ[variable])
    assert path.exists(), f"{variable} names {path}, which is not there"
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """``$DINO_NB_HOME``, empty."""
    path = tmp_path / "home"
    monkeypatch.setenv("DINO_NB_HOME", str(path))
    return path


@pytest.fixture
def fake_drive(monkeypatch):
    """A ``FakeDrive`` that answers every request for Google's hosts; new tries follow at once."""
    from dino_nb.checkpoints import download
    from tests.fake_drive import FakeDrive, reroute

    drive = FakeDrive()
    reroute(monkeypatch, drive)
    monkeypatch.setattr(download, "PAUSES", (0, 0, 0))
    yield drive
    drive.close()


@pytest.fixture
def offline(monkeypatch):
    """No network, whatever this machine has."""
    from dino_nb.checkpoints import download
    from tests.fake_drive import reroute

    reroute(monkeypatch, None)
    monkeypatch.setattr(download, "PAUSES", (0, 0, 0))


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Neither Colab nor Kaggle, and Drive's place not there; returns that place."""
    from dino_nb import files

    for variable in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.setattr(files, "DRIVE", tmp_path / "content" / "drive" / "MyDrive")
    return files.DRIVE


@pytest.fixture
def colab_session(nowhere, monkeypatch):
    """A ``FakeColab`` session whose Drive appears when it is mounted."""
    from tests.fake_colab import FakeColab

    session = FakeColab()
    session.install(monkeypatch)
    return session


@pytest.fixture(scope="session")
def sample_coco(tmp_path_factory):
    """A COCODIR of the sample, 8 + 4 images; tests that write into one copy it."""
    from dino_nb.prepare.sample import make_sample

    return make_sample(tmp_path_factory.mktemp("sample") / "coco", n_train=8, n_val=4, seed=3)
