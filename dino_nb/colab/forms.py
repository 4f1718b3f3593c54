"""The meaning of a notebook's form fields: a data set, a checkpoint, a recipe, the folder of a run."""

import hashlib
import json
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dino_nb import files
from dino_nb.checkpoints import drive, zoo
from dino_nb.checkpoints.load import load_model
from dino_nb.checkpoints.web import is_link
from dino_nb.colab import hosts
from dino_nb.colab.transfer import require, stage
from dino_nb.config import ModelConfig, TrainConfig
from dino_nb.data.coco_file import read_coco
from dino_nb.errors import UserError, disk_errors
from dino_nb.inference.sources import leaves
from dino_nb.inference.video import is_video, video_writer
from dino_nb.prepare.archive import extract, is_archive
from dino_nb.prepare.convert import convert_dataset
from dino_nb.prepare.folders import is_cocodir, new_folder
from dino_nb.prepare.sample import CLASSES, make_sample
from dino_nb.prepare.scenes import SCENES
from dino_nb.presets import recipe_for, train_preset
from dino_nb.training.checkpoint_manager import data_fingerprint

PUBLISHED = "dino-4scale-r50-24ep"  # what fine-tuning on the user's data starts from, if it can be downloaded
_NOTE = "notebook.json"  # in a run's folder: what it trains, so that another run is not mixed with it
_UNPACKED = Path("data")


def clean(field: str | PathLike[str] | None) -> str:
    """A form field as text, without the blanks and quotes that copying leaves around it."""
    return str(field or "").strip().strip("\"'").strip()


def upload() -> str:
    """Let the user choose a file from their computer (Colab only); returns its path."""
    if not files.in_colab():
        raise UserError("upload works in Colab alone: here give the path of the file.")
    from google.colab import files as colab_files

    chosen = list(colab_files.upload())
    if not chosen:
        raise UserError("no file was chosen: run this cell again and choose one, or give a path.")
    return chosen[0]


def _typed(field: str | PathLike[str] | None) -> str:
    """A cleaned form field; ``upload`` becomes the path of the file that the user chooses now."""
    typed = clean(field)
    return upload() if typed.lower() == "upload" else typed


def source(field: str | PathLike[str] | None, **sample: Any) -> str | PathLike[str]:
    """The annotations that a field means, for ``dino_nb.convert_dataset``.

    A path (a copy on the local disk of what is on Google Drive), a link as it is, the address of a data set on
    Roboflow, Kaggle or the Hugging Face Hub (see ``hosts.SPELLING``), which is downloaded, ``upload``, ``cells`` or
    ``aerial``: drawn scenes, or nothing: drawn shapes. ``sample`` are options of these, see ``dino_nb.make_sample``.
    """
    typed = _typed(field)
    if not typed or (typed in SCENES and not Path(typed).exists()):
        return make_sample(Path("sample") / "annotations", kind=typed or "shapes", **sample)
    if hosts.is_hosted(typed):
        return hosts.fetch(typed, _UNPACKED / "downloads")
    return typed if is_link(typed) else stage(typed)


def dataset(cocodir: str | PathLike[str] | None, n_train: int = 64, n_val: int = 16, **sample: Any) -> Path:
    """The local folder of the data set that a ``COCODIR`` field means.

    Args:
        cocodir: a folder, a zip or tar of one, either on Google Drive too, a folder that holds one of these, a link
            to a zip, a data set's address on a host (see ``source``), which is converted with the usual options,
            ``upload``, or nothing: the sample, drawn once.
        n_train, n_val, sample: of the sample, see ``dino_nb.make_sample``.

    Raises:
        UserError: nothing there, or nothing in it that is a COCODIR.
    """
    typed = _typed(cocodir)
    if not typed:
        name = "-".join([str(n_train), str(n_val), *([_key(repr(sample))] if sample else [])])
        return make_sample(Path("sample") / name, n_train, n_val, **sample)  # one that is there is left as it is
    if hosts.is_hosted(typed):
        return _converted(typed)
    if is_link(typed):
        path = drive.fetch(typed, _UNPACKED / "downloads" / _key(typed))
    else:
        path = files.user_path(typed)
        require(path)
    path = _inside(path)
    return stage(path) if path.is_dir() else _unpacked(stage(path))


def images(field: str | PathLike[str] | None, cocodir: Path | None = None) -> list[str]:
    """The images that an ``IMAGES`` field means: a folder, file, pattern, link or ``upload``; nothing: a COCODIR's.

    ``UserError`` where there is none.
    """
    typed = _typed(field)
    if not typed and cocodir is not None:
        folders = [cocodir / f"{split}2017" for split in ("val", "test", "train")]
        typed = str(next(filter(Path.is_dir, folders), folders[0]))
    found = [str(leaf) for leaf in leaves(typed if "://" in typed else files.user_path(typed))]
    if all(is_video(leaf) for leaf in found):
        raise UserError(f"{typed} holds videos and no image: give one of them as VIDEO, and images as IMAGES.")
    return [leaf for leaf in found if not is_video(leaf)]


def video(field: str | PathLike[str] | None, scene: Image.Image) -> Path:
    """The video that a ``VIDEO`` field means; with nothing in it, a second of moving over ``scene``."""
    if typed := _typed(field):
        path = files.user_path(typed)
        require(path)
        return path
    path, scene = Path("sample") / "video.mp4", scene.resize((320, 240))
    path.parent.mkdir(exist_ok=True)
    with video_writer(path, rate=10) as write:
        for step in range(0, 40, 4):
            write(scene.crop((step, step // 2, step + 240, step // 2 + 180)))
    return path


def checkpoint(field: str | PathLike[str] | None, data: str | PathLike[str] | None = None, train: bool = False) -> Any:
    """The checkpoint that a ``CHECKPOINT`` field means, for ``dino_nb.load``; what was chosen is printed.

    Args:
        field: a file, a run's folder (its best checkpoint), a name or link; ``auto`` or nothing suits the data:
            ``dino-tiny`` where it knows a class of them, else the published R50.
        data: the COCODIR that it is for.
        train: whether it is a start for training. Without a GPU, or where the published network cannot be downloaded,
            this is None then: a small network from an ImageNet backbone, which the ``small`` recipe trains.
    """
    typed = clean(field)
    if typed.lower() not in ("", "auto"):
        path = files.user_path(typed)
        return str(zoo.fetch(path)) if path.exists() else typed
    if data is None or set(_class_names(data)) & set(CLASSES):
        print("CHECKPOINT: dino-tiny, the small network that knows the sample's shapes.")
        return "dino-tiny"
    why = "without a GPU" if train and not torch.cuda.is_available() else None
    if not why:
        try:
            path = zoo.fetch(PUBLISHED)
            print(f"CHECKPOINT: {PUBLISHED}, the published network.")
            return str(path)
        except UserError as error:
            if not train:
                raise
            why = f"since {error}"
    print(f"CHECKPOINT: none, {why}\nA small network is trained from an ImageNet backbone (recipe small).")
    return None


def recipe(preset: str, start: str | None) -> TrainConfig:
    """The training recipe that a ``PRESET`` field means: ``auto`` suits the checkpoint ``start`` and the GPU."""
    typed = clean(preset)
    if typed.lower() not in ("", "auto"):
        return train_preset(typed)
    if start is None:
        return train_preset("small")
    if start == "dino-tiny" or Path(start).is_file():
        model = load_model(start, device="cpu")
        suited = recipe_for(model.config)
        if suited != recipe_for(ModelConfig()):  # a small network
            return replace(suited, input_size=model.input_size)
    old = torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0)
    return train_preset("t4" if old else "finetune")


@disk_errors()
def run_folder(output_dir: str | PathLike[str], drive_dir: str | PathLike[str] = "", **what: Any) -> tuple[Path, Any]:
    """The folder of a run and its copy on Drive (or None): those named, if they are free or hold this very run.

    Another run there, on other data or with other settings (``what``), is left alone: this one gets ``run-2`` inside,
    and that is said. ``data`` among ``what`` is a COCODIR, which is known by its content.
    """
    what.pop("epochs", None)  # a run may be made longer
    note = json.dumps({k: data_fingerprint(v) if k == "data" else str(v) for k, v in what.items()}, indent=1)
    bases = [files.user_path(folder) for folder in (output_dir, drive_dir) if clean(folder)]
    folders, number = bases, 1
    while any((folder / _NOTE).is_file() and (folder / _NOTE).read_text("utf-8") != note for folder in folders):
        number += 1
        folders = [base / f"run-{number}" for base in bases]
    if number > 1:
        print(f"OUTPUT_DIR: {bases[0]} holds another run, which stays as it is. This one goes to {folders[0]}.")
    for folder in folders:
        require(folder, made=True)
        files.write_text(folder / _NOTE, note)
    return folders[0], folders[1] if len(folders) > 1 else None


def _inside(path: Path) -> Path:
    """The COCODIR or archive that is meant by ``path``: itself, or the only one in it."""
    if not path.is_dir():
        if not is_archive(path):
            raise UserError(f"{path} is no COCODIR and no zip of one: make one with the notebook create_dataset.")
        return path
    if is_cocodir(path):
        return path
    found = [p for p in sorted(path.iterdir()) if (p.is_dir() and is_cocodir(p)) or is_archive(p)]
    if len(found) == 1:
        return found[0]
    listed = f"several: {', '.join(p.name for p in found[:8])}; name one" if found else "none"
    raise UserError(
        f"{path} should be a COCODIR (annotations/instances_*.json) or hold one, and holds {listed}. "
        "The notebook create_dataset makes one of any annotations."
    )


def _converted(address: str) -> Path:
    """The COCODIR that a data set on a host becomes, made once."""
    target = _UNPACKED / f"hosted-{_key(address)}"
    if not target.is_dir():
        report = convert_dataset(hosts.fetch(address, _UNPACKED / "downloads"), target)
        counts = ", ".join(f"{split['images']:,} images of {name}" for name, split in report.splits.items())
        print(f"COCODIR: {address} was converted to {target}: {counts}.")
    return target


def _unpacked(archive: Path) -> Path:
    """The COCODIR in an archive, unpacked once."""
    stat = archive.stat()
    target = _UNPACKED / f"{archive.stem}-{_key(f'{archive.resolve()} {stat.st_size} {stat.st_mtime_ns}')}"
    if not target.is_dir():
        with new_folder(target) as folder:
            extract(archive, folder)
            _inside(folder)
    return _inside(target)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _class_names(data: str | PathLike[str]) -> list[str]:
    found = (read_coco(file)["categories"] for file in Path(data).glob("annotations/instances_*.json"))
    return [str(category["name"]) for categories in found for category in categories]
