"""Reports: aligned in text, escaped in HTML, bounded in both."""

from dino_nb.printer import Folded, Lines, Printed, Table, counted, examples, to_page

EVIL = "<script>alert(1)</script>\x1b[2J\ud800"


class Report(Printed):
    def blocks(self):
        return [
            Lines([EVIL, "second"]),
            Table(["class", "n", "AP"], [[EVIL, 1234, 0.5], ["b", 7, -1.0]], limit=1),
            Folded("ERROR   bad (3): " + EVIL, examples([EVIL], 3), "error"),
        ]


def test_report_text_is_aligned_and_printable():
    text = str(Report())
    assert "\x1b" not in text and text.encode() and repr(Report()) == text
    assert "  class" in text and "1,234  0.500" in text and "  ... and 1 more" in text and "- ... and 2 more" in text


def test_report_html_is_escaped():
    shown = Report()._repr_html_()
    assert "<script" not in shown and shown.count("&lt;script") == 4 and "\x1b" not in shown
    assert "<details>" in shown and "#c0392b" in shown and shown in to_page(Report().blocks(), "Check")


def test_table_of_undefined_and_no_rows():
    assert Table(["a"], []).text() == ["  a"]
    assert Table(["AP"], [[-1.0]]).text() == ["  AP", "   -"]


def test_counted_and_examples():
    assert (counted(1, "box", "boxes"), counted(2000, "box", "boxes")) == ("1 box", "2,000 boxes")
    assert examples(["x"], 1) == ["- x"] and examples([], 0) == []
