"""Reading images: any file that Pillow knows becomes upright RGB, and a bad one is named.

Sizes are ``(width, height)`` of the image as it is seen, that is with its EXIF orientation applied. The EXIF turn of
pixels, sizes and boxes is here and nowhere else.
"""

import contextlib
import importlib.util
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from dino_nb.errors import UserError, explain

# Twice Pillow's own warning level. Checked here too, since other libraries switch Pillow's check off.
MAX_PIXELS = 178_956_970
_HEIC = (".heic", ".heif", ".hif")
EXTENSIONS: tuple[str, ...] = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".dib",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
)
EXTENSIONS += (".ppm", ".pgm", ".pnm", ".jp2", ".avif", ".mpo")
EXTENSIONS += _HEIC if importlib.util.find_spec("pillow_heif") else ()
_RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2")
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height

Source = str | os.PathLike[str] | BinaryIO
_ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_KEYS = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}


def open_image(path: Source) -> Image.Image:
    """The image of ``path`` (or of an open binary file) as an upright RGB ``PIL.Image``.

    Grey, palette, 16-bit, float, CMYK and transparent files become 8-bit RGB: 16-bit values 0..65535 are scaled to
    0..255 (never stretched image by image), alpha is dropped. Raises ``UserError`` naming the file if it is missing,
    unreadable, truncated, or too large to be decoded safely.
    """
    with opened(path) as image:
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An upright 8-bit RGB copy of any ``PIL.Image``, converted as `open_image` does."""
    orientation = _orientation(image)
    image.load()
    rgb = _to_rgb(image)
    upright = rgb.transpose(TURNS[orientation]) if orientation in TURNS else rgb
    upright.info = {}  # else a second reader of the EXIF would turn the image again
    return upright


def image_size(path: Source) -> tuple[int, int]:
    """``(width, height)`` of the upright image, read from the header alone. Raises ``UserError`` as `open_image`."""
    width, height, orientation = header(path)
    return turned_size((width, height), orientation)


def header(path: Source) -> tuple[int, int, int]:
    """``(width, height, orientation)`` as stored: the size before the EXIF orientation (1..8) is applied."""
    with opened(path) as image:
        return (*image.size, _orientation(image))


def turned_size(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    """``(width, height)`` of the upright image, of the size as stored."""
    return (stored[1], stored[0]) if orientation in QUARTER_TURNS else stored


def turned_boxes(boxes: np.ndarray, stored: tuple[int, int], orientation: int) -> np.ndarray:
    """Corners ``(n, 4)`` in pixels of an image as stored, ``(width, height)``, on the upright image."""
    x1, y1, x2, y2 = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
    if orientation in (2, 3, 7, 8):
        x1, x2 = stored[0] - x2, stored[0] - x1
    if orientation in (3, 4, 6, 7):
        y1, y2 = stored[1] - y2, stored[1] - y1
    return np.stack([y1, x1, y2, x2] if orientation in QUARTER_TURNS else [x1, y1, x2, y2], axis=1)


def is_image(name: str | os.PathLike[str]) -> bool:
    """Whether ``name`` ends like an image file."""
    return Path(name).suffix.lower() in EXTENSIONS


def unsupported(name: str | os.PathLike[str]) -> str | None:
    """What to do about an image file of a kind that is not read here, or None."""
    suffix = Path(name).suffix.lower()
    if suffix in _RAW:
        return f"is a raw camera file ({suffix}), which is not read here: export it as JPEG"
    if suffix == ".mpo":
        return "is a stereo photo (MPO), which is not read here: export it as JPEG"
    if suffix in _HEIC and suffix not in EXTENSIONS:
        return "is a HEIC photo: pip install pillow-heif, or export it as JPEG"
    return None


@contextlib.contextmanager
def opened(path: Source) -> Iterator[Image.Image]:
    """Context with the opened, not yet decoded image; its size is within bounds.

    Whatever a decoder raises inside becomes a ``UserError`` that names the file.
    """
    try:
        with _pillow(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(_too_large(path, f"{width} x {height} pixels"))
            yield image
    except (UserError, MemoryError, RecursionError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error...
        raise UserError(_why(path, error)) from error


def _pillow(path: Source) -> Image.Image:
    if isinstance(path, (str, os.PathLike)):
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe or device would block for ever
            what = "a folder" if Path(path).is_dir() else "a pipe or device"
            raise UserError(f"{path} is {what}, not an image file.")
        if why := unsupported(path):
            raise UserError(f"{path} {why}.")
        if Path(path).suffix.lower() in _HEIC:
            from pillow_heif import register_heif_opener

            register_heif_opener()
    return Image.open(path)


def _why(path: Source, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no image file {path}."
    if isinstance(error, UnidentifiedImageError):
        return f"{path} is not an image that can be read (empty, damaged, or of another kind): replace it."
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(path)
    if isinstance(error, OSError) and error.errno is not None:
        return f"the image {path} cannot be read: {explain(error)}"
    return f"the image {path} cannot be read ({error}): it is truncated or damaged, replace it."


def _too_large(path: Source, size: str = "its size") -> str:
    limit = f"beyond {MAX_PIXELS // 1_000_000} million pixels, as in a file made to exhaust memory"
    return f"the image {path} is refused: {size} is {limit}. Scale it down or cut it into tiles."


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # which Pillow turns by itself, its size included
        return 1
    # Pillow decodes a whole PNG in search of EXIF behind the pixels; where nobody puts it, nobody looks.
    if image.format == "PNG" and not _EXIF_KEYS & image.info.keys():
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises anything, and the pixels may be good nevertheless
        return 1
    return value if value in range(1, 9) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I") or mode == "F":  # integers are taken as 0..65535, floats as 0..1, or 0..255 where above
        values = np.nan_to_num(np.asarray(image).astype(np.float32))
        scale = 1 / 257 if mode != "F" else 255.0 if values.max(initial=0) <= 1 else 1.0
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()
