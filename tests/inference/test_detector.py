import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import dino_nb
from dino_nb.checkpoints.checkpoint import save_checkpoint
from dino_nb.checkpoints.load import output_names
from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector, load
from dino_nb.models.dino import build_model
from dino_nb.presets import preset
from tests.inference.fake import FakeModel


@pytest.fixture
def detector():
    return Detector(FakeModel(), "cpu")


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        Image.new("RGB", (100 + i, 50), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_predict_gives_pixels_of_the_image(detector):
    result = detector.predict(Image.new("RGB", (200, 100)))
    assert result["names"] == result.names == ["cat", "dog"]  # the unused output is never shown
    assert result["labels"].tolist() == [0, 2] and result["labels"].dtype == torch.int64
    torch.testing.assert_close(result["scores"], torch.tensor([0.9, 0.6]))
    torch.testing.assert_close(result["boxes"], torch.tensor([[80.0, 30, 120, 70], [0, 0, 100, 50]]))
    assert detector.model.seen == [[(3, 54, 108)]]  # its own input size, by the published rounding


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path,
        str,
        Image.open,
        lambda path: np.asarray(Image.open(path)),
        lambda path: torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1),
        lambda path: torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1) / 255,
    ],
    ids=["Path", "str", "PIL", "array", "bytes tensor", "float tensor"],
)
def test_predict_takes_every_kind_of_image_alike(make, folder):
    class Keeping(FakeModel):
        def forward(self, images):
            self.kept = images
            return super().forward(images)

    path = folder / "1.png"
    want, got = Detector(Keeping(), "cpu"), Detector(Keeping(), "cpu")
    want.predict(path)
    assert got.predict(make(path)).size == (101, 50)
    torch.testing.assert_close(got.model.kept[0], want.model.kept[0], rtol=0, atol=0)


def test_predict_by_threshold_number_and_classes(detector):
    image = Image.new("RGB", (50, 50))
    assert detector.predict(image, threshold=0.05).names == ["cat", "dog", "dog"]
    assert detector.predict(image, threshold=0.7).names == ["cat"]
    assert detector.predict(image, threshold=0.95).names == []
    assert detector.predict(image, threshold=0.05, max_detections=2).names == ["cat", "dog"]
    assert detector.predict(image, threshold=0.05, classes="dog").names == ["dog", "dog"]
    assert detector.predict(image, threshold=0.05, classes=[2], max_detections=1).names == ["dog"]
    with pytest.raises(UserError, match="Did you mean 'dog'"):
        detector.predict(image, classes=["dogg"])


def test_predict_of_many_keeps_their_order(detector, folder):
    results = detector.predict(folder, batch_size=2)
    assert [r.name for r in results] == ["0.png", "1.png", "2.png"]
    assert [len(batch) for batch in detector.model.seen] == [2, 1]
    results = detector.predict([folder / "2.png", np.zeros((9, 9, 3), np.uint8), str(folder / "*.png")])
    assert [r.size for r in results] == [(102, 50), (9, 9), (100, 50), (101, 50), (102, 50)]
    assert detector.predict([]) == []


def test_predict_leaves_out_unreadable_images_and_says_so(detector, folder):
    (folder / "1.png").write_bytes(b"not an image")
    with pytest.warns(UserWarning, match=r"1 image.*1\.png"):
        results = detector.predict(folder)
    assert [r.name for r in results] == ["0.png", "2.png"]
    assert [source for source, _ in results.skipped] == [str(folder / "1.png")]
    with pytest.warns(UserWarning, match=r"left out.*1\.png"):
        assert [r.name for r in detector.stream(folder)] == ["0.png", "2.png"]
    with pytest.raises(UserError, match=r"1\.png"):
        detector.predict(folder, errors="raise")
    with pytest.raises(UserError, match="no image file"):
        detector.predict(folder / "gone.png")  # nothing is left without it
    for name in ("0.png", "2.png"):
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the images could be read: .*0\.png"):
        detector.predict(folder)


def test_predict_stops_when_asked_to(detector, folder, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dino_nb.inference.sources.open_image", stop)
    with pytest.raises(KeyboardInterrupt):
        detector.predict(folder)


@pytest.mark.parametrize("call", ["predict", "stream", "annotate_video", "__call__"])
def test_predict_offers_the_nearest_keyword(detector, call):
    with pytest.raises(UserError, match=r"no argument 'treshold'\. Did you mean 'threshold'"):
        getattr(detector, call)("a.png", treshold=0.2)
    with pytest.raises(UserError, match=r"It takes .*threshold"):
        getattr(detector, call)("a.png", zzz=1)


def test_predict_is_what_calling_a_detector_does(detector, folder):
    assert detector(folder / "1.png", 0.7).names == ["cat"]


def test_predict_shows_progress_of_many_images(detector, folder, capsys, monkeypatch):
    from functools import partial

    from dino_nb.inference import sources as module

    monkeypatch.setattr(module, "tqdm", partial(module.tqdm, mininterval=0))
    detector.predict(folder)
    assert "detecting" not in capsys.readouterr().err  # it took no two seconds
    monkeypatch.setattr(module, "tqdm", lambda *a, delay, **k: module_tqdm(*a, **k))
    module_tqdm = __import__("tqdm").tqdm
    detector.predict(folder)
    assert "3/3" in capsys.readouterr().err
    detector.predict(folder, progress=False)
    detector.predict(folder / "1.png")
    assert capsys.readouterr().err == ""


def test_stream_yields_before_the_source_ends(detector):
    asked = []

    def images():
        for i in range(5):
            asked.append(i)
            yield Image.new("RGB", (10 + i, 10))

    stream = detector.stream(images(), batch_size=2)
    assert next(stream).size == (10, 10)
    assert asked == [0, 1]
    assert [r.size[0] for r in stream] == [11, 12, 13, 14]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 30}, "threshold"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_detections": 0}, "max_detections"),
        ({"errors": "ignore"}, "errors"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": "0.3"}, "threshold must be a number"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"max_detections": True}, "max_detections"),
        ({"amp": "half"}, "amp"),
        ({"slice_size": "800"}, "slice_size"),
        ({"classes": [1.5]}, "class number 1.5"),
    ],
)
def test_predict_refuses_wrong_options(detector, options, words):
    with pytest.raises(UserError, match=words):
        detector.predict([Image.new("RGB", (8, 8))], **options)


def test_predict_takes_the_threshold_of_the_checkpoint(folder):
    model = FakeModel()
    assert Detector(model, "cpu").predict(folder / "0.png", threshold=None).names == ["cat", "dog"]
    model.thresholds = {"overall": 0.7, "per_class": {}}
    assert Detector(model, "cpu").threshold == 0.7
    assert Detector(model, "cpu").predict(folder / "0.png").names == ["cat"]
    model.thresholds = {"overall": "high"}  # a stranger's file
    assert Detector(model, "cpu").threshold == 0.3


def test_predict_takes_numbers_of_numpy(detector, folder):
    result = detector.predict(folder / "0.png", np.float32(0.5), np.int64(1), classes=np.int64(2))
    assert result.names == ["dog"]


def test_output_names():
    assert output_names(FakeModel(["a", "b", "c"])) == ["a", "b", "c"]
    nameless = FakeModel(None)
    assert output_names(nameless) == ["class 0", "class 1", "class 2"]
    nameless.config.num_classes = 91
    names = output_names(nameless)
    assert (names[0], names[1], names[12], names[90]) == (None, "person", None, "toothbrush")


def test_load_keeps_names_and_input_size(tmp_path):
    torch.manual_seed(0)
    model = build_model(preset("dino-tiny")).eval()
    model.class_names = [f"kind {i}" for i in range(model.config.num_classes)]
    model.input_size = (96, 160)
    path = save_checkpoint(tmp_path / "own.pth", model)
    loaded = dino_nb.load(path, "cpu")
    assert loaded.class_names == model.class_names and loaded.input_size == (96, 160)
    image = Image.effect_noise((70, 40), 80).convert("RGB")
    got, want = loaded.predict(image, threshold=0), Detector(model, "cpu").predict(image, threshold=0)
    torch.testing.assert_close(got["scores"], want["scores"], rtol=0, atol=0)
    assert len(got["scores"]) == model.config.num_select
    assert not got["boxes"].requires_grad


def test_load_of_dino_tiny():
    detector = load("dino-tiny", "cpu")
    assert "red circle" in detector.class_names
    result = detector.predict(torch.rand(3, 64, 64), threshold=0)
    assert set(result.names) <= set(detector.class_names)
    again = load("dino-tiny", "cpu").predict(torch.zeros(3, 64, 64), threshold=0)
    assert again.size == (64, 64)


def test_predict_in_padded_batches():
    detector = load("dino-tiny", "cpu")
    images = [Image.effect_noise(size, 60).convert("RGB") for size in ((120, 100), (60, 140))]
    together = detector.predict(images, threshold=0, batch_size=2)
    alone = [detector.predict(image, threshold=0) for image in images]
    for a, b in zip(together, alone):
        assert a.size == b.size and len(a["scores"]) == len(b["scores"])
        assert a["boxes"].isfinite().all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.pth", "no checkpoint file gone.pth"),
        (str(Path(__file__).with_name("fake.pt")), "Did you mean 'fake.py'"),
        (".", "folder"),
        ("dino-4scale-r50-12epp", "Did you mean"),
    ],
)
def test_load_says_what_is_wrong(name, words, home):
    with pytest.raises(UserError, match=words):
        load(name, "cpu")


def test_detector_devices(monkeypatch):
    assert Detector(FakeModel(), "cpu").device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Detector(FakeModel()).device.type == "cpu"
    with pytest.raises(UserError, match="Colab"):
        load("dino-tiny", "cuda")
    with pytest.raises(UserError, match="kind of device"):
        load("dino-tiny", "gpu")
    with pytest.raises(UserError, match="cannot be used here"):
        load("dino-tiny", "xpu")


def test_predict_with_amp_on_a_cpu(detector):
    image = Image.new("RGB", (20, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half = detector.predict(image, amp=True)
    assert half["scores"].tolist() == detector.predict(image)["scores"].tolist()


def test_detector_text_names_the_classes(detector):
    assert repr(detector) == "Detector(fake, 2 classes: cat, dog; on cpu)"
    assert repr(Detector(FakeModel(["cat", None, None]), "cpu")) == "Detector(fake, 1 class: cat; on cpu)"


def test_load_offers_dino_tiny():
    with pytest.raises(UserError, match=r"no checkpoint 'dino-tinny'\. Did you mean 'dino-tiny'"):
        load("dino-tinny")


def test_forward_of_a_scale_resizes_more(detector):
    detector.predict(Image.new("RGB", (200, 100)), scales=(0.5, 1, 2))
    assert detector.model.seen == [[(3, 27, 54)], [(3, 54, 108)], [(3, 107, 214)]]


def test_predict_mirrored_finds_boxes_where_they_are(detector):
    """The fake network finds the same boxes in the mirrored image: their mirror images come out."""
    plain = detector.predict(Image.new("RGB", (200, 100)), threshold=0.3)
    both = detector.predict(Image.new("RGB", (200, 100)), threshold=0.25, flip=True)
    assert both.names == ["cat", "dog", "dog"]  # the cat is in the middle, in both looks
    torch.testing.assert_close(both.scores, torch.tensor([0.9, 0.3, 0.3]))
    torch.testing.assert_close(both.boxes[0], plain.boxes[0])
    assert sorted(both.boxes[1:].tolist()) == [[0, 0, 100, 50], [100, 0, 200, 50]]


def test_predict_with_flips_and_scales_of_a_real_network_agrees():
    detector = load("dino-tiny", "cpu")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(90, 110, (150, 200, 3), np.uint8))
    ImageDraw.Draw(image).ellipse((40, 40, 110, 110), fill=(205, 45, 40))
    plain, several = detector.predict(image), detector.predict(image, flip=True, scales=(1, 1.25))
    assert several.names == plain.names == ["red circle"]
    assert (several.boxes - plain.boxes).abs().max() < 6


def test_predict_with_nms_keeps_one_of_each_class(detector):
    class Twice(FakeModel):
        def forward(self, images):
            outputs = super().forward(images)
            return {key: torch.cat([value, value], 1) for key, value in outputs.items()}

    twice = Detector(Twice(), "cpu")
    image = Image.new("RGB", (90, 90))
    assert twice.predict(image).names == ["cat", "cat", "dog", "dog"]
    assert twice.predict(image, nms=0.7).names == ["cat", "dog"]


@pytest.mark.parametrize("options", [{"scales": ()}, {"scales": (0,)}, {"scales": (99,)}, {"nms": 0}, {"nms": 2}])
def test_predict_refuses_impossible_looks(detector, options):
    with pytest.raises(UserError, match=next(iter(options))):
        detector.predict(Image.new("RGB", (9, 9)), **options)
