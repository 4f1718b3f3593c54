"""Every format gives the same boxes back, and is told from the others."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.prepare.annotation_writers import PLAIN, SIZE, WRITERS, convert, faults, put_images, read_back


@st.composite
def datasets(draw):
    names = st.text(st.characters(codec="utf-8", categories=("L", "N"), include_characters=" <&>'\"-"), min_size=1)
    classes = draw(st.lists(names.map(str.strip).filter(bool), min_size=1, max_size=4, unique=True))
    classes = [name for name in classes if not name.isdigit()] or ["thing"]
    quarter = st.integers(0, 4 * 47).map(lambda v: v / 4)
    images = {}
    for i in range(draw(st.integers(2, 5))):
        boxes = []
        for _ in range(draw(st.integers(0, 4))):
            x1, y1 = draw(quarter), draw(quarter)
            x2 = min(x1 + 0.5 + draw(quarter), SIZE[0])
            boxes.append((draw(st.sampled_from(classes)), x1, y1, x2, min(y1 + 0.5 + draw(quarter), SIZE[1])))
        images[f"image_{i}.png"] = (SIZE, boxes)
    images["image_0.png"][1].append((classes[0], 1.0, 1.0, 9.5, 9.5))
    return images, classes


@pytest.mark.parametrize("writer", WRITERS)
@example(data=({f"image_{i}.png": (SIZE, [("shapes", 1.0, 1.0, 9.5, 9.5)]) for i in range(2)}, ["shapes"]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=datasets())
def test_random_sets_survive_every_format(tmp_path, writer, data):
    dataset, classes = data
    src = Path(tempfile.mkdtemp(dir=tmp_path))
    out = src.with_suffix(".out")
    put_images(src / "images", dataset)
    WRITERS[writer](src, dataset, classes)
    report = convert(src, out)
    assert report.format == writer.split()[0]
    back = read_back(out)
    # a CSV that relates corners to 0..1 or pixels below 1 alike is told by statistics; sets here are beyond doubt
    assert back.keys() == dataset.keys()
    for name, (_, boxes) in dataset.items():
        assert len(back[name]) == len(boxes)
        for found, planted in zip(back[name], sorted(boxes)):
            assert found[0] == planted[0]
            assert found[1:] == pytest.approx(planted[1:], abs=0.01)


@pytest.mark.parametrize("writer", WRITERS)
def test_format_is_found_and_may_be_said(tmp_path, writer):
    put_images(tmp_path / "s" / "images", PLAIN)
    WRITERS[writer](tmp_path / "s", PLAIN, ["cat", "dog"])
    found = convert(tmp_path / "s", tmp_path / "a")
    said = convert(tmp_path / "s", tmp_path / "b", format=writer.split()[0])
    assert found.format == said.format == writer.split()[0]
    assert read_back(tmp_path / "a") == read_back(tmp_path / "b")
    other = "yolo" if found.format != "yolo" else "coco"
    assert f"look like {other}" in faults(tmp_path / "s", tmp_path, format=other)
