"""What a user may call images, and reading it one image at a time.

A source is an image file, a URL (http, https), a folder, a glob pattern, a video file, a ``PIL.Image``, an array or
tensor ``(H, W)``, ``(H, W, 3)`` or ``(3, H, W)`` in RGB order (uint8, or floats in [0, 1]), or any iterable of these.
"""

import glob
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from dino_nb.checkpoints.download import fetch_bytes
from dino_nb.checkpoints.web import shown
from dino_nb.data.images import is_image, open_image, upright_rgb
from dino_nb.errors import UserError, disk_errors
from dino_nb.inference.video import describe, is_video, read_frames

Source = Any  # one of the above
Leaf = Any  # a source that is no folder, pattern or list: a str, an image, an array or a tensor


@dataclass
class SourceImage:
    """One upright RGB image on its way through the detector.

    Attributes:
        image: the ``PIL.Image``.
        name: a file name for what is made of it, such as ``street.jpg`` or ``clip_000012.png``.
        path: the file (str) that holds exactly this image, or None (URL, video frame, array).
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


def is_one(source: Source) -> bool:
    """Whether ``source`` means exactly one image: its result is then not wrapped in a list."""
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return source.ndim < 4
    if isinstance(source, (str, os.PathLike)):
        text = _text(source)
        return not text.strip() or _is_url(text) or not (_is_dir(text) or is_video(text) or _is_glob(text))
    return isinstance(source, Image.Image)


def leaves(source: Source) -> Iterator[Leaf]:
    """Yield the single sources in ``source``: folders and patterns become files, lists are flattened, lazily."""
    if isinstance(source, (str, os.PathLike)):
        text = _text(source)
        if not text.strip():
            raise UserError("the source is empty: give a path, a URL, a folder, a pattern or a video file.")
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
            f"a {type(source).__name__} is not an image: give a path, a URL, a PIL image, an array (H, W, 3), "
            "a tensor (3, H, W), a folder, a pattern, a video file, or a list of these."
        )


def read(leaf: Leaf, number: int = 0) -> Iterator[SourceImage]:
    """Yield the ``SourceImage`` of a leaf, or one per frame of a video. ``number`` names images without a file."""
    if isinstance(leaf, str):
        if _is_url(leaf):
            name = _file_name(PurePosixPath(unquote(urlsplit(leaf).path)).name) or f"image_{number:06}.png"
            yield SourceImage(open_image(fetch_bytes(leaf)), name, source=shown(leaf))
        elif is_video(leaf):
            for frame in read_frames(leaf):
                name = f"{Path(leaf).stem}_{frame.index:06}.png"
                yield SourceImage(frame.image, name, source=leaf, frame=frame.index, time=frame.time)
        else:
            yield SourceImage(open_image(leaf), Path(leaf).name, path=leaf, source=leaf)
        return
    if isinstance(leaf, Image.Image) and 0 in leaf.size:
        raise UserError(f"an image of {leaf.width} x {leaf.height} has no pixels.")
    image = upright_rgb(leaf) if isinstance(leaf, Image.Image) else _from_pixels(leaf)
    yield SourceImage(image, f"image_{number:06}.png")


def read_all(
    source: Source, errors: str = "raise", skipped: list[tuple[str, str]] | None = None, progress: bool = False
) -> Iterator[SourceImage]:
    """Yield every image of ``source``; see ``Detector.stream``."""
    known = isinstance(source, (str, os.PathLike, list, tuple))  # else perhaps endless
    found = list(leaves(source)) if known else leaves(source)
    total = len(found) if isinstance(found, list) else None
    quiet = not progress or (total == 1 and not is_video(found[0]) if isinstance(found, list) else False)
    unit = "image"
    if isinstance(found, list) and total == 1 and isinstance(found[0], str) and is_video(found[0]):
        total, unit = describe(found[0])[1], "frame"
    with tqdm(total=total, desc="detecting", disable=quiet, delay=2, unit=unit) as bar:
        for number, leaf in enumerate(found):
            try:
                for image in read(leaf, number):
                    yield image
                    bar.update()
            except UserError as error:
                if errors == "raise":
                    raise
                name = leaf if isinstance(leaf, str) else f"image {number}"
                if skipped is None:
                    warnings.warn(f"left out: {error}", stacklevel=2)
                else:
                    skipped.append((name, str(error)))


def listed(skipped: list[tuple[str, str]]) -> str:
    """The first reasons why images were left out, on one line."""
    more = f" (and {len(skipped) - 5} more)" if len(skipped) > 5 else ""
    return "; ".join(reason for _, reason in skipped[:5]) + more


def warn_of(skipped: list[tuple[str, str]], stacklevel: int = 3) -> None:
    """One warning of all images that were left out, if there are some."""
    if skipped:
        count = f"{len(skipped)} image{'s were' if len(skipped) > 1 else ' was'} left out"
        warnings.warn(f"{count}: {listed(skipped)}", stacklevel=stacklevel)


def exists(text: str) -> bool:
    """Whether ``text`` is the path of something; False too where it cannot be a path at all."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def _text(source: str | os.PathLike) -> str:
    text = os.fspath(source)
    return str(Path(text).expanduser()) if text.startswith("~") else text


def _is_url(text: str) -> bool:
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme and scheme.lower() not in ("http", "https"):
        raise UserError(f"{text}: only http and https addresses are read; for a file give its path alone.")
    return bool(scheme)


def _is_glob(text: str) -> bool:
    return glob.has_magic(text) and not exists(text)


def _is_dir(text: str) -> bool:
    return exists(text) and Path(text).is_dir()


def _file_name(name: str) -> str:
    """A name from the web as one that every file system takes."""
    return "".join(c if c.isprintable() and c not in '\\/:*?"<>|' else "_" for c in name)[-100:]


@disk_errors()
def _folder(folder: str) -> list[str]:
    inside = sorted(p for p in Path(folder).iterdir() if p.is_file() and not p.name.startswith("."))
    found = [str(p) for p in inside if is_image(p) or is_video(p)]
    if not found:
        raise UserError(
            f"there is no image in the folder {folder}; for those in folders below it give the pattern "
            f"'{Path(folder) / '**' / '*'}'."
        )
    return found


def _pattern(pattern: str) -> list[str]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    found = [p for p in matches if (is_image(p) or is_video(p)) and Path(p).is_file()]
    if not found:
        raise UserError(f"no image matches {pattern!r}.")
    return found


def _from_pixels(values: np.ndarray | torch.Tensor) -> Image.Image:
    """An array or tensor as an RGB image; where both ends could be the channels, an array has them last."""
    is_array = isinstance(values, np.ndarray)
    what = f"{'an array' if is_array else 'a tensor'} {tuple(values.shape)} of {values.dtype}"
    shape = tuple(values.shape)
    first, last = shape[:1] in ((1,), (3,), (4,)), shape[-1:] in ((1,), (3,), (4,))
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and not (first or last)):
        raise UserError(f"{what} is not an image: it must be (H, W), (H, W, 3) or (3, H, W), in RGB order.")
    try:
        pixels = torch.from_numpy(np.array(values, order="C")) if isinstance(values, np.ndarray) else values
    except TypeError:  # of objects or texts
        raise UserError(f"{what} is not an image: use uint8, or floats in [0, 1].") from None
    pixels = pixels.detach().cpu()
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif first and not (last and is_array):
        pixels = pixels.permute(1, 2, 0)
    if pixels.is_floating_point():
        low, high = pixels.min().item(), pixels.max().item()
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails too
            raise UserError(
                f"a float image must lie in [0, 1], this one is in [{low:.3g}, {high:.3g}]: divide by 255, or leave "
                "out the normalisation, which the detector does itself."
            )
        pixels = (pixels.float().clamp(0, 1) * 255).round().byte()
    elif pixels.dtype != torch.uint8:
        raise UserError(f"{what} is not an image: use uint8, or floats in [0, 1].")
    return Image.fromarray(pixels[..., :3].expand(-1, -1, 3).contiguous().numpy())
