"""Reading pictures: any file that Pillow knows becomes upright RGB, and a bad one is named.

Sizes are ``(width, height)`` of the picture as it is seen, that is with its EXIF orientation applied.
"""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dino_nb.errors import UserError

# Twice Pillow's own warning level. Checked here too, since other libraries switch Pillow's check off.
MAX_PIXELS = 178_956_970
EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp")
EXTENSIONS += (".ppm", ".pgm", ".pnm", ".jp2", ".avif")

_ORIENTATION = 0x0112  # the EXIF tag
_SIDEWAYS = (5, 6, 7, 8)  # its values that exchange width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_KEYS = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}


def open_image(path):
    """The picture of ``path`` as an upright RGB ``PIL.Image``.

    Grey, palette, 16-bit, float, CMYK and transparent files become 8-bit RGB: 16-bit values 0..65535 are scaled to
    0..255 (never stretched picture by picture), alpha is dropped. Raises ``UserError`` naming the file if it is
    missing, unreadable, truncated, or too large to be decoded safely.
    """
    with _opened(path) as image, _naming(path):
        return upright_rgb(image)


def upright_rgb(image):
    """An upright 8-bit RGB copy of any ``PIL.Image``, converted as `open_image` does."""
    orientation = _orientation(image)
    image.load()
    rgb = _to_rgb(image)
    upright = rgb.transpose(_TURNS[orientation]) if orientation in _TURNS else rgb
    upright.info = {}  # else a second reader of the EXIF would turn the picture again
    return upright


def image_size(path):
    """``(width, height)`` of the upright picture, read from the header alone. Raises ``UserError`` as `open_image`."""
    width, height, orientation = header(path)
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def header(path):
    """``(width, height, orientation)`` as stored: the size before the EXIF orientation (1..8) is applied."""
    with _opened(path) as image:
        return (*image.size, _orientation(image))


def is_image(name):
    """Whether ``name`` ends like a picture file."""
    return Path(name).suffix.lower() in EXTENSIONS


class _naming:
    """Context that turns whatever a decoder raises into a ``UserError`` that names the file."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or not isinstance(error, Exception) or isinstance(error, UserError):
            return False
        path = self.path
        if isinstance(error, FileNotFoundError):
            text = f"there is no image file {path}."
        elif isinstance(error, IsADirectoryError):
            text = f"{path} is a folder, not an image file."
        elif isinstance(error, PermissionError):
            text = f"the image file {path} may not be read: its permissions forbid it."
        elif isinstance(error, UnidentifiedImageError):
            text = f"{path} is not an image that can be read (empty, damaged, or of another kind): replace it."
        elif isinstance(error, Image.DecompressionBombError):
            text = _too_large(path)
        elif isinstance(error, (MemoryError, RecursionError)):
            return False
        else:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, IndexError...
            text = f"the image {path} cannot be read ({error}): it is truncated or damaged, replace it."
        raise UserError(text) from error


class _opened(_naming):
    """Context with the opened, not yet decoded picture; its size is within bounds."""

    def __enter__(self):
        try:
            self.image = Image.open(self.path)
        except Exception as error:
            super().__exit__(type(error), error, error.__traceback__)
            raise
        width, height = self.image.size
        if width * height > MAX_PIXELS:
            self.image.close()
            raise UserError(_too_large(self.path, f"{width} x {height} pixels"))
        return self.image

    def __exit__(self, kind, error, traceback):
        self.image.close()
        return super().__exit__(kind, error, traceback)


def _too_large(path, size="its size"):
    return (
        f"the image {path} is refused: {size} is beyond {MAX_PIXELS // 1_000_000} million pixels, as in a file made "
        "to exhaust memory. Scale it down or cut it into tiles."
    )


def _orientation(image):
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


def _to_rgb(image):
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_to_bytes(np.asarray(image), mode)).convert("RGB")
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _to_bytes(values, mode):
    """uint8 of a grey ``(H, W)`` array: integers are taken as 0..65535, floats as 0..1, or 0..255 where above."""
    values = np.nan_to_num(values.astype(np.float32))
    if mode == "F":
        scale = 255.0 if values.max(initial=0) <= 1 else 1.0
    else:
        scale = 1 / 257
    return (values * scale).clip(0, 255).round().astype(np.uint8)
