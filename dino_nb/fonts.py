"""Fonts for names in any script: DejaVu Sans, and for letters that it lacks a font that this computer has."""

import unicodedata
import warnings
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from dino_nb.errors import UserError

# Parts of file names of fonts with many letters in a plain style: asked first.
_WIDE = ["notosanscjk", "sourcehansans", "wqy", "droidsansfallback", "notosans-regular", "unifont", "symbola"]
_WIDE += ["arialuni", "msyh", "malgun", "meiryo", "yugoth", "pingfang", "applesdgothic", "nanumgothic", "ipag"]
_WIDE += ["notoemoji"]
_USELESS = ("color", "lastresort")  # fonts of coloured bitmaps, and of boxes that stand for letters


def font(size: int, file: str | Path | None = None) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, or the font of a TrueType ``file``, ``size`` pixels high."""
    return _load(str(file or _dejavu()), size)


def runs(text: str, size: int, file: str | Path | None = None) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """``text`` in pieces, each with a font that has its letters. ``file``: the font to use for all of it."""
    if file is not None or text.isascii():
        return [(text, font(size, file))]
    pieces: list[tuple[str, str]] = []
    for letter in text:
        # marks, joiners and blanks stay with the letter before them
        joined = pieces and (letter.isspace() or unicodedata.category(letter)[0] in "MC")
        where = pieces[-1][1] if joined else str(_file_with(letter) or _dejavu())
        if pieces and pieces[-1][1] == where:
            pieces[-1] = (pieces[-1][0] + letter, where)
        else:
            pieces.append((letter, where))
    _warn_of_missing(text)
    return [(piece, font(size, where)) for piece, where in pieces]


def text_width(text: str, size: int, file: str | Path | None = None) -> int:
    """Pixels that ``text`` takes in a row."""
    return round(sum(letters.getlength(piece) for piece, letters in runs(text, size, file)))


def draw_text(
    canvas: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    fill: str | tuple[int, ...],
    file: str | Path | None = None,
) -> None:
    """Write ``text`` with its upper left corner at ``place`` (x, y), on the baseline of DejaVu Sans."""
    x, y = place[0], place[1] + font(size, file).getmetrics()[0]
    for piece, letters in runs(text, size, file):
        canvas.text((x, y), piece, font=letters, fill=fill, anchor="ls")
        x += letters.getlength(piece)


def families(texts: list[str]) -> list[str]:
    """Names of font families with which matplotlib draws all of ``texts``: for ``rc_context({"font.family": ...})``."""
    from matplotlib import font_manager, ft2font

    letters = sorted({letter for text in texts for letter in str(text) if not letter.isascii()})
    files = dict.fromkeys(file for file in map(_file_with, letters) if file and file != _dejavu())
    _warn_of_missing("".join(letters))
    for file in files:
        font_manager.fontManager.addfont(file)
    return ["DejaVu Sans", *dict.fromkeys(ft2font.FT2Font(str(file)).family_name for file in files)]


@lru_cache(maxsize=64)
def _load(file: str, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(file, size)
    except OSError as error:
        raise UserError(f"the font file {file} cannot be read: {error}.") from None


@cache
def _dejavu() -> Path:
    import matplotlib  # only for the folder of the font, which has far more letters than PIL's own

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _file_with(letter: str) -> Path | None:
    """A font file that has ``letter``, or None."""
    return next((file for file in [_dejavu(), *_system_fonts()] if ord(letter) in _letters(file)), None)


@cache
def _system_fonts() -> list[Path]:
    from matplotlib import font_manager

    files = sorted(Path(file) for file in font_manager.findSystemFonts())
    usable = [file for file in files if not any(part in file.name.lower() for part in _USELESS)]

    def rank(file: Path) -> tuple[int, int]:
        name = file.name.lower()
        wide = next((i for i, part in enumerate(_WIDE) if part in name), len(_WIDE))
        return wide, int(any(style in name for style in ("bold", "italic", "oblique", "mono", "serif", "black")))

    return sorted(usable, key=rank)


@cache
def _letters(file: Path) -> frozenset[int]:
    from matplotlib import ft2font

    try:
        ImageFont.truetype(str(file), 20)  # a font of bitmaps in one size is of no use here
        return frozenset(ft2font.FT2Font(str(file)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


_warned = False


def _warn_of_missing(text: str) -> None:
    global _warned
    missing = [c for c in dict.fromkeys(text) if c.isprintable() and not c.isascii() and _file_with(c) is None]
    missing = [c for c in missing if unicodedata.category(c)[0] not in "MC"]
    if missing and not _warned:
        _warned = True
        warnings.warn(
            f"no font on this computer has {' '.join(missing[:10])}: such letters are drawn as boxes. Install one "
            "(Colab and Debian: apt-get install fonts-noto-cjk), restart, or pass font_file to draw_boxes.",
            stacklevel=3,
        )
