from dino_nb.inference.detector import Detector
from tests.checkpoints.test_download import png, serving
from tests.inference.fake import FakeModel


def test_url_of_an_image_is_a_source(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving({"/cat%20photo.png": (200, {}, png())}) as url:
        result = Detector(FakeModel(), "cpu").predict(f"{url}/cat%20photo.png?size=2")
        assert (result.size, result.name, result.path) == ((30, 20), "cat photo.png", None)
        assert result.source == f"{url}/cat%20photo.png?size=2"
        assert result.draw().size == (30, 20)


def test_url_gives_a_name_that_stays_in_its_folder(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving({"/..%2Fup%00%5C..%5Ca%3Ab.png": (200, {}, png())}) as url:
        result = Detector(FakeModel(), "cpu").predict(f"{url}/%2e%2e%2Fup%00%5C..%5Ca%3Ab.png")
    assert result.name == "up__.._a_b.png"
