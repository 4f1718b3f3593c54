"""Fetch a file or a small folder from Google Drive, or a file from any http(s) link."""

import contextlib
import inspect
import io
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from dino_nb.checkpoints.download import GOOGLE, TIMEOUT, DownloadError, download
from dino_nb.errors import UserError

DRIVE_URL = "https://drive.google.com"
_ID = r"[\w-]{25,}"


def file_id(text):
    """The Drive id of a file, from a bare id or from any form of its link; else None."""
    text = str(text).strip()
    if re.fullmatch(_ID, text):
        return text
    parts = urlsplit(text)
    if parts.hostname not in GOOGLE:
        return None
    match = re.search(rf"/d/({_ID})", parts.path) or re.search(rf"(?:^|&)id=({_ID})", parts.query)
    return match and match[1]


def folder_id(text):
    """The Drive id of a folder from its link; else None (a bare id is taken for a file's)."""
    parts = urlsplit(str(text).strip())
    match = re.search(rf"/folders/({_ID})", parts.path) if parts.hostname in GOOGLE else None
    return match and match[1]


def is_link(text):
    """Whether ``text`` is an http(s) link."""
    return urlsplit(str(text).strip()).scheme in ("http", "https")


def fetch(url_or_id, folder, *, name=None, check=None, advice=None):
    """Download one file into ``folder`` and return its path; the link of a Drive folder fetches that, file by file.

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
    if folder_id(source):
        return _fetch_folder(folder_id(source), folder, advice)
    drive_id = file_id(source)
    if drive_id:
        link, shown = f"{DRIVE_URL}/uc?export=download&id={drive_id}", f"{DRIVE_URL}/file/d/{drive_id}/view"
    elif is_link(source):
        link = shown = source
    else:
        raise UserError(f"{source!r} is neither an http(s) link nor the id of a file on Google Drive.")
    with _explained(name or shown, advice or f"open {shown} in a browser, save the file, and give its path instead"):
        return download(link, folder, name, check)


def list_folder(drive_id, folder=".", *, what=None, advice=None):
    """What a Drive folder holds: a list of (file id, path in the folder, path that it would get below ``folder``).

    ``what`` and ``advice`` begin and end the sentence of an error, as in ``fetch``.
    """
    import gdown

    url = f"{DRIVE_URL}/drive/folders/{drive_id}"
    options = {"output": f"{folder}{os.sep}", "quiet": True, "skip_download": True, "use_cookies": False}
    if "timeout" in inspect.signature(gdown.download_folder).parameters:  # since gdown 6
        options["timeout"] = TIMEOUT
    too_many = getattr(gdown.exceptions, "FolderContentsMaximumLimitError", ())  # gdown 5 reads the first 50 files
    unreadable = getattr(gdown.exceptions, "DownloadError", RuntimeError)  # since gdown 6, else a RuntimeError
    advice = advice or "open it in a browser and give the link of one file in it, or of a zip"
    with _explained(what or f"the Drive folder {url}", advice):
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # gdown 5 tells of a refusal by a line there and None
                entries = gdown.download_folder(id=drive_id, **options)
        except too_many as error:
            raise DownloadError("the folder holds 50 files or more, which this gdown does not list") from error
        except (unreadable, ValueError, LookupError, AttributeError):  # the latter for pages other than expected
            entries = None
        if not entries:
            raise DownloadError("the folder is empty, or not there, or not shared with everyone who has the link")
    return [(entry.id, Path(entry.path), Path(entry.local_path)) for entry in entries]


def _fetch_folder(drive_id, folder, advice):
    listing = list_folder(drive_id, folder)
    for entry, _, local in listing:
        fetch(entry, local.parent, name=local.name, advice=advice)
    _, path, local = listing[0]
    return local.parents[len(path.parts) - 1]


@contextlib.contextmanager
def _explained(what, advice):
    """Turn what goes wrong on the way into one sentence: ``WHAT cannot be fetched, because REASON: ADVICE.``"""
    import requests

    try:
        yield
        return
    except DownloadError as error:
        reason, cause = error.reason, error
    except requests.exceptions.SSLError as error:
        reason, cause = f"{_host(error)} could not be trusted (its certificate, or a proxy in between)", error
    except (requests.ConnectionError, requests.Timeout) as error:
        reason, cause = f"{_host(error)} cannot be reached from here (no network?)", error
    except requests.RequestException as error:
        reason, cause = f"the link does not work ({error})", error
    except OSError as error:
        reason, cause = f"{error.filename or 'the disk'} cannot be written ({error.strerror or error})", error
    raise DownloadError(f"{what} cannot be fetched, because {reason}", advice) from cause


def _host(error):
    return urlsplit(getattr(error.request, "url", None) or DRIVE_URL).hostname
