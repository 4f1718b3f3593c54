"""Near-duplicates and frames of a video stay on one side of the split."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dino_nb.prepare.sample import make_sample
from dino_nb.prepare.similar import groups_of_similar
from tests.prepare.annotation_writers import coco_dict, convert, put


def scene(seed, size=(160, 120)):
    """A random image with structure, unlike any other."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def groups(folder, names):
    return groups_of_similar([folder / name for name in names], names, progress=False)


def test_copies_saved_again_are_alike_and_others_are_not(tmp_path):
    image = scene(0)
    changed = {
        "a.png": image,
        "b.jpg": image,
        "c.jpg": image.resize((320, 240)),
        "d.png": image.point(lambda v: min(255, int(v * 1.15 + 8))),
        "e.png": image.filter(ImageFilter.GaussianBlur(1)),
        "f.png": image.convert("L"),
    }
    for name, copy in changed.items():
        copy.save(tmp_path / name)
    others = [f"{i}.png" for i in range(60)]
    for i, name in enumerate(others, 1):
        scene(i).save(tmp_path / name)
    found = groups(tmp_path, [*changed, *others])
    assert len(set(found[:6])) == 1 and len(set(found[6:])) == 60 and found[0] not in found[6:]


def test_flat_and_unreadable_images_are_like_none(tmp_path):
    for i in range(4):
        Image.new("RGB", (64, 48), (9 * i, 5, 5)).save(tmp_path / f"{i}.png")
    (tmp_path / "4.png").write_bytes(b"cut")
    assert len(set(groups(tmp_path, [f"{i}.png" for i in range(5)]))) == 5


def test_images_of_a_fixed_camera_count_as_different(tmp_path):
    image = scene(0)
    for i in range(60):
        copy = image.copy()
        copy.paste((i * 4, 9, 9), (i, i, i + 12, i + 12))
        copy.save(tmp_path / f"{i}.png")
    assert len(set(groups(tmp_path, [f"{i}.png" for i in range(60)]))) == 60


def video(number, frame):
    """A camera that moves a little from frame to frame."""
    wide = scene(1000 + number, (640, 240))
    return wide.crop((frame * 9, 0, frame * 9 + 160, 120))


@pytest.mark.parametrize("seed", range(3))
def test_frames_of_a_video_are_on_one_side(tmp_path, seed):
    dataset = {}
    (tmp_path / "s").mkdir()
    for number in range(10):
        for frame in range(6):
            name = f"clip{number}_{frame:04d}.jpg"
            video(number, frame).save(tmp_path / "s" / name, quality=95)
            dataset[name] = ((160, 120), [("cat", 1, 1, 50, 60)])
    put(tmp_path / "s/labels.json", coco_dict(dataset, ["cat"]))
    report = convert(tmp_path / "s", tmp_path / "o", seed=seed)
    assert "images that look nearly the same" in str(report) and report.splits["val"]["images"] == 12
    sides = []
    for split in ("train", "val"):
        coco = json.loads((tmp_path / f"o/annotations/instances_{split}2017.json").read_text())
        sides.append({image["file_name"].split("_")[0] for image in coco["images"]})
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("kind", ["shapes", "aerial", "cells"])
def test_samples_have_no_near_duplicates(tmp_path, kind):
    folder = make_sample(tmp_path / "s", 20, 0, kind=kind)
    names = sorted(p.name for p in (folder / "train2017").iterdir())
    assert len(set(groups(folder / "train2017", names))) == 20
