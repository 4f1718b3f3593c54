"""Data sets from Roboflow, Kaggle and the Hugging Face Hub, by the user's own key; results to the Hub.

A key is a secret of the Colab notebook or an environment variable. It goes to its own host alone, in no link that is
kept, and no message or traceback shows it.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dino_nb import files
from dino_nb.checkpoints import drive
from dino_nb.checkpoints.web import TIMEOUT, open_session
from dino_nb.data.images import is_image
from dino_nb.errors import UserError, printable
from dino_nb.files import size_text
from dino_nb.prepare.archive import extract, is_archive
from dino_nb.prepare.folders import new_folder

SPELLING = "roboflow://workspace/project/version, kaggle://owner/dataset or hf://datasets/owner/name"
_ROBOFLOW = re.compile(
    r"(?:roboflow://|https?://(?:app|universe)\.roboflow\.com/)([\w-]+)/([\w-]+)/(?:dataset/)?(\d+)/?"
)
_KAGGLE = re.compile(r"(?:kaggle://|https?://(?:www\.)?kaggle\.com/datasets/)([\w-]+)/([\w-]+)/?")
_HUB = re.compile(r"(?:hf://|https?://huggingface\.co/)datasets/((?:[\w.-]+/)?[\w.-]+)/?")
_SCHEME = re.compile(r"(?:roboflow|kaggle|hf)://", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz)$", re.IGNORECASE)
_EXPORT_PAUSES = (1, 2, 4, *[8] * 35)  # seconds between questions whether Roboflow has its export ready: 5 minutes
NO_RESULTS = ["state_*", ".*"]  # of a run's folder: what only its own training reads


def is_hosted(text: object) -> bool:
    """Whether ``text`` is the address of a data set on Roboflow, Kaggle or the Hub, as ``SPELLING`` or as its page."""
    typed = str(text).strip()
    return any(pattern.fullmatch(typed) for pattern in (_ROBOFLOW, _KAGGLE, _HUB)) or bool(_SCHEME.match(typed))


def fetch(address: str, folder: Path) -> Path:
    """Download a data set into ``folder``; returns its zip, or its folder (Hub), for ``dino_nb.convert_dataset``.

    Raises:
        UserError: a key that is missing or refused, no such set, a used-up quota, no network, no space.
    """
    typed = address.strip()
    if match := _ROBOFLOW.fullmatch(typed):
        return _from_roboflow(folder, *match.groups())
    if match := _KAGGLE.fullmatch(typed):
        return _from_kaggle(folder, *match.groups())
    if match := _HUB.fullmatch(typed):
        return _from_hub(folder, match[1])
    raise UserError(f"{printable(typed)} is no data set's address: write {SPELLING}.")


def push_to_hub(path: str | os.PathLike[str], repo: str, private: bool = True) -> str:
    """Upload a file, or a folder's files but the states of a training, to the model repository ``repo``.

    Args:
        repo: ``owner/name`` on the Hugging Face Hub; made if it is not there.
        private: whether a repository that is made is seen by its owner alone.

    Returns:
        The address of the repository. Needs the secret ``HF_TOKEN``, a token that may write.
    """
    from huggingface_hub import HfApi

    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no {path} to upload.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"{printable(repo)!r} is no repository: write owner/name, your user name first.")
    with _hub_errors(f"hf://{repo}"):
        api = HfApi(_hub_address(), token=_secret("HF_TOKEN"))
        api.create_repo(repo, private=private, exist_ok=True)
        if path.is_file():
            api.upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id=repo)
        else:
            api.upload_folder(repo_id=repo, folder_path=path, ignore_patterns=NO_RESULTS)
    return f"{_hub_address()}/{repo}"


def _from_roboflow(folder: Path, workspace: str, project: str, version: str) -> Path:
    key, what = _secret("ROBOFLOW_API_KEY"), f"roboflow://{workspace}/{project}/{version}"
    if not key:
        raise UserError(f"{what} needs your API key (Roboflow: Settings, API Keys): {_put('ROBOFLOW_API_KEY')}.")
    address = f"https://api.roboflow.com/{workspace}/{project}/{version}/coco"
    for pause in _EXPORT_PAUSES:  # it is made when it is first asked for
        _, body = _ask(what, address, "ROBOFLOW_API_KEY", params={"api_key": key})
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return _download(what, str(json.loads(body)["export"]["link"]), folder / f"{project}-{version}.zip")
        time.sleep(pause)
    raise UserError(f"{what}: Roboflow is still preparing the export. Run this again in some minutes.")


def _from_kaggle(folder: Path, owner: str, dataset: str) -> Path:
    user, key = _secret("KAGGLE_USERNAME"), _secret("KAGGLE_KEY")
    address = f"https://www.kaggle.com/api/v1/datasets/download/{owner}/{dataset}"
    login = (user, key) if user and key else None  # a public set needs none
    what = f"kaggle://{owner}/{dataset}"
    link, _ = _ask(what, address, "KAGGLE_USERNAME and KAGGLE_KEY", auth=login)
    return _download(what, link or address, folder / f"{dataset}.zip")


def _from_hub(folder: Path, name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    what, token, target = f"hf://datasets/{name}", _secret("HF_TOKEN"), folder / name.replace("/", "--")
    with _hub_errors(what):
        info = HfApi(_hub_address(), token=token).dataset_info(name, files_metadata=True)
        listed = [sibling for sibling in info.siblings or [] if not sibling.rfilename.endswith((".parquet", ".arrow"))]
        if not any(is_image(file.rfilename) or _ARCHIVE.search(file.rfilename) for file in listed):
            raise UserError(
                f"{what} holds no image files and no zip or tar of them (parquet tables are not read): "
                "choose another, or save its images and boxes as COCO with the package `datasets`."
            )
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = sum(file.size or 0 for file in listed), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(f"{what} takes {size_text(needed)} and {size_text(free)} are free in {folder}.")
        options: dict[str, Any] = {"repo_type": "dataset", "revision": info.sha, "endpoint": _hub_address()}
        options |= {"token": token, "local_dir": target, "ignore_patterns": ["*.parquet", "*.arrow"]}
        snapshot_download(name, **options)
    for file in sorted(path for path in target.rglob("*") if _ARCHIVE.search(path.name) and is_archive(path)):
        unpacked = file.with_name(_ARCHIVE.sub("", file.name))
        if not unpacked.exists():
            with new_folder(unpacked) as temporary:
                extract(file, temporary)
    return target


def _download(what: str, link: str, target: Path) -> Path:
    """The file behind a ``link`` that a host gave for a while."""
    try:
        return drive.fetch(link, target.parent, name=target.name, advice="save it in a browser, and give its path")
    except UserError as error:
        raise UserError(f"{what}: {error}") from None  # the link is as good as a key


def _secret(name: str) -> str | None:
    """A secret of the Colab notebook, else an environment variable; None where there is none."""
    if files.in_colab():
        with contextlib.suppress(Exception):  # of several kinds: not there, or not for this notebook
            from google.colab import userdata

            return str(userdata.get(name)).strip()
    return os.environ.get(name, "").strip() or None


def _put(names: str) -> str:
    """Where a user puts secrets."""
    if files.in_colab():
        return f"put it under Secrets (the key at the left edge) as {names}, and allow this notebook to read it"
    return f"put it into the environment as {names}"


def _ask(what: str, address: str, secrets: str, **options: Any) -> tuple[str | None, bytes]:
    """Where a host's API redirects to (or None), and the first megabyte of its answer."""
    import requests

    host = address.split("/")[2]
    try:
        with open_session() as session:
            answer = session.get(address, timeout=TIMEOUT, allow_redirects=False, stream=True, **options)
            body = b"" if answer.is_redirect else next(answer.iter_content(1 << 20), b"")
    except (requests.RequestException, OSError):
        raise UserError(f"{what}: {host} cannot be reached from here (no network?).") from None  # it holds the key
    if refusal := _refusal(host, answer.status_code, secrets):
        raise UserError(f"{what}: {refusal}")
    return answer.headers.get("Location"), body


def _refusal(host: str, status: int, secrets: str) -> str | None:
    """Why a host gives nothing, as a sentence; None where it gives something."""
    if status in (401, 403, 404):
        why = "knows none of that name" if status == 404 else "refuses access"
        return f"{host} {why}. Check the name and the key: {_put(secrets)}."
    if status == 429:
        return f"{host} takes no more requests for now (the quota is used up). Try again later."
    return f"{host} answered {status}. Try again later." if status >= 400 else None


def _hub_address() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextlib.contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """The Hub library's errors, of many kinds and different from version to version, as sentences."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        why = _refusal("huggingface.co", status, "HF_TOKEN") or f"huggingface.co fails ({type(error).__name__})."
        raise UserError(f"{what}: {why}") from None
