"""Reading and writing videos frame by frame, in memory that does not grow with their length (PyAV, optional)."""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from dino_nb.errors import UserError
from dino_nb.files import atomic_path

VIDEO_EXTENSIONS = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts"])
# A media file may name other files and addresses to be opened; only itself is.
_OPTIONS = {"protocol_whitelist": "file"}
_MP4_SOUND = ("aac", "mp3", "mp3float", "ac3", "alac", "opus")
# What FFmpeg's display matrix calls its angle is counterclockwise, as PIL's is.
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass
class Frame:
    """One upright frame: its number from 0, its time in seconds from the start (or None), and the RGB image."""

    index: int
    time: float | None
    image: Image.Image


def is_video(path: object) -> bool:
    """Whether ``path`` ends like a video file."""
    return Path(str(path)).suffix.lower() in VIDEO_EXTENSIONS


def read_frames(path: str | os.PathLike) -> Iterator[Frame]:
    """Yield every ``Frame`` of a video file in order. Raises ``UserError`` naming the file if it cannot be read."""
    with _opened(path) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            image = frame.to_image()
            turn = _TURNS.get(round(frame.rotation) % 360)
            yield Frame(index, frame.time, image.transpose(turn) if turn is not None else image)


def describe(path: str | os.PathLike) -> tuple[Fraction, int | None]:
    """``(frames per second, number of frames or None where the file does not tell)``."""
    with _opened(path) as (_, stream):
        return Fraction(stream.average_rate or stream.guessed_rate or 25), stream.frames or None


@contextlib.contextmanager
def video_writer(
    path: str | os.PathLike,
    rate: float | Fraction,
    bit_rate: int | None = None,
    sound_of: str | os.PathLike | None = None,
) -> Iterator[Callable[[Image.Image], None]]:
    """Yield ``write(image)``, which appends a PIL image to an H.264 ``.mp4`` at ``rate`` frames per second.

    The file appears under its name when the block ends without an error. Width and height are cut to even numbers,
    which the format needs; the first image sets the size.

    Args:
        bit_rate: bits per second to aim at; default: constant quality.
        sound_of: a video whose sound is copied as it is, if an ``.mp4`` can hold it so.
    """
    av = _av()
    if Path(path).suffix.lower() != ".mp4":
        raise UserError(f"a video is written as .mp4, not as {Path(path).name}.")
    with _writing(path, av), atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(65535))
        stream.pix_fmt = "yuv420p"
        if bit_rate:
            stream.bit_rate = bit_rate
        size: tuple[int, int] | None = None

        def write(image: Image.Image) -> None:
            nonlocal size
            if size is None:
                size = (max(2, image.width // 2 * 2), max(2, image.height // 2 * 2))
                stream.width, stream.height = size
            even = image.convert("RGB")
            # One row or column goes at most; a frame of another size (rare, but files have them) is resized.
            near = all(0 <= have - want <= 1 for have, want in zip(image.size, size))
            even = even.crop((0, 0, *size)) if near else even.resize(size)
            container.mux(stream.encode(av.VideoFrame.from_image(even)))

        with _sound(sound_of, container) as copy_sound:
            yield write
            if size is None:
                raise UserError(f"the video {path} would have no frame: nothing is written.")
            container.mux(stream.encode(None))
            copy_sound()


@contextlib.contextmanager
def _sound(path: str | os.PathLike | None, container: Any) -> Iterator[Callable[[], None]]:
    """Add the sound of ``path``, if it has some that an mp4 takes, to ``container``; yields what copies it there."""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_opened(path))[0] if path is not None else None
        audio = [t for t in source.streams.audio if t.codec_context] if source else []  # without: a codec nobody knows
        tracks = [t for t in audio if t.codec_context.name in _MP4_SOUND][:1]
        copies = {track: container.add_stream_from_template(track) for track in tracks}

        def copy() -> None:
            for packet in source.demux(tracks) if source and tracks else ():
                if packet.dts is not None:
                    packet.stream = copies[packet.stream]
                    container.mux(packet)

        yield copy


def small_copy(path: str | os.PathLike, max_bytes: int = 15_000_000) -> Path:
    """A copy of a video that a notebook can show in its page: ``NAME_small.mp4`` beside it, of ``max_bytes`` or less.

    A video that is small enough is returned as it is. A larger one is scaled to 640 pixels and fewer bits per second.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size <= max_bytes:
        return path
    rate, frames = describe(path)
    seconds = float((frames or sum(1 for _ in read_frames(path))) / rate)
    small = path.with_name(f"{path.stem}_small.mp4")
    with video_writer(small, rate, bit_rate=int(min(1e6, 6.5 * max_bytes / max(seconds, 1)))) as write:
        for frame in read_frames(path):
            frame.image.thumbnail((640, 640))
            write(frame.image)
    return small


@contextlib.contextmanager
def _writing(path: str | os.PathLike, av: Any) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise UserError(f"the video {path} cannot be written ({error.strerror}): try smaller frames.") from error


def _av() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError:
        raise UserError("videos need the package PyAV: install it with  pip install av  and try again.") from None


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[Any, Any]]:
    av = _av()
    if not Path(path).is_file():
        raise UserError(f"there is no video file {path}.")
    # titles may be in any encoding; PyAV 19 needs not be told
    told = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        with av.open(str(path), options=_OPTIONS, **told) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video stream in it: it is sound or something else.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise UserError(
            f"the video {path} cannot be read ({error.strerror}): it is damaged or of an unknown kind."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"the video {path} cannot be read: its texts are damaged ({error.reason}).") from error
