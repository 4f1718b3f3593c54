"""Download a file or a small folder from Google Drive, or a file from any http(s) link."""

import contextlib
import inspect
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dino_nb.checkpoints.download import download
from dino_nb.checkpoints.web import GOOGLE, TIMEOUT, DownloadError, explained, host_of, is_link, shown
from dino_nb.errors import UserError

DRIVE_URL = "https://drive.google.com"
_ID = r"[\w-]{25,}"
# Without a link around it an id must look like one of Drive's: a folder's name may be as long.
_BARE_ID = r"1[\w-]{32}|1[\w-]{43}|0[AB][\w-]{17,26}"


def file_id(text: object) -> str | None:
    """The Drive id of a file, from a bare id or from any form of its link; else None."""
    text = str(text).strip()
    if re.fullmatch(_BARE_ID, text):
        return text
    if host_of(text) not in GOOGLE:
        return None
    parts = urlsplit(text)
    match = re.search(rf"/d/({_ID})", parts.path) or re.search(rf"(?:^|&)id=({_ID})", parts.query)
    return match and match[1]


def folder_id(text: object) -> str | None:
    """The Drive id of a folder from its link; else None (a bare id is taken for a file's)."""
    text = str(text).strip()
    match = re.search(rf"/folders/({_ID})", urlsplit(text).path) if host_of(text) in GOOGLE else None
    return match and match[1]


def fetch(
    url_or_id: object,
    folder: str | Path,
    *,
    name: str | None = None,
    check: Callable[[Path], Any] | None = None,
    advice: str | None = None,
) -> Path:
    """Download one file into ``folder`` and return its path; the link of a Drive folder gives that, file by file.

    Args:
        url_or_id: an http(s) link, a Drive link in any form, or the bare id of a Drive file.
        folder: where to put it (made if missing). A file that is there already is kept if its size and time are those
            announced; what a cut download left is continued, where the server can.
        name: the file's name, else the one that the server gives.
        check: called with the path of the complete file before it gets its name; if it raises, the file is removed.
        advice: the way out by hand that ends an error's sentence.

    Raises:
        DownloadError: offline, quota, permission, not found, cut too often, no space, a web page in place of the file.
    """
    source, folder = str(url_or_id).strip(), Path(folder)
    whole = folder_id(source)
    if whole:
        return _fetch_folder(whole, folder, advice)
    drive_id = file_id(source)
    if drive_id:
        link, page = f"{DRIVE_URL}/uc?export=download&id={drive_id}", f"{DRIVE_URL}/file/d/{drive_id}/view"
    elif is_link(source):
        link, page = source, shown(source)
    else:
        raise UserError(f"{shown(source)!r} is neither an http(s) link nor the id of a file on Google Drive.")
    with explained(name or page, advice or f"open {page} in a browser, save the file, and give its path instead"):
        return download(link, folder, name, check)


def list_folder(
    drive_id: str, folder: str | Path = ".", *, what: str | None = None, advice: str | None = None
) -> list[tuple[str, Path, Path]]:
    """What a Drive folder holds: (file id, path in the folder, path that it would get below ``folder``) of each file.

    ``what`` and ``advice`` begin and end the sentence of an error, as in ``fetch``.
    """
    import gdown

    url = f"{DRIVE_URL}/drive/folders/{drive_id}"
    options: dict[str, Any] = {
        "output": f"{folder}{os.sep}",
        "quiet": True,
        "skip_download": True,
        "use_cookies": False,
    }
    if "timeout" in inspect.signature(gdown.download_folder).parameters:  # since gdown 6
        options["timeout"] = TIMEOUT
    too_many = getattr(gdown.exceptions, "FolderContentsMaximumLimitError", ())  # gdown 5 reads the first 50 files
    unreadable = getattr(gdown.exceptions, "DownloadError", RuntimeError)  # since gdown 6, else a RuntimeError
    advice = advice or "open it in a browser and give the link of one file in it, or of a zip"
    with explained(what or f"the Drive folder {url}", advice):
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # gdown 5 tells of a refusal by a line there and None
                entries: Any = gdown.download_folder(id=drive_id, **options)
        except too_many as error:
            raise DownloadError("the folder holds 50 files or more, which this gdown does not list") from error
        except (unreadable, ValueError, LookupError, AttributeError):  # the latter for pages other than expected
            entries = None
        if not entries:
            raise DownloadError("the folder is empty, or not there, or not shared with everyone who has the link")
    return [(entry.id, Path(entry.path), Path(entry.local_path)) for entry in entries]


def _fetch_folder(drive_id: str, folder: Path, advice: str | None) -> Path:
    listing = list_folder(drive_id, folder)
    for entry, _, local in listing:
        if not local.resolve().is_relative_to(folder.resolve()):  # names in a shared folder are a stranger's
            raise DownloadError(f"the Drive folder holds a file that would be written outside {folder}")
        fetch(entry, local.parent, name=local.name, advice=advice)
    _, path, local = listing[0]
    return local.parents[len(path.parts) - 1]
