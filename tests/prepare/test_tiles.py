"""Sliced training data: the windows of prediction, boxes cut by the rule, and no image on two sides."""

import json

import numpy as np
import pytest
from PIL import Image

from dino_nb.cli import main
from dino_nb.data.windows import slices
from dino_nb.errors import UserError
from tests.prepare.annotation_writers import coco_dict, coco_of, convert, put

SIZE = (200, 120)


def large_source(root, count=6, ending="png", size=SIZE):
    """Large images with a bright square under each box."""
    rng = np.random.default_rng(0)
    dataset = {}
    root.mkdir()
    for i in range(count):
        pixels = rng.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
        boxes = [(int(x), int(y)) for x, y in zip(rng.integers(0, size[0] - 14, 3), rng.integers(0, size[1] - 14, 3))]
        for x, y in boxes:
            pixels[y : y + 14, x : x + 14] = 250
        Image.fromarray(pixels).save(root / f"{i}.{ending}")
        dataset[f"{i}.{ending}"] = (size, [("cat", x, y, x + 14, y + 14) for x, y in boxes])
    put(root / "labels.json", coco_dict(dataset, ["cat"]))
    return dataset


def test_tiles_are_the_windows_of_prediction_and_boxes_move_with_them(tmp_path):
    dataset = large_source(tmp_path / "s")
    report = convert(tmp_path / "s", tmp_path / "o", slice_size=80, overlap=0.25)
    assert report.splits["val"]["images"] == 1 and "beside the whole" in str(report)
    coco = coco_of(tmp_path / "o", "train")
    own = json.loads((tmp_path / "o/mapping.json").read_text())["splits"]["train"]["images"]
    for image, source in zip(coco["images"], own):
        with Image.open(tmp_path / "o/train2017" / image["file_name"]) as opened:
            pixels = np.asarray(opened.convert("L"))
        assert pixels.shape == (image["height"], image["width"])
        found = [a["bbox"] for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert all(pixels[y : y + h, x : x + w].min() == 250 for x, y, w, h in found)
        x0, y0, x1, y1 = source.get("window", (0, 0, *SIZE))
        assert (x0, y0, x1, y1) in slices(*SIZE, 80, 0.25)
        expected = []
        for _, bx1, by1, bx2, by2 in dataset[source["original_file"]][1]:
            w, h = min(bx2, x1) - max(bx1, x0), min(by2, y1) - max(by1, y0)
            if w > 0 and h > 0 and w * h >= 0.5 * 14 * 14:
                expected.append([max(bx1, x0) - x0, max(by1, y0) - y0, w, h])
        assert sorted(found) == sorted(expected)
    wholes = [source for source in own if "window" not in source]
    assert len(wholes) == 5  # the whole is looked at, too


def test_tiles_of_an_image_are_in_one_split_and_val_stays_whole(tmp_path):
    large_source(tmp_path / "s", 10)
    convert(tmp_path / "s", tmp_path / "o", slice_size=64, overlap=0)
    mapping = json.loads((tmp_path / "o/mapping.json").read_text())["splits"]
    train, val = ({image["original_file"] for image in mapping[split]["images"]} for split in ("train", "val"))
    assert not train & val and len(train) == 8
    assert all("window" not in image for image in mapping["val"]["images"])


def test_tiles_without_boxes_are_no_more_than_those_with(tmp_path):
    large_source(tmp_path / "s", 4, size=(640, 480))
    report = convert(tmp_path / "s", tmp_path / "o", slice_size=64, overlap=0)
    coco = coco_of(tmp_path / "o", "train")
    with_boxes = {a["image_id"] for a in coco["annotations"]}
    tiles = {image["id"] for image in coco["images"] if image["width"] < 640}
    assert 0 < len(tiles - with_boxes) <= len(tiles & with_boxes)
    assert report.splits["train"]["empty"] == len(tiles - with_boxes)


def test_tiles_of_the_same_seed_are_the_same_bytes_and_jpeg_stays_jpeg(tmp_path):
    large_source(tmp_path / "s", 4, "jpg")
    for name in "ab":
        convert(tmp_path / "s", tmp_path / name, slice_size=64)
    files = [sorted((p.name, p.read_bytes()) for p in (tmp_path / n / "train2017").iterdir()) for n in "ab"]
    assert files[0] == files[1] and all(name.endswith(".jpg") for name, _ in files[0])


def test_images_smaller_than_the_tile_are_not_cut_and_that_is_said(tmp_path, capsys):
    large_source(tmp_path / "s", 4)
    assert main(["convert", str(tmp_path / "s"), str(tmp_path / "o"), "--slice", "200", "--overlap", "0.1"]) == 0
    assert "no training image is larger than 200 x 200" in capsys.readouterr().out
    assert len(list((tmp_path / "o/train2017").iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [({"slice_size": 8}, "from 32"), ({"slice_size": -1}, "from 32"), ({"slice_size": 64, "overlap": 1}, "overlap is")],
)
def test_slicing_that_cannot_be_is_refused(tmp_path, options, said):
    large_source(tmp_path / "s", 2)
    with pytest.raises(UserError, match=said):
        convert(tmp_path / "s", tmp_path / "o", **options)
