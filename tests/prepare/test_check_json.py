import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dino_nb.data import json_file
from dino_nb.errors import UserError
from dino_nb.prepare.check import check_dataset
from dino_nb.prepare.repair import fix_dataset
from tests.prepare.planting import LABEL, make_valid, read


@pytest.fixture
def root(tmp_path):
    return make_valid(tmp_path / "set")


def check_with(root, data):
    (root / LABEL["train"]).write_bytes(data)
    return check_dataset(root, images=False, progress=False)


def test_check_json_syntax_error_has_line_and_column(root):
    lines = (root / LABEL["train"]).read_text().splitlines()
    lines[10] = lines[10].replace(":", "")
    report = check_with(root, "\n".join(lines).encode())
    (example,) = report["json-syntax"].examples
    assert example.line == 11 and "line 11, column" in str(example)
    assert lines[10].strip()[:10] in str(example)
    assert not report.ok and "val" in report.splits and "train" not in report.splits


def test_check_json_download_cut_short(root):
    data = (root / LABEL["train"]).read_bytes()
    assert "json-syntax" in check_with(root, data[: len(data) // 2])


def test_check_json_cut_at_the_end_of_a_line(root):
    lines = (root / LABEL["train"]).read_text().splitlines(keepends=True)
    (example,) = check_with(root, "".join(lines[:5]).encode())["json-syntax"].examples
    assert example.line == 6 and "the end of the file" in str(example)
    assert "json-syntax" in check_with(root, b'{"images": [\n')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \n",
        b"\0" * 100,
        b"PK\x03\x04\x14\x00",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"\x1f\x8b\x08",
        b"<!DOCTYPE html><html>",
        b"\xef\xbb\xbf<html>",
        b"<annotation/>",
        b"version https://git-lfs.github.com/spec/v1",
    ],
)
def test_check_json_not_json_at_all(root, data):
    assert "json-not-json" in check_with(root, data)


@pytest.mark.parametrize(
    "data", [b"filename,xmin", b"{'images': []}", b"{} {}", b"nul", b'{"a": ' + b"9" * 9999 + b"}"]
)
def test_check_json_almost_json(root, data):
    assert "json-syntax" in check_with(root, data)


@pytest.mark.parametrize(
    "data", [b"[]", b"3", b"null", b'"images"', b"true", b"{}", b'[{"image_id": 1, "score": 0.5}]']
)
def test_check_json_other_structure(root, data):
    finding = check_with(root, data)["json-structure"]
    assert ("detections" in str(finding)) == (b"score" in data)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "utf-8-sig"])
def test_check_json_wrong_encoding_is_named_and_repaired(root, encoding, tmp_path):
    document = read(root)
    document["categories"][0]["name"] = "größe"
    for other in [read(root, "val")]:
        other["categories"][0]["name"] = "größe"
        (root / LABEL["val"]).write_text(json.dumps(other))
    report = check_with(root, json.dumps(document, ensure_ascii=False).encode(encoding))
    assert ("json-bom" if encoding == "utf-8-sig" else "json-encoding") in report
    assert "train" in report.splits  # the rest is checked all the same
    fixed = fix_dataset(root, tmp_path / "fixed", progress=False)
    assert fixed.report.ok and "json-encoding" not in fixed.report and "json-bom" not in fixed.report
    assert read(tmp_path / "fixed")["categories"][0]["name"] == "größe"


def test_check_json_bad_byte_has_its_line(root):
    report = check_with(root, b'{"images": [],\n"annotations": [], "x": "\xff"}')
    assert report["json-encoding"].examples[0].line == 2 and "0xff" in str(report["json-encoding"])


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"images":' * 100_000, b'{"images": ' + b"[" * 999_999])
def test_check_json_deep_nesting(root, data, tmp_path):
    assert "json-nesting" in check_with(root, data)
    with pytest.raises(UserError, match="put right by hand"):
        fix_dataset(root, tmp_path / "fixed", progress=False)


def test_check_json_deep_nesting_inside_a_field(root, tmp_path):
    document = read(root)
    nested = '{"a":' * 400 + "1" + "}" * 400
    for place in ("bbox", "image_id", "area", "id"):
        document["annotations"][0][place] = "HERE"
        report = check_with(root, json.dumps(document).replace('"HERE"', nested).encode())
        assert report.findings and str(report)


def test_check_json_huge_file(root, monkeypatch):
    monkeypatch.setattr(json_file, "MAX_BYTES", 100)
    assert check_with(root, b" " * 101)["json-huge"].count == 2  # train and val


def test_check_json_a_folder_in_place_of_the_file_and_a_file_in_place_of_the_folder(root):
    (root / LABEL["train"]).unlink()
    (root / LABEL["train"]).mkdir()
    assert "layout" in check_dataset(root, progress=False)
    file = root / "train2017" / "a.txt"
    file.write_text("")
    assert "layout" in check_dataset(file, progress=False)


def test_check_json_unusual_ids_are_warned_of_and_repaired(root, tmp_path):
    document = read(root)
    ids = {image["id"]: value for image, value in zip(document["images"], (2**70, 10**6000, "7.0", 3.0, "x"))}
    for image in document["images"]:
        image["id"] = ids.get(image["id"], image["id"])
    for annotation in document["annotations"]:
        annotation["image_id"] = ids.get(annotation["image_id"], annotation["image_id"])
    sys.set_int_max_str_digits(10_000)
    text = json.dumps(document)
    sys.set_int_max_str_digits(4300)
    assert "json-syntax" in check_with(root, text.encode())
    report = check_with(root, text.replace(str(10**999) + "0" * 5001, "1" + "0" * 300).encode())
    assert report.ok and report["id-type"].count >= 5, report
    fixed = fix_dataset(root, tmp_path / "fixed", progress=False)
    assert fixed.report.ok and "id-type" not in fixed.report
    assert len(read(tmp_path / "fixed")["annotations"]) == len(document["annotations"])


# Fuzzing: whatever is put wherever, the check reports and never raises, and a repair that succeeds leaves no error
# that it could have repaired.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**300, max_value=10**301),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["\ud800", "\0", "a" * 5000, "..", "/", "1", "-1", "1.5", "\x1b[2J", "x" * 300 + ".jpg"]),
    st.lists(st.one_of(st.integers(-500, 500), st.floats(), st.none()), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@st.composite
def spoilt(draw, document):
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 8))):
        where = document
        section = draw(st.sampled_from(["images", "annotations", "categories"]))
        if draw(st.integers(0, 30)) == 0:
            document[section] = draw(JUNK)
        if not isinstance(document[section], list) or not document[section]:
            continue
        row = draw(st.integers(0, len(document[section]) - 1))
        where = document[section][row]
        if not isinstance(where, dict) or not where or draw(st.integers(0, 9)) == 0:
            document[section][row] = draw(JUNK)
            continue
        key = draw(st.sampled_from(sorted(where)))
        other = document[section][draw(st.integers(0, len(document[section]) - 1))]
        same = other.get(key) if isinstance(other, dict) else None
        where[key] = draw(st.one_of(JUNK, st.just(same)))
        if draw(st.integers(0, 9)) == 0:
            del where[key]
    return document


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    root = make_valid(tmp_path_factory.mktemp("fuzz") / "set")
    return root, read(root)


REPAIRED = {
    *(
        "box-malformed",
        "box-not-finite",
        "box-empty",
        "box-outside",
        "box-duplicate",
        "missing-area",
        "missing-iscrowd",
    ),
    *("image-duplicate-ids", "image-duplicate-files", "image-malformed", "image-size", "image-size-missing"),
    *("image-missing", "image-path-unsafe", "annotation-malformed", "annotation-duplicate-ids", "id-type"),
    *("unknown-image", "unknown-category", "id-mismatch", "categories-disagree", "categories-missing"),
    *(
        "missing-iscrowd",
        "category-malformed",
        "category-duplicate-ids",
        "category-duplicate-names",
        "category-spelling",
    ),
}


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_check_json_nothing_in_the_json_makes_the_check_fail(data, fuzzed, tmp_path_factory):
    root, document = fuzzed
    report = check_with(root, json.dumps(data.draw(spoilt(document))).encode())
    assert str(report) and report._repr_html_() and json.loads(report.to_json())
    str(report).encode("utf-8")
    try:
        fixed = fix_dataset(root, tmp_path_factory.mktemp("out") / "fixed", images="header", progress=False)
    except UserError:
        return
    assert not REPAIRED & {f.name for f in fixed.report.findings}, (str(report), str(fixed))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200), at=st.integers(0, 5000), cut=st.integers(0, 300))
def test_check_json_no_bytes_make_the_check_fail(data, at, cut, fuzzed):
    root, document = fuzzed
    good = json.dumps(document, indent=1).encode()
    assert str(check_with(root, good[:at] + data + good[at + cut :]))
