"""What a user may call pictures, and reading it one picture at a time.

A source is a picture file, a URL (http, https), a folder, a glob pattern, a video file, a ``PIL.Image``, an array
``(H, W)`` or ``(H, W, 3)`` uint8 in RGB order, a tensor ``(3, H, W)`` or ``(1, H, W)`` (float in [0, 1], or uint8), or
any iterable of these.
"""

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from PIL import Image

from dino_nb.data.images import is_image, open_image, upright_rgb
from dino_nb.errors import UserError
from dino_nb.inference.download import download
from dino_nb.inference.video import is_video, read_frames


@dataclass
class Picture:
    """One upright RGB picture on its way through the detector.

    Attributes:
        image: the ``PIL.Image``.
        name: a file name for what is made of it, such as ``street.jpg`` or ``clip_000012.png``.
        path: the file (str) that holds exactly this picture, or None (URL, video frame, array).
        source: where it came from, for messages and reports: the path, the URL, or None.
        frame: the number of a video's frame, else None.
        time: seconds from a video's start, else None.
    """

    image: Image.Image
    name: str
    path: str | None = None
    source: str | None = None
    frame: int | None = None
    time: float | None = None


def is_one(source):
    """Whether ``source`` means exactly one picture, so that its result is not wrapped in a list."""
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return source.ndim < 4
    if isinstance(source, (str, os.PathLike)):
        text = _text(source)
        return _is_url(text) or not (_is_dir(text) or is_video(text) or _is_glob(text))
    return isinstance(source, Image.Image)


def leaves(source):
    """Yield the single sources in ``source``: folders and patterns become files, lists are flattened, lazily."""
    if isinstance(source, (str, os.PathLike)):
        text = _text(source)
        if _is_url(text):
            yield text
        elif _is_dir(text):
            yield from _folder(text)
        elif _is_glob(text):
            yield from _pattern(text)
        else:
            yield text
    elif isinstance(source, Image.Image):
        yield source
    elif isinstance(source, (np.ndarray, torch.Tensor)):
        yield from source if source.ndim == 4 else [source]
    elif isinstance(source, Iterable) and not isinstance(source, (dict, bytes)):
        for one in source:
            yield from leaves(one)
    else:
        raise UserError(
            f"a {type(source).__name__} is not a picture: give a path, a URL, a PIL picture, an array (H, W, 3), "
            "a tensor (3, H, W), a folder, a pattern, a video file, or a list of these."
        )


def read(leaf, number=0):
    """Yield the ``Picture`` of a leaf, or one a frame if it is a video. ``number`` names pictures without a file."""
    if isinstance(leaf, str):
        if _is_url(leaf):
            name = _file_name(PurePosixPath(unquote(urlsplit(leaf).path)).name) or f"picture_{number:06}.png"
            yield Picture(open_image(download(leaf)), name, source=leaf)
        elif is_video(leaf):
            for frame in read_frames(leaf):
                name = f"{Path(leaf).stem}_{frame.index:06}.png"
                yield Picture(frame.image, name, source=leaf, frame=frame.index, time=frame.time)
        else:
            yield Picture(open_image(leaf), Path(leaf).name, path=leaf, source=leaf)
        return
    if isinstance(leaf, Image.Image):
        image = upright_rgb(leaf)
    else:
        image = _from_array(leaf) if isinstance(leaf, np.ndarray) else _from_tensor(leaf)
    yield Picture(image, f"picture_{number:06}.png")


def _text(source):
    text = os.fspath(source)
    return str(Path(text).expanduser()) if text.startswith("~") else text


def _is_url(text):
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme and scheme.lower() not in ("http", "https"):
        raise UserError(f"{text}: only http and https addresses are read; for a file give its path alone.")
    return bool(scheme)


def _is_glob(text):
    return glob.has_magic(text) and not exists(text)


def exists(text):
    """Whether ``text`` is the path of something; False too where it cannot be a path at all."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def _is_dir(text):
    return exists(text) and Path(text).is_dir()


def _file_name(name):
    """A name from the web as one that every file system takes."""
    return "".join(c if c.isprintable() and c not in '\\/:*?"<>|' else "_" for c in name)[-100:]


def _folder(folder):
    inside = sorted(p for p in Path(folder).iterdir() if p.is_file() and not p.name.startswith("."))
    found = [str(p) for p in inside if is_image(p) or is_video(p)]
    if not found:
        raise UserError(
            f"there is no picture in the folder {folder}; for those in folders below it give the pattern "
            f"'{Path(folder) / '**' / '*'}'."
        )
    yield from found


def _pattern(pattern):
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    found = [p for p in matches if is_image(p) or is_video(p)]
    if not found:
        raise UserError(f"no picture matches {pattern!r}.")
    yield from found


def _from_array(array):
    if array.ndim == 3 and array.shape[2] in (1, 4):
        array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
        raise UserError(
            f"an array {array.shape} of {array.dtype} is not a picture: it must be (H, W, 3) or (H, W), uint8, in RGB "
            "order. Scale floats by 255 and convert them; a channels-first picture goes in as a torch tensor."
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _from_tensor(tensor):
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or not tensor.numel():
        raise UserError(f"a tensor {tuple(tensor.shape)} is not a picture: it must be (3, H, W) or (1, H, W).")
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        low, high = tensor.min().item(), tensor.max().item()
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails too
            raise UserError(
                f"a float picture must lie in [0, 1], this one is in [{low:.3g}, {high:.3g}]: divide by 255, or leave "
                "out the normalisation, which the detector does itself."
            )
        tensor = (tensor.float().clamp(0, 1) * 255).round().byte()
    elif tensor.dtype != torch.uint8:
        raise UserError(f"a tensor of {tensor.dtype} is not a picture: use uint8, or floats in [0, 1].")
    return Image.fromarray(tensor.permute(1, 2, 0).expand(-1, -1, 3).contiguous().numpy())
