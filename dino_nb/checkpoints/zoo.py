"""The ten published checkpoints: what they are, what of them is on disk, and downloading them once.

    path = zoo.fetch("dino-4scale-r50-12ep")     # or the published file name, hf://owner/repo/file, a link, a path
    print(zoo.table())

They live in ``$DINO_NB_HOME/checkpoints`` (see ``files.home_dir``). A file put there by hand is as good as a downloaded
one: it is verified before its first use. Sources are tried in this order: the disk, a mounted Google Drive, the mirror
on the Hugging Face Hub (a file of its own, with the same weights), the published Google Drive folder.
"""

import hashlib
import json
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dino_nb import files
from dino_nb.checkpoints import drive
from dino_nb.checkpoints.download import looks_like_html
from dino_nb.checkpoints.web import DownloadError, is_link, shown
from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import home_dir, sha256, size_text, write_text

FOLDER_ID = "1qD5m1NmK0kjE5hh-G17XUX751WsEG-h_"
FOLDER_URL = f"{drive.DRIVE_URL}/drive/folders/{FOLDER_ID}"
ENDINGS = (".pth", ".pt", ".safetensors")
BEST_CHECKPOINT, LAST_CHECKPOINT = "checkpoint_best.pth", "checkpoint_last.pth"  # in the folder of a training run
BAIDU = "https://pan.baidu.com/s/1St5rvfgfPwpnPuf_Oe6DpQ (code DINO)"


@dataclass(frozen=True)
class Published:
    """One published checkpoint. ``ap``: box AP on COCO val2017; the others are None where not known.

    ``mirror``: ``owner/repo/file`` on the Hugging Face Hub, with the same tensors and names in another file.
    """

    file: str
    backbone: str
    scales: int
    epochs: int
    ap: float
    drive_id: str | None = None
    sha256: str | None = None
    mirror: str | None = None

    @property
    def name(self) -> str:
        return f"dino-{self.scales}scale-{self.backbone.lower().replace('-', '')}-{self.epochs}ep"


ZOO = (
    Published(
        "checkpoint0011_4scale.pth",
        *("R50", 4, 12, 49.0),
        drive_id="1eeAHgu-fzp28PGdIjeLe-pzGPMG2r2G_",
        sha256="0bcd6b0c33d60ed33461ce6f02ce5797a819c7c02eb7e15b76adfb6df307955a",
        mirror="LibreYOLO/LibreDINODETRr50/LibreDINODETRr50.pt",
    ),
    Published(
        "checkpoint0011_5scale.pth",
        *("R50", 5, 12, 49.4),
        sha256="1ccc1b6b7139813e4d3bfbeecfcf88347ebc226829769a0bf16c4a114c275cc0",
        mirror="LibreYOLO/LibreDINODETRr50s5/LibreDINODETRr50s5.pt",
    ),
    Published("checkpoint0011_4scale_swin.pth", "Swin-L", 4, 12, 56.8),
    Published("checkpoint0011_5scale_swin.pth", "Swin-L", 5, 12, 57.3),
    Published("checkpoint0023_4scale.pth", "R50", 4, 24, 50.4, drive_id="1cJ6WWAYrYjK2xGpv_x1-EqKMeNNW5R0h"),
    Published("checkpoint0022_5scale.pth", "R50", 5, 24, 51.3),
    Published("checkpoint0033_4scale.pth", "R50", 4, 36, 50.9),
    Published("checkpoint0031_5scale.pth", "R50", 5, 36, 51.2),
    Published("checkpoint0029_4scale_swin.pth", "Swin-L", 4, 36, 58.0),
    Published(
        "checkpoint0027_5scale_swin.pth",
        *("Swin-L", 5, 36, 58.5),
        sha256="17ddce1592816a0c63a2edc94d4a0877ffeb086f397a6657e151c703a4c850b5",
        mirror="LibreYOLO/LibreDINODETRswinl/LibreDINODETRswinl.pt",
    ),
)


def names() -> list[str]:
    """The ten names, as ``fetch`` and ``dino_nb.load`` take them."""
    return [item.name for item in ZOO]


def find(name: object) -> Published | None:
    """The ``Published`` checkpoint of a name or published file name (``.pth`` or not), or None."""
    key = str(name).strip().lower().removesuffix(".pth")
    return next((item for item in ZOO if key in (item.name, item.file.removesuffix(".pth"))), None)


def folder() -> Path:
    """Where checkpoints are kept."""
    return home_dir() / "checkpoints"


def fetch(name_or_link: object) -> Path:
    """The path of a checkpoint, downloaded and verified first where it is not on disk.

    Takes, in this order: the path of a file or of a training run's folder, a zoo name or published file name,
    ``hf://owner/repo/file``, an http(s) or Drive link, a Drive id. Raises ``UserError`` with one sentence: a near-miss
    gets a suggestion, a failed download the way out by hand.
    """
    text = str(name_or_link).strip()
    path = Path(text).expanduser() if len(text) < 1000 and "\0" not in text else Path("?")
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    if item := find(text):
        return _fetch_published(item)
    if text.startswith("hf://"):
        return _fetch_link(_hub_link(text.removeprefix("hf://")), text)
    if is_link(text) or (drive.file_id(text) and not did_you_mean(text, names())):
        return _fetch_link(text, drive.file_id(text) or text)
    raise UserError(_unknown(text, path))


def table() -> str:
    """The zoo as text: name, backbone, scales, epochs, AP, published file, what is on disk and where it is from."""
    rows = [("name", "backbone", "scales", "epochs", "AP", "published file", "on disk")]
    rows += [
        (item.name, item.backbone, str(item.scales), str(item.epochs), f"{item.ap:.1f}", item.file, _on_disk(item))
        for item in ZOO
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def verify() -> list[tuple[Path, bool, str]]:
    """Read every published checkpoint on disk again: a list of (path, bad, verdict)."""
    results = []
    for item in ZOO:
        for path in filter(Path.is_file, _places(item)):
            if problem := _problem(path, item):
                _note(path).unlink(missing_ok=True)
            else:
                _remember(path, _noted(path)[1])
            known = item.sha256 and path.name == item.file
            good = "SHA-256 as published" if known else f"whole; SHA-256 {sha256(path)}, none is published"
            results.append((path, bool(problem), problem or good))
    return results


def _places(item: Published) -> list[Path]:
    """Where the file of a checkpoint may be: among ours, beside them its mirror's, and on a mounted Drive."""
    places = [folder() / item.file]
    if item.mirror:
        places.append(folder() / item.mirror.rpartition("/")[2])
    if files.drive_mounted():
        places += [files.DRIVE / item.file, files.DRIVE / "dino_nb" / "checkpoints" / item.file]
    return list(dict.fromkeys(places))


def _fetch_published(item: Published) -> Path:
    for path in filter(Path.is_file, _places(item)):
        if not _noted(path)[0]:  # put there by hand: read through once, and when it has changed
            if problem := _problem(path, item):
                raise UserError(
                    f"{path} {problem}: remove it, and it is downloaded again, or put the right file there."
                )
            _remember(path, _noted(path)[1])
        return path
    if item.mirror:
        name = item.mirror.rpartition("/")[2]
        advice = "the mirror is not the only source"
        try:
            path = _download(item, _hub_link(item.mirror), name, f"hf://{item.mirror}", advice)
            told = f"{name} is the mirror of {item.file}; its form was checked, no SHA-256 of it is published."
            print(told, file=sys.stderr)
            return path
        except DownloadError as error:
            print(f"{error} Trying the next source.", file=sys.stderr)
    also = f" or {BAIDU}" if item.backbone == "R50" else ""
    advice = f"download it in a browser from {FOLDER_URL}{also}, put it at {folder() / item.file}, and run this again"
    path = _download(item, item.drive_id or _id_in_folder(item, advice), item.file, "Google Drive", advice)
    if not item.sha256:
        print(f"No SHA-256 of {item.file} is published: only its form was checked.", file=sys.stderr)
    return path


def _download(item: Published, link: str, name: str, source: str, advice: str) -> Path:
    path = drive.fetch(link, folder(), name=name, check=partial(_refuse, item=item, name=name), advice=advice)
    _remember(path, source)
    return path


def _hub_link(name: str) -> str:
    """The address of ``owner/repo/file`` (or ``owner/repo@revision/file``) on the Hugging Face Hub."""
    match = re.fullmatch(r"([\w.-]+)/([\w.-]+?)(?:@([\w.-]+))?/([\w./-]+)", name)
    if not match or ".." in name:
        raise UserError(f"'hf://{name}' is not hf://owner/repo/file, the address of a file on the Hugging Face Hub.")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{match[1]}/{match[2]}/resolve/{match[3] or 'main'}/{match[4]}"


def _id_in_folder(item: Published, advice: str) -> str:
    listing = drive.list_folder(FOLDER_ID, what=item.file, advice=advice)
    for drive_id, path, _ in listing:
        if path.name == item.file:
            return drive_id
    raise DownloadError(f"{item.file} is not among the {len(listing)} files of the published Drive folder", advice)


def _fetch_link(link: str, key: str) -> Path:
    """A checkpoint by link or id; each has its own folder, since half of all checkpoints are called the same."""
    if whole := drive.folder_id(link):
        inside = [f"{drive_id} ({path})" for drive_id, path, _ in drive.list_folder(whole)]
        raise UserError(f"{shown(link)} is a folder: give the id or link of one file in it: {', '.join(inside[:12])}.")
    home = folder() / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    done = [path for path in home.glob("[!.]*") if path.suffix != ".part"]
    if done:
        return done[0]
    path = drive.fetch(link, home, check=_refuse)
    _remember(path, shown(key))
    print(f"No SHA-256 of {path.name} is known: only its form was checked.", file=sys.stderr)
    return path


def _refuse(path: Path, item: Published | None = None, name: str = "") -> None:
    if problem := _problem(path, item, name) if item else _damage(path):
        raise DownloadError(f"what arrived {problem}")


def _damage(path: Path) -> str | None:
    """What is wrong with a file, whatever it should be: the end of a sentence that begins with its name, or None."""
    if not path.stat().st_size:
        return "is empty"
    if looks_like_html(path):
        return "is a web page, not a checkpoint"
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # as torch.save writes; its directory is at the very end
    return "is cut short" if is_zip and not zipfile.is_zipfile(path) else None


def _problem(path: Path, item: Published, name: str | None = None) -> str | None:
    """What is wrong with a file called ``name`` that should be ``item``, said as ``_damage`` does, or None."""
    if problem := _damage(path):
        return problem
    with path.open("rb") as file:
        if file.read(2) not in (b"PK", b"\x80\x02"):  # a zip, or the pickle that torch wrote before 1.6
            return "is no PyTorch checkpoint"
    if item.sha256 and (name or path.name) == item.file and (found := sha256(path)) != item.sha256:
        return f"has the SHA-256 {found[:12]}... and not the published {item.sha256[:12]}..."
    return None


# A note beside a verified file holds its size, its time and where it is from: 2 GB are not read through at each start.
def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _remember(path: Path, source: str) -> None:
    write_text(_note(path), json.dumps([path.stat().st_size, path.stat().st_mtime_ns, source]))


def _noted(path: Path) -> tuple[bool, str]:
    """(whether the file is as it was when it was verified, where it is from)."""
    try:
        size, time, *source = json.loads(_note(path).read_text())
    except (OSError, ValueError, TypeError):
        return False, ""
    return (size, time) == (path.stat().st_size, path.stat().st_mtime_ns), str(source[0]) if source else ""


def _on_disk(item: Published) -> str:
    for path in filter(Path.is_file, _places(item)):
        known, source = _noted(path)
        where = f", from {source}" if source else ""
        return f"{size_text(path.stat().st_size)}, {'verified' if known else 'not verified yet'}{where}"
    parts = [part.stat().st_size for path in _places(item)[:2] for part in path.parent.glob(f"{path.name}.*.part")]
    return f"first {size_text(max(parts))}" if parts else "-"


def _in_folder(path: Path) -> Path:
    """The checkpoint that a folder means: the best of a training run, or the only one."""
    inside = sorted(p for p in path.iterdir() if p.suffix in ENDINGS and not p.name.startswith("state_"))
    best = [p for p in inside if p.stem == Path(BEST_CHECKPOINT).stem]
    if best or len(inside) == 1:
        return (best or inside)[0]
    if not inside:
        raise UserError(f"the folder {path} holds no checkpoint ({', '.join(ENDINGS)}): did its training end early?")
    raise UserError(f"{path} is a folder: give the checkpoint file in it: {', '.join(p.name for p in inside[:12])}.")


def _unknown(text: str, path: Path) -> str:
    choices = [*names(), *(item.file for item in ZOO)]
    if len(path.parts) > 1 or path.suffix:
        beside = [p.name for p in path.parent.glob("*") if p.is_file()]
        near = did_you_mean(path.name, [*choices, *beside])
        return f"there is no file {shown(text)}.{near} (dino-nb zoo lists the published checkpoints.)"
    near = did_you_mean(text, choices)
    known = "dino-nb zoo lists all." if near else f"The published ones are {', '.join(names())}."
    return (
        f"there is no checkpoint {shown(text)!r}.{near} {known} A path, a link, or the id of a file on Drive works too."
    )
