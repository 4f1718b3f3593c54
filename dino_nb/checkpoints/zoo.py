"""The ten published checkpoints: what they are, what of them is on disk, and fetching them once.

    path = zoo.fetch("dino-4scale-r50-12ep")     # or the published file name, a Drive link or id, any link, a path
    print(zoo.table())

They live in ``$DINO_NB_HOME/checkpoints`` (see ``files.home_dir``). A file put there by hand is as good as a fetched
one: it is verified before its first use.
"""

import hashlib
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dino_nb.checkpoints import drive
from dino_nb.checkpoints.download import looks_like_html
from dino_nb.checkpoints.web import DownloadError, is_link
from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import home_dir, sha256, size_text, write_text

FOLDER_ID = "1qD5m1NmK0kjE5hh-G17XUX751WsEG-h_"
FOLDER_URL = f"{drive.DRIVE_URL}/drive/folders/{FOLDER_ID}"
BAIDU = "https://pan.baidu.com/s/1St5rvfgfPwpnPuf_Oe6DpQ (code DINO)"


@dataclass(frozen=True)
class Published:
    """One published checkpoint. ``ap``: box AP on COCO val2017; ``drive_id``, ``sha256``: None where not known."""

    file: str
    backbone: str
    scales: int
    epochs: int
    ap: float
    drive_id: str | None = None
    sha256: str | None = None

    @property
    def name(self):
        return f"dino-{self.scales}scale-{self.backbone.lower().replace('-', '')}-{self.epochs}ep"


ZOO = (
    Published(
        "checkpoint0011_4scale.pth",
        *("R50", 4, 12, 49.0),
        drive_id="1eeAHgu-fzp28PGdIjeLe-pzGPMG2r2G_",
        sha256="0bcd6b0c33d60ed33461ce6f02ce5797a819c7c02eb7e15b76adfb6df307955a",
    ),
    Published(
        "checkpoint0011_5scale.pth",
        *("R50", 5, 12, 49.4),
        sha256="1ccc1b6b7139813e4d3bfbeecfcf88347ebc226829769a0bf16c4a114c275cc0",
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
    ),
)


def names():
    """The ten names, as ``fetch`` and ``dino_nb.load`` take them."""
    return [item.name for item in ZOO]


def find(name):
    """The ``Published`` checkpoint of a name or published file name (``.pth`` or not), or None."""
    key = str(name).strip().lower().removesuffix(".pth")
    return next((item for item in ZOO if key in (item.name, item.file.removesuffix(".pth"))), None)


def folder():
    """Where checkpoints are kept."""
    return home_dir() / "checkpoints"


def fetch(name_or_id_or_link):
    """The path of a checkpoint, downloaded and verified first where it is not on disk.

    Takes, in this order: the path of a file, a zoo name or published file name, an http(s) or Drive link, a Drive id.
    Raises ``UserError`` with one sentence: a near-miss gets a suggestion, a failed download the way out by hand.
    """
    text = str(name_or_id_or_link).strip()
    path = Path(text).expanduser() if len(text) < 1000 and "\0" not in text else Path("?")
    if path.is_file():
        return path
    item = find(text)
    if item:
        return _fetch_published(item)
    if is_link(text) or (drive.file_id(text) and not did_you_mean(text, names())):
        return _fetch_link(text)
    raise UserError(_unknown(text, path))


def table():
    """The zoo as text: name, backbone, scales, epochs, AP, published file, what is on disk."""
    rows = [("name", "backbone", "scales", "epochs", "AP", "published file", "on disk")]
    rows += [
        (item.name, item.backbone, str(item.scales), str(item.epochs), f"{item.ap:.1f}", item.file, _on_disk(item))
        for item in ZOO
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def verify():
    """Read every published checkpoint on disk anew: a list of (item, bad, verdict), ``bad`` a bool."""
    results = []
    for item in ZOO:
        path = folder() / item.file
        if not path.is_file():
            continue
        problem = _problem(path, item)
        if problem:
            _note(path).unlink(missing_ok=True)
        else:
            _remember(path)
        known = "SHA-256 as published" if item.sha256 else f"whole; SHA-256 {sha256(path)}, none is published"
        results.append((item, bool(problem), problem or known))
    return results


def _fetch_published(item):
    path = folder() / item.file
    if path.is_file():
        _verify_by_hand(path, item)
        return path
    also = f" or {BAIDU}" if item.backbone == "R50" else ""
    advice = f"download it in a browser from {FOLDER_URL}{also}, put it at {path}, and run this again"
    drive_id = item.drive_id or _id_in_folder(item, advice)
    drive.fetch(drive_id, path.parent, name=item.file, check=lambda part: _refuse(_problem(part, item)), advice=advice)
    _remember(path)
    if not item.sha256:
        print(f"No SHA-256 of {item.file} is published: only its form was checked.", file=sys.stderr)
    return path


def _id_in_folder(item, advice):
    listing = drive.list_folder(FOLDER_ID, what=item.file, advice=advice)
    for drive_id, path, _ in listing:
        if path.name == item.file:
            return drive_id
    raise DownloadError(f"{item.file} is not among the {len(listing)} files of the published Drive folder", advice)


def _fetch_link(link):
    """A checkpoint by link or id; each has its own folder, since half of all checkpoints are called the same."""
    home = folder() / hashlib.sha256((drive.file_id(link) or link).encode()).hexdigest()[:12]
    if drive.folder_id(link):
        files = [f"{drive_id} ({path})" for drive_id, path, _ in drive.list_folder(drive.folder_id(link))]
        raise UserError(f"{link} is a folder: give the id or link of one file in it: {', '.join(files[:12])}.")
    done = [path for path in home.glob("*") if path.suffix != ".part"]
    if done:
        return done[0]
    path = drive.fetch(link, home, check=lambda part: _refuse(_damage(part)))
    print(f"No SHA-256 of {path.name} is known: only its form was checked.", file=sys.stderr)
    return path


def _refuse(problem):
    if problem:
        raise DownloadError(f"what arrived {problem}")


def _verify_by_hand(path, item):
    """Raise unless the file at its place is the published one; it is read through once, and when it has changed."""
    if _is_remembered(path):
        return
    problem = _problem(path, item)
    if problem:
        raise UserError(f"{path} {problem}: remove it, and it is fetched anew, or put the right file there.")
    _remember(path)


def _damage(path):
    """What is wrong with a file, whatever it should be: the end of a sentence that begins with its name, or None."""
    if not path.stat().st_size:
        return "is empty"
    if looks_like_html(path):
        return "is a web page, not a checkpoint"
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # as torch.save writes; its directory is at the very end
    return "is cut short" if is_zip and not zipfile.is_zipfile(path) else None


def _problem(path, item):
    """What is wrong with a file that should be ``item``, said as ``_damage`` does, or None."""
    problem = _damage(path)
    if problem:
        return problem
    with path.open("rb") as file:
        if file.read(2) not in (b"PK", b"\x80\x02"):  # a zip, or the pickle that torch wrote before 1.6
            return "is no PyTorch checkpoint"
    if item.sha256 and (found := sha256(path)) != item.sha256:
        return f"has the SHA-256 {found[:12]}... and not the published {item.sha256[:12]}..."
    return None


# A note beside a verified file holds its size and time, so that 2 GB are not read through at each start.
def _note(path):
    return path.with_name(f".{path.name}.verified")


def _remember(path):
    write_text(_note(path), json.dumps([path.stat().st_size, path.stat().st_mtime_ns]))


def _is_remembered(path):
    note = _note(path)
    return note.is_file() and note.read_text() == json.dumps([path.stat().st_size, path.stat().st_mtime_ns])


def _on_disk(item):
    path = folder() / item.file
    if path.is_file():
        return f"{size_text(path.stat().st_size)}, {'verified' if _is_remembered(path) else 'not verified yet'}"
    parts = [part.stat().st_size for part in folder().glob(f"{item.file}.*.part")]
    return f"first {size_text(max(parts))}" if parts else "-"


def _unknown(text, path):
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*") if p.suffix in (".pth", ".pt", ".safetensors"))
        return f"{path} is a folder: give the checkpoint file" + (
            f" in it: {', '.join(inside)}." if inside else " itself."
        )
    choices = [*names(), *(item.file for item in ZOO)]
    if len(path.parts) > 1 or path.suffix:
        near = did_you_mean(path.name, [*choices, *(p.name for p in path.parent.glob("*") if p.is_file())])
        return f"there is no file {text}.{near} (dino-nb zoo lists the published checkpoints.)"
    near = did_you_mean(text, choices)
    known = "dino-nb zoo lists all." if near else f"The published ones are {', '.join(names())}."
    return f"there is no checkpoint {text!r}.{near} {known} A path, a link, or the id of a file on Drive works too."
