"""What the data set hands to training and evaluation, and what it refuses."""

import json
import pickle

import pytest
import torch
from PIL import Image

from dino_nb.data.coco_file import read_coco, split_files
from dino_nb.data.dataset import CocoDataset, collate
from dino_nb.data.transforms import eval_transform, train_transform
from dino_nb.errors import UserError
from dino_nb.prepare.sample import make_sample

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 0, "name": "dog"}]


def make(folder, annotations, images=None, categories=CATEGORIES, split="val", size=(40, 30)):
    """A COCODIR with images of ``size`` (width, height)."""
    images = images or [{"id": 5, "file_name": "a.png", "width": size[0], "height": size[1]}]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / f"{split}2017").mkdir(exist_ok=True)
    for image in images:
        Image.new("RGB", size).save(folder / f"{split}2017" / image["file_name"])
    data = {"images": images, "categories": categories}
    if annotations is not None:
        data["annotations"] = [{"id": i, "image_id": 5, "category_id": 7, **a} for i, a in enumerate(annotations)]
    (folder / f"annotations/instances_{split}2017.json").write_text(json.dumps(data))
    return folder


def test_dataset_targets(tmp_path):
    boxes = [
        {"bbox": [10, 5, 20, 10]},
        {"bbox": [-4, -2, 10, 8], "category_id": 0},  # clamped
        {"bbox": [35, 0, 90, 90]},  # clamped
        {"bbox": [3, 3, 0, 5]},  # no area
        {"bbox": [50, 3, 5, 5]},  # outside
        {"bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    dataset = CocoDataset(make(tmp_path, boxes), "val2017")
    assert (dataset.category_ids, dataset.class_names) == ([0, 7], ["dog", "cat"])
    image, target = dataset[0]
    assert image.size == (40, 30)
    assert target["image_id"] == 5 and target["orig_size"].tolist() == [30, 40]
    assert target["labels"].tolist() == [1, 0, 1] and target["labels"].dtype == torch.int64
    assert target["boxes"].tolist() == [[10, 5, 30, 15], [0, 0, 6, 6], [35, 0, 40, 30]]
    assert target["iscrowd"].tolist() == [0, 0, 0]
    dataset.transform = eval_transform(60, 1000)
    image, target = dataset[0]
    assert image.shape == (3, 60, 80)
    torch.testing.assert_close(target["boxes"][0], torch.tensor([0.5, 1 / 3, 0.5, 1 / 3]))
    assert CocoDataset(tmp_path, "val", keep_crowd=True)[0][1]["iscrowd"].tolist() == [0, 0, 0, 1]


def test_dataset_label_map_leaves_other_categories_out(tmp_path):
    make(tmp_path, [{"bbox": [0, 0, 5, 5]}, {"bbox": [0, 0, 6, 6], "category_id": 0}])
    assert CocoDataset(tmp_path, "val", label_of={7: 41})[0][1]["labels"].tolist() == [41]


def test_dataset_missing_area_and_crowd_are_filled(tmp_path):
    file = split_files(make(tmp_path, [{"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4], "area": 5.5}]), "val")[1]
    assert [(a["area"], a["iscrowd"]) for a in read_coco(file)["annotations"]] == [(12.0, 0), (5.5, 0)]


@pytest.mark.parametrize("annotations", [[], None])
def test_dataset_images_without_annotations(tmp_path, annotations):
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (3, 1)]
    dataset = CocoDataset(make(tmp_path, annotations, images), "val", train_transform(32, 64))
    assert list(dataset.ids) == [1, 3] and dataset.objects_of(0) == 0
    images, targets = collate([dataset[0], dataset[1]])
    assert [t["boxes"].shape for t in targets] == [(0, 4)] * 2
    assert [t["labels"].dtype for t in targets] == [torch.int64] * 2
    assert len(images) == 2


def test_dataset_image_info_of_a_test_split(tmp_path):
    make(tmp_path, None, split="test")
    (tmp_path / "annotations/instances_test2017.json").rename(tmp_path / "annotations/image_info_test2017.json")
    assert len(CocoDataset(tmp_path, "test")) == 1


@pytest.mark.parametrize("ids", [[0, 1], [2**70, -3], ["a", "b"], [10**12, 4]])
def test_dataset_any_ids(tmp_path, ids):
    images = [{"id": i, "file_name": f"{n}.png"} for n, i in enumerate(ids)]
    boxes = [{"bbox": [0, 0, 2 + n, 4], "image_id": i} for n, i in enumerate(ids)]
    dataset = CocoDataset(make(tmp_path, boxes, images), "val")
    for index in range(2):
        image_id = dataset[index][1]["image_id"]
        assert image_id in ids and type(image_id) is type(ids[0])
        assert dataset[index][1]["boxes"][0, 2] == 2 + ids.index(image_id)
    assert dataset.size(0) == (30, 40)  # from the image, since the file does not say


def test_dataset_upright_size_counts_not_the_one_in_the_file(tmp_path):
    """A image that its EXIF turns: boxes are clamped to the image as it is seen."""
    make(tmp_path, [{"bbox": [0, 0, 60, 60]}])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "val2017/a.png", exif=exif)
    image, target = CocoDataset(tmp_path, "val")[0]
    assert image.size == (30, 40) and target["orig_size"].tolist() == [40, 30]
    assert target["boxes"].tolist() == [[0, 0, 30, 40]]


def test_dataset_every_image_of_the_sample_and_its_index(tmp_path):
    dataset = CocoDataset(make_sample(tmp_path / "s", n_train=6, n_val=2), "train", eval_transform(64, 100))
    assert len(dataset) == 6 == len({dataset.image_id(i) for i in range(6)})
    truth = dataset.coco()
    for i in range(6):
        _, target = dataset[i]
        image = truth.imgs[dataset.image_id(i)]
        assert target["orig_size"].tolist() == [image["height"], image["width"]]
        expected = truth.loadAnns(truth.getAnnIds(imgIds=[image["id"]]))
        assert [dataset.category_ids[c] for c in target["labels"]] == [a["category_id"] for a in expected]
        w, h = image["width"], image["height"]
        restored = target["boxes"] * torch.tensor([w, h, w, h])
        for box, annotation in zip(restored, expected):
            x, y, bw, bh = annotation["bbox"]
            torch.testing.assert_close(box, torch.tensor([x + bw / 2, y + bh / 2, bw, bh]), atol=1e-3, rtol=0)


def test_dataset_worker_processes(tmp_path):
    dataset = CocoDataset(make_sample(tmp_path / "s", n_train=4, n_val=1), "train", eval_transform(32, 64))
    loader = torch.utils.data.DataLoader(dataset, 2, num_workers=1, collate_fn=collate)
    ids = [t["image_id"] for _, targets in loader for t in targets]
    assert ids == [dataset.image_id(i) for i in range(4)]
    assert pickle.loads(pickle.dumps(dataset)).image_id(3) == ids[3]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["annotations"][0].update(category_id=99), "category_id 99"),
        (lambda d: d["annotations"][0].update(image_id="5"), "image_id '5'"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "four finite numbers"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "four finite numbers"),
        (lambda d: d["annotations"][0].update(bbox=None), "four finite numbers"),
        (lambda d: d["annotations"][0].update(category_id=[1]), "category_id"),
        (lambda d: d["images"].append(d["images"][0]), "image id 5 is there twice"),
        (lambda d: d["categories"].append({"id": 7, "name": "x"}), "category id 7 is there twice"),
        (lambda d: d["images"][0].pop("file_name"), "needs id and file_name"),
        (lambda d: d.pop("categories"), "not a COCO file"),
        (lambda d: d["images"][0].update(file_name="../../secret.png"), "leaves the image folder"),
        (lambda d: d["images"][0].update(file_name="/etc/secret.png"), "leaves the image folder"),
        (lambda d: d.update(annotations={"a": 1}), "'annotations' is not a list"),
    ],
)
def test_dataset_refused_with_the_place(tmp_path, change, message):
    make(tmp_path, [{"bbox": [1, 2, 3, 4]}])
    file = tmp_path / "annotations/instances_val2017.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"instances_val2017\.json") as error:
        CocoDataset(tmp_path, "val")
    assert message in str(error.value)


def test_dataset_broken_json_names_line_and_column(tmp_path):
    make(tmp_path, [])
    (tmp_path / "annotations/instances_val2017.json").write_text('{"images": [],\n "categories": [}')
    with pytest.raises(UserError, match="line 2, column 17"):
        CocoDataset(tmp_path, "val")


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"images": [],\n', "line 2, column 1"),
        ('{"images": [],\n"categories": [], "a": ' + "9" * 5000 + "}", "thousands of digits"),
        ("[" * 100_000, "nested too deeply"),
        ("", "it is empty"),
        ("<html>", "a web page"),
        ("[]", "not a COCO file"),
    ],
)
def test_dataset_files_that_are_no_coco_json_are_named(tmp_path, text, message):
    make(tmp_path, [])
    (tmp_path / "annotations/instances_val2017.json").write_text(text)
    with pytest.raises(UserError, match=f"instances_val2017.json: .*{message}"):
        CocoDataset(tmp_path, "val")


def test_dataset_crowd_written_as_text(tmp_path):
    crowds = ("0", "1", "", True, None)
    boxes = [{"bbox": [0, 0, 9, 9], "iscrowd": crowd} for crowd in crowds]
    dataset = CocoDataset(make(tmp_path, boxes), "val", keep_crowd=True)
    assert dataset.target(0)["iscrowd"].tolist() == [0, 1, 0, 1, 0]


def test_dataset_unreadable_image_in_a_worker_is_a_sentence(tmp_path):
    dataset = CocoDataset(make(tmp_path, []), "val", eval_transform(32, 64))
    (tmp_path / "val2017/a.png").unlink()
    with pytest.raises(UserError) as error:
        list(torch.utils.data.DataLoader(dataset, num_workers=1, collate_fn=collate))
    assert str(error.value) == f"there is no image file {tmp_path / 'val2017/a.png'}."


def test_dataset_missing_split_and_folder(tmp_path):
    make(tmp_path, [])
    with pytest.raises(UserError, match=r"instances_train2017.json.*instances_val2017.json"):
        CocoDataset(tmp_path, "train")
    with pytest.raises(UserError, match="Did you mean 'val'"):
        CocoDataset(tmp_path, "vale")
    with pytest.raises(UserError, match="no folder"):
        CocoDataset(tmp_path / "nowhere", "train")


def test_dataset_missing_and_unreadable_images_are_named(tmp_path):
    dataset = CocoDataset(make(tmp_path, []), "val")
    (tmp_path / "val2017/a.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(UserError, match=r"a\.png"):
        dataset[0]
    (tmp_path / "val2017/a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png"):
        dataset[0]
