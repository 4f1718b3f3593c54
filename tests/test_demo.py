"""``make demo`` with few images and one epoch: every step, and a page whose links lead somewhere."""

import re

from tests import demo


def test_demo_ends_in_a_page_that_links_everything(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "IMAGES", {"n_train": 8, "n_val": 8})
    train = demo.dino_nb.finetune
    monkeypatch.setattr(demo.dino_nb, "finetune", lambda *args, **options: train(*args, **options, epochs=1))
    demo.main(tmp_path / "demo")
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^"]+)"', page)
    assert len(links) >= 6 and all((tmp_path / "demo" / link).exists() for link in links)
    assert page.count("<img") == 6
    out = capsys.readouterr().out
    for name in (*demo.KNOWN, *demo.NEW, "all six"):
        assert f"  {name} " in out and name in page
