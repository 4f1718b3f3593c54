import gc
import struct
import sys
import weakref

import numpy as np
import pytest
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector
from dino_nb.inference.video import describe, is_video, read_frames, small_copy, video_writer
from tests.inference.fake import FakeModel

pytest.importorskip("av", reason="PyAV is not installed (extra 'test' has it)")


def make_clip(path, frames=8, size=(64, 48), rate=10):
    with video_writer(path, rate) as write:
        for i in range(frames):
            pixels = np.full((size[1], size[0], 3), 10 * (i % 20), np.uint8)
            pixels[: size[1] // 2, : size[0] // 2] = 255  # bright at the top left
            write(Image.fromarray(pixels))
    return path


def test_read_frames_in_order_with_their_times(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    assert is_video(clip) and describe(clip) == (10, 8)
    frames = list(read_frames(clip))
    assert [frame.index for frame in frames] == list(range(8))
    assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(8)])
    for i, frame in enumerate(frames):
        assert abs(frame.image.getpixel((60, 40))[0] - 10 * i) <= 6
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_read_frames_of_a_turned_clip_upright(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 44  # tag, version, times, id, duration, layers; then nine fixed-point numbers
    one = 1 << 16
    assert struct.unpack_from(">2i", data, matrix) == (one, 0)
    struct.pack_into(">9i", data, matrix, 0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)  # show it turned right
    clip.write_bytes(data)
    image = next(read_frames(clip)).image
    assert image.size == (48, 64)
    corners = [image.getpixel(p)[0] > 128 for p in ((4, 4), (43, 4), (4, 59), (43, 59))]
    assert corners == [False, True, False, False]


def test_predict_of_a_video_gives_a_result_per_frame(tmp_path):
    detector = Detector(FakeModel(), "cpu")
    results = detector.predict(make_clip(tmp_path / "clip.mp4"), batch_size=3)
    assert [(r.frame, r.size, r.names) for r in results] == [(i, (64, 48), ["cat", "dog"]) for i in range(8)]
    assert results[2].to_dict()["time"] == pytest.approx(0.2)
    with pytest.raises(UserError, match="stream"):
        results[0].draw()
    assert next(detector.stream(tmp_path / "clip.mp4")).draw().size == (64, 48)


def test_annotate_video_shows_the_boxes(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", size=(161, 121))  # odd sizes, which the format does not know
    assert next(read_frames(clip)).image.size == (160, 120)
    seen = []
    output = Detector(FakeModel(), "cpu").annotate_video(clip, tmp_path / "out" / "found.mp4", on_frame=seen.append)
    assert len(seen) == 8 and describe(output) == (10, 8)
    for before, after in zip(read_frames(clip), read_frames(output)):
        difference = np.abs(np.asarray(before.image, int) - np.asarray(after.image, int)).max(-1)
        assert difference[36:84, 63:67].mean() > 25  # the left edge of the cat's box
        assert difference[100:, 120:].mean() < 6


def test_read_frames_of_a_clip_with_a_latin_1_title(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "titled.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Gr00e"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48)))))
        container.mux(stream.encode(None))
    assert path.read_bytes().count(b"Gr00e") == 1
    path.write_bytes(path.read_bytes().replace(b"Gr00e", b"Gr\xfc\xdfe"))
    assert len(list(read_frames(path))) == 3


def make_sounding_clip(path, codec, frames=10):
    """A clip with a second of a tone."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=10), container.add_stream(codec, rate=44100)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            container.mux(video.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48)))))
        size = sound.codec_context.frame_size or 1024
        for start in range(0, 44100, size):
            wave = (0.3 * np.sin(np.arange(start, start + size) / 20)).astype(np.float32)
            layout = {"aac": "fltp", "pcm_s16le": "s16"}[codec]
            samples = wave if layout == "fltp" else (wave * 30000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format=layout, layout="mono")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(("codec", "kept"), [("aac", True), ("pcm_s16le", False)])
def test_annotate_video_keeps_sound_that_can_be_copied(tmp_path, codec, kept):
    av = pytest.importorskip("av")
    clip = make_sounding_clip(tmp_path / "clip.mkv", codec)
    output = Detector(FakeModel(), "cpu").annotate_video(clip, tmp_path / "found.mp4")
    assert len(list(read_frames(output))) == 10
    with av.open(str(output)) as container:
        sounds = container.streams.audio
        assert [s.codec_context.name for s in sounds] == (["aac"] if kept else [])
        seconds = sum(frame.samples for frame in container.decode(sounds[0])) / 44100 if kept else 1
    assert seconds == pytest.approx(1, abs=0.1)


def test_annotate_video_leaves_out_sound_of_an_unknown_codec(tmp_path):
    av = pytest.importorskip("av")
    clip = make_sounding_clip(tmp_path / "clip.mkv", "aac")
    clip.write_bytes(clip.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    output = Detector(FakeModel(), "cpu").annotate_video(clip, tmp_path / "found.mp4")
    with av.open(str(output)) as container:
        assert not container.streams.audio and len(container.streams.video) == 1


def test_small_copy_fits_a_page(tmp_path):
    rng = np.random.default_rng(0)
    with video_writer(tmp_path / "clip.mp4", 10) as write:
        for _ in range(20):
            write(Image.fromarray(rng.integers(0, 256, (720, 960, 3), np.uint8)))
    size = (tmp_path / "clip.mp4").stat().st_size
    assert small_copy(tmp_path / "clip.mp4") == tmp_path / "clip.mp4" or size > 15e6
    small = small_copy(tmp_path / "clip.mp4", max_bytes=size // 10)
    assert small.name == "clip_small.mp4" and small.stat().st_size < size // 5
    assert [frame.image.size for frame in read_frames(small)] == [(640, 480)] * 20


def test_annotate_video_never_overwrites_its_source(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    before = clip.read_bytes()
    with pytest.raises(UserError, match="another name"):
        Detector(FakeModel(), "cpu").annotate_video(clip, tmp_path / ".." / tmp_path.name / "clip.mp4")
    assert clip.read_bytes() == before


def test_video_writer_shows_no_half_written_file(tmp_path):
    def run():
        with video_writer(tmp_path / "out.mp4", 10) as write:
            write(Image.new("RGB", (32, 32)))
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        run()
    with pytest.raises(UserError, match="no frame"), video_writer(tmp_path / "empty.mp4", 10):
        pass
    with pytest.raises(UserError, match=r"\.mp4"), video_writer(tmp_path / "out.avi", 10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_stream_keeps_no_frames(tmp_path):
    clip, frames = make_clip(tmp_path / "long.mp4", frames=60), []
    for result in Detector(FakeModel(), "cpu").stream(clip, batch_size=2):
        frames.append(weakref.ref(result.image))
    del result
    gc.collect()
    assert len(frames) == 60 and not [frame for frame in frames if frame() is not None]


def test_annotate_video_says_what_cannot_be_written(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    detector = Detector(FakeModel(), "cpu")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="file"):
        detector.annotate_video(clip, tmp_path / "file" / "out.mp4")
    with pytest.raises(UserError, match="cannot be written"), video_writer(tmp_path / "wide.mp4", 10) as write:
        write(Image.new("RGB", (20_000, 2)))
    with pytest.raises(UserError, match="threshold must be a number"):
        detector.annotate_video(clip, tmp_path / "out.mp4", threshold="0.3")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "file"]


def test_read_frames_says_what_is_no_video(tmp_path, monkeypatch):
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(UserError, match=r"bad\.mp4 cannot be read"):
        next(read_frames(tmp_path / "bad.mp4"))
    with pytest.raises(UserError, match="no video file"):
        next(read_frames(tmp_path / "gone.mp4"))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="pip install av"):
        next(read_frames(tmp_path / "bad.mp4"))
