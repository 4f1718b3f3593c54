"""LabelMe, CVAT and CSV in their variants; every fault is named by file and line."""

import json
from pathlib import Path

import pytest

from tests.prepare.annotation_writers import (
    PLAIN,
    convert,
    faults,
    put,
    put_image,
    put_images,
    read_back,
)


def test_labelme_shapes(tmp_path):
    put_images(tmp_path / "s", PLAIN)
    shapes = [
        {"label": "wheel", "points": [[20, 20], [23, 24]], "shape_type": "circle"},
        {"label": "kite", "points": [[30, 10], [40, 5], [50, 30]], "shape_type": "polygon"},
        {"label": "dot", "points": [[3, 3]], "shape_type": "point"},
    ]
    for name in PLAIN:
        put(tmp_path / "s" / f"{name[:-4]}.json", {"shapes": shapes, "imagePath": name})
    report = convert(tmp_path / "s", tmp_path / "o")
    assert read_back(tmp_path / "o")["p0.png"] == [("kite", 30, 5, 50, 30), ("wheel", 15, 15, 25, 25)]
    assert report.num_dropped == 4
    put(
        tmp_path / "s/p0.json",
        {"shapes": [{"label": "x", "points": [[1, "a"]]}, {"points": []}], "imagePath": "p0.png"},
    )
    text = faults(tmp_path / "s", tmp_path)
    assert (
        "p0.json, shapes[0]: the 'x' has missing or wrong points" in text
        and "p0.json, shapes[1]: the shape has no" in text
    )


def test_cvat_shapes_subsets_and_tracks(tmp_path):
    src = tmp_path / "s"
    put_images(src / "images", ["a.png", "b.png"])
    shapes = (
        '<polygon label="kite" points="30.0,10.0;40.0,5.0;50.0,30.0"/>'
        '<ellipse label="ring" cx="20" cy="20" rx="5" ry="3"/>'
        '<box label="ring" xtl="20" ytl="20" xbr="30" ybr="24" rotation="90"/>'
        '<mask label="kite" rle="1" left="2" top="3" width="10" height="11"/><tag label="kite"/>'
    )
    images = "".join(
        f'<image id="{i}" name="sub/{n}.png" subset="{s}" width="64" height="48">{shapes}</image>\n'
        for i, (n, s) in enumerate((("a", "Train"), ("b", "Validation")))
    )
    put(src / "annotations.xml", f"<!-- CVAT --><annotations>{images}</annotations>")
    report = convert(src, tmp_path / "o")
    assert report.splits["val"]["images"] == 1 and not report.own_split
    found = read_back(tmp_path / "o")["a.png"]
    assert [b[0] for b in found] == ["kite", "kite", "ring", "ring"]
    assert [b[1:] for b in found] == [
        pytest.approx(c) for c in [(2, 3, 12, 14), (30, 5, 50, 30), (15, 17, 25, 23), (23, 17, 27, 27)]
    ]
    put(src / "annotations.xml", "<annotations><track id='0' label='x'></track></annotations>")
    assert "CVAT for images 1.1" in faults(src, tmp_path)


CSVS = {
    "odd order": "filename,cell_type,xmin,xmax,ymin,ymax\n{n}.png,cat,4,20,5,30\n",
    "tensorflow": "filename,width,height,class,xmin,ymin,xmax,ymax\n{n}.png,64,48,cat,4,5,20,30\n",
    "no header": "images/{n}.png,4,5,20,30,cat\n",
    "semicolons": "Image Path;Label;X Min;Y Min;X Max;Y Max\n{n}.png;cat;4;5;20;30\n",
    "decimal commas": "file;class;xmin;ymin;xmax;ymax\n{n}.png;cat;4,0;5,0;20,0;30,0\n",
    "sizes": "image_id,bbox_x,bbox_y,bbox_width,bbox_height,category\n{n},4,5,16,25,cat\n",
    "centres": "file\tx_center\ty_center\twidth\theight\tlabel\n{n}.png\t12\t17.5\t16\t25\tcat\n",
    "one cell": 'image_id,width,height,bbox,label\n{n},64,48,"[4.0, 5.0, 16.0, 25.0]",cat\n',
    "open images": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"
    "{n},x,cat,1,0.0625,0.3125,0.10416667,0.625\n",
    "from zero": "img,x0,y0,x1,y1,name\n{n}.png,4,5,20,30,cat\n",
    "other name": "image,beast,left,top,right,bottom\n{n}.png,cat,4,5,20,30\n",
    "other order": "ymax,xmax,ymin,xmin,class,filename\n30,20,5,4,cat,{n}.png\n",
}


@pytest.mark.parametrize("kind", CSVS)
def test_csv_columns_in_any_spelling_and_order(tmp_path, kind):
    put_images(tmp_path / "s/images", ["p0.png", "p1.png"])
    head, _, row = CSVS[kind].rpartition("\n")[0].rpartition("\n")
    rows = "\n".join([*([head] if head else []), row.format(n="p0"), row.format(n="p1")])
    (tmp_path / "s/t.csv").write_text("\ufeff" + rows + "\r\n", encoding="utf-8")
    report = convert(tmp_path / "s", tmp_path / "o")
    assert report.format == "csv"
    (box,) = read_back(tmp_path / "o")["p1.png"]
    assert box[0] == "cat" and box[1:] == pytest.approx((4, 5, 20, 30), abs=0.01)


def test_csv_splits_by_column(tmp_path):
    put_images(tmp_path / "s", ["p0.png", "p1.png", "p2.png"])
    rows = [f"p{i}.png,{s},cat,1,2,30,40" for i, s in enumerate(("TRAIN", "validation", "test"))]
    put(tmp_path / "s/t.csv", "\n".join(["filename,split,class,x1,y1,x2,y2", *rows]))
    report = convert(tmp_path / "s", tmp_path / "o")
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("p1.png,1,2,3", "t.csv:3: the row has 4 columns"),
        ("p1.png,1,2,3,x,cat", "t.csv:3: the box needs four finite numbers"),
        ("p1.png,1,2,3,inf,cat", "t.csv:3: the box needs four finite numbers"),
        ("p1.png,1,2,3,,cat", "t.csv:3: the box needs four finite numbers"),
        ("p1.png,1,2,3,4,", "t.csv:3: the row names no class"),
        ("q.png,1,2,3,4,cat", "t.csv:3: there is no image 'q.png'"),
        (",1,2,3,4,cat", "t.csv:3: the row names no image"),
    ],
)
def test_csv_faults_name_the_row(tmp_path, row, said):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    rows = ["filename,xmin,ymin,xmax,ymax,class", "p0.png,1,2,30,40,cat", row]
    put(tmp_path / "s/t.csv", "\n".join(rows))
    assert said in faults(tmp_path / "s", tmp_path)


def test_csv_with_an_endless_quote_is_told(tmp_path):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    rows = ["filename,xmin,ymin,xmax,ymax,class", "p0.png,1,2,30,40,cat", 'p1.png,1,2,30,40,"' + "x" * 200_000]
    put(tmp_path / "s/t.csv", "\n".join(rows))
    assert "t.csv:3: cannot be read as CSV from here on" in faults(tmp_path / "s", tmp_path)


def test_csv_without_class_or_with_unknown_columns(tmp_path):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    put(tmp_path / "s/t.csv", "filename,xmin,ymin,xmax,ymax\np0.png,1,2,30,40\np1.png,1,2,30,40\n")
    assert "--classes NAME" in faults(tmp_path / "s", tmp_path)
    assert list(convert(tmp_path / "s", tmp_path / "o", class_names="wheat").classes) == ["wheat"]
    put(tmp_path / "s/t.csv", "who,what\np0.png,dog\n")
    assert "its columns are not understood" in faults(tmp_path / "s" / "t.csv", tmp_path, format="csv")


def test_same_name_in_two_folders_needs_a_path(tmp_path):
    put_image(tmp_path / "s/a/x.png", colour=(1, 1, 1))
    put_image(tmp_path / "s/b/x.png", colour=(2, 2, 2))
    put(tmp_path / "s/t.csv", "filename,xmin,ymin,xmax,ymax,class\nx.png,1,2,30,40,cat\n")
    assert "may be a/x.png or b/x.png" in faults(tmp_path / "s", tmp_path)
    put(tmp_path / "s/t.csv", "filename,xmin,ymin,xmax,ymax,class\na/x.png,1,2,30,40,cat\nb/x.png,1,2,33,40,cat\n")
    convert(tmp_path / "s", tmp_path / "o", val_fraction=0)
    names = sorted(p.name for p in (tmp_path / "o/train2017").iterdir())
    assert names == ["b_x.png", "x.png"]
    mapping = json.loads((tmp_path / "o/mapping.json").read_text())
    images = mapping["splits"]["train"]["images"]
    assert [(i["file_name"], i["original_file"]) for i in images] == [("x.png", "a/x.png"), ("b_x.png", "b/x.png")]


def test_source_without_annotations_lists_what_is_there(tmp_path):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    (tmp_path / "s" / "notes.md").write_text("hello")
    text = faults(tmp_path / "s", tmp_path)
    assert "2 .png" in text and "coco, cvat, voc" in text
    assert Path(tmp_path / "s").is_dir()
