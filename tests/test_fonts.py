import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from dino_nb import fonts
from dino_nb.draw import draw_boxes


def make_font(path, letters):
    """A TrueType font whose ``letters`` are filled squares."""
    names = [".notdef", *(f"u{ord(c):05x}" for c in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): name for c, name in zip(letters, names[1:])})
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def system(monkeypatch):
    """What fonts the system has: none, until a test gives some."""
    installed = []
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(file) for file in installed])
    monkeypatch.setattr(fonts, "_warned", False)
    for cached in (fonts._file_with, fonts._system_fonts, fonts._letters):
        cached.cache_clear()
    yield installed
    for cached in (fonts._file_with, fonts._system_fonts, fonts._letters):
        cached.cache_clear()


def test_runs_take_missing_letters_from_a_system_font(system, tmp_path):
    system.append(make_font(tmp_path / "squares.ttf", "猫犬"))
    pieces = fonts.runs("cat 猫犬 88%", 20)
    assert [(text, letters.getname()[0]) for text, letters in pieces] == [
        ("cat ", "DejaVu Sans"),
        ("猫犬 ", "Squares"),
        ("88%", "DejaVu Sans"),
    ]
    assert fonts.text_width("猫猫", 20) == 40
    canvas = Image.new("RGB", (60, 40))
    fonts.draw_text(ImageDraw.Draw(canvas), (0, 0), "猫", 20, "white")
    assert canvas.getpixel((10, 12)) == (255, 255, 255)


def test_families_for_matplotlib_have_the_letters(system, tmp_path):
    system.append(make_font(tmp_path / "squares.ttf", "猫犬"))
    assert fonts.families(["cat", "猫"]) == ["DejaVu Sans", "Squares"]
    assert fonts.families(["naïve"]) == ["DejaVu Sans"]

    from matplotlib import pyplot as plt

    with warnings.catch_warnings(), plt.rc_context({"font.family": fonts.families(["猫"])}):
        warnings.simplefilter("error")  # matplotlib warns of letters that a font lacks
        figure = plt.figure()
        figure.text(0.5, 0.5, "a 猫")
        figure.canvas.draw()
        plt.close(figure)


def test_draw_boxes_says_once_that_no_font_has_a_letter(system):
    with pytest.warns(UserWarning, match="no font on this computer has 猫") as told:
        for _ in range(2):
            draw_boxes(Image.new("RGB", (90, 90)), [[5, 5, 50, 50]], ["猫"])
    assert len(told) == 1


def test_runs_of_damaged_and_coloured_fonts_are_passed_over(system, tmp_path):
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    system += [tmp_path / "bad.ttf", make_font(tmp_path / "NotoColorEmoji.ttf", "猫")]
    with pytest.warns(UserWarning, match="fonts-noto-cjk"):
        assert fonts.runs("猫", 20)[0][1].getname()[0] == "DejaVu Sans"
