"""Fetch files from Kaggle and from Google Drive, by the libraries made for them."""

import importlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path, PurePath
from types import ModuleType
from zipfile import BadZipFile

import requests

from bench.data.raw.checksums import is_web_page
from bench.data.raw.http_session import Report
from bench.data.raw.unavailable import UnavailableError
from bench.data.recipes.sources import DriveSource, KaggleSource

TIMEOUT_S = (20.0, 60.0)
RETRIES = 4
TOKEN = (
    "create a token at https://www.kaggle.com/settings and put it into ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME "
    "and KAGGLE_KEY."
)


def from_kaggle(source: KaggleSource, folder: Path, report: Report) -> Path:
    """Bring the files of a Kaggle competition or dataset onto this machine with the user's token.

    kagglehub fetches into its own cache (`KAGGLEHUB_CACHE`), where it can continue what broke off. Single files are
    then linked into `folder`, or copied where links are not possible; the whole of a dataset stays where it is.

    Args:
        source: the source; of its files, those that are in `folder` already, packed or not, are not fetched again.
        folder: where single files go.
        report: called with a line per file.

    Returns:
        The folder that holds the files.

    Raises:
        UnavailableError: kagglehub is not installed, a token or accepted rules lack, or Kaggle does not answer.
    """
    missing = [file for file in source.files if not _is_there(folder, file)]
    if source.files and not missing:
        return folder
    for file in missing:
        report(f"fetching {file} from {source.page}")
        _keep(_ask_kaggle(source, file, folder), folder / file)
    if source.files:
        return folder
    report(f"fetching all files of {source.page} into the cache of kagglehub")
    return _ask_kaggle(source, None, folder)


def from_drive(source: DriveSource, folder: Path, report: Report) -> Path:
    """Bring the files of a public Google Drive folder, or of one folder inside it, into `folder`.

    What Drive holds is noted in `folder/.drive`, so that nothing is asked again once everything is there.

    Args:
        source: the source.
        folder: where the files go, under the paths they have on Drive.
        report: called with a line per file.

    Returns:
        The folder that holds the files.

    Raises:
        UnavailableError: gdown is not installed, or Drive does not give a file: mostly its daily quota.
    """
    place = folder / source.folder if source.folder else folder
    listing = folder / ".drive" / f"{source.folder_id}.json"
    try:
        known = _inside(_noted(listing), source)
        if not known or not all(_is_good(folder / path) for path in known):
            _fetch_what_lacks(source, folder, listing, report)
    except OSError as error:
        raise UnavailableError(f"{folder} cannot be written or read: {error.strerror or error}.") from error
    return place


def _ask_kaggle(source: KaggleSource, file: str | None, folder: Path) -> Path:
    hub = _library("kagglehub", folder)
    failures = _library("kagglehub.exceptions", folder)
    fetch = hub.competition_download if source.competition else hub.dataset_download
    try:
        with _output_aside():
            return Path(fetch(source.competition or source.handle, path=file))
    except (failures.UnauthenticatedError, failures.CredentialError) as error:
        raise UnavailableError(f"Kaggle wants a login: {TOKEN} {_by_hand(folder)}") from error
    except requests.RequestException as error:
        raise UnavailableError(f"{_kaggle_words(error, source, file)} {_by_hand(folder)}") from error
    except (failures.DataCorruptionError, BadZipFile) as error:
        raise UnavailableError(
            f"{file or source.page} came damaged from Kaggle and was not kept; try again. {_by_hand(folder)}"
        ) from error
    except ValueError as error:
        # What kagglehub says of a credentials file that it cannot use.
        raise UnavailableError(f"kagglehub refuses: {error}. If that is your token: {TOKEN}") from error
    except OSError as error:
        raise UnavailableError(f"kagglehub cannot write {file or 'its cache'}: {error}.") from error


def _kaggle_words(error: requests.RequestException, source: KaggleSource, file: str | None) -> str:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return f"Kaggle does not accept the token (401): {TOKEN}"
    if status == 403 and source.competition:
        return (
            f"Kaggle refuses access (403): accept the rules of the competition in a browser, at {source.page}, with "
            f"the account the token belongs to; then try again."
        )
    if status == 403:
        return f"Kaggle refuses access (403): open {source.page} in a browser to see what it asks for, and {TOKEN}"
    if status == 404:
        return f"Kaggle does not have {file or 'the dataset'} any more (404); see {source.page}."
    if status == 429:
        return "Kaggle had too many requests (429); try again in an hour."
    if status is not None:
        return f"Kaggle answered with the error {status}; try again later."
    if isinstance(error, requests.Timeout):
        return "Kaggle did not answer in time; try again later, what came so far is kept and continued."
    return "Kaggle cannot be reached, or broke off: this machine is offline or the server is down; try again later."


def _is_there(folder: Path, file: str) -> bool:
    # Kaggle's own tools save a single file packed.
    return any((folder / (file + packed)).is_file() for packed in ("", ".zip", ".gz"))


def _keep(fetched: Path, target: Path) -> None:
    """Give a file of kagglehub's cache its place, at once and as a whole."""
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        try:
            os.link(fetched.resolve(), part)
        except OSError:
            # Another disk, or a file system without links.
            shutil.copyfile(fetched, part)
        part.replace(target)
    except OSError as error:
        raise UnavailableError(f"{target} cannot be written: {error.strerror or error}.") from error


def _list_drive(gdown: ModuleType, source: DriveSource, folder: Path, listing: Path) -> dict[str, str]:
    """Return path -> id of every file below the Drive folder, and note it."""
    try:
        with _output_aside():
            files = gdown.download_folder(
                id=source.folder_id,
                output=str(folder),
                quiet=True,
                use_cookies=False,
                skip_download=True,
                timeout=TIMEOUT_S,
            )
    except (gdown.exceptions.DownloadError, requests.RequestException) as error:
        raise UnavailableError(_drive_words("its list of files", error, source)) from error
    found = {PurePath(file.path).as_posix(): str(file.id) for file in files}
    listing.parent.mkdir(parents=True, exist_ok=True)
    part = listing.with_name(listing.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(listing)
    return found


def _fetch_what_lacks(source: DriveSource, folder: Path, listing: Path, report: Report) -> None:
    gdown = _library("gdown", folder)
    wanted = _inside(_list_drive(gdown, source, folder, listing), source)
    if not wanted:
        raise UnavailableError(f"{_address(source)} has no files in '{source.folder or '.'}'. {_by_hand(folder)}")
    for path, file_id in wanted.items():
        if not _is_good(folder / path):
            report(f"fetching {path} from {_address(source)}")
            _fetch_from_drive(gdown, file_id, folder / path, source)


def _noted(listing: Path) -> dict[str, str]:
    """Return what an earlier call noted; nothing if it is not there or not what was written, so that Drive is asked."""
    try:
        return dict(json.loads(listing.read_text(encoding="utf-8")))
    except (FileNotFoundError, TypeError, ValueError):
        return {}


def _fetch_from_drive(gdown: ModuleType, file_id: str, target: Path, source: DriveSource) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # With resume, gdown would take the bad file that is there for the good one.
    target.unlink(missing_ok=True)
    try:
        with _output_aside():
            gdown.download(
                id=file_id,
                output=str(target),
                quiet=not sys.stderr.isatty(),
                use_cookies=False,
                resume=True,
                timeout=TIMEOUT_S,
                retries=RETRIES,
            )
    except (gdown.exceptions.DownloadError, requests.RequestException) as error:
        raise UnavailableError(_drive_words(target.name, error, source)) from error
    if not _is_good(target):
        target.unlink(missing_ok=True)
        raise UnavailableError(_drive_words(target.name, "what came is a web page, not the file", source))


def _drive_words(what: str, reason: object, source: DriveSource) -> str:
    status = getattr(getattr(reason, "response", None), "status_code", None)
    here = f"open {_address(source)} in a browser, fetch the files there, and use --from DIR."
    said = " ".join(str(reason).split())
    if isinstance(reason, requests.RequestException) and status is None:
        return f"Google Drive cannot be reached: this machine is offline or the server is down ({said})."
    if status == 404:
        return f"Google Drive does not have {what} any more (404). To see what is left, {here}"
    return (
        f"Google Drive does not give {what} now. Mostly its quota for the day is used up: try again tomorrow, or "
        f"{here} What Drive says: {said}"
    )


def _inside(files: dict[str, str], source: DriveSource) -> dict[str, str]:
    wanted = PurePath(source.folder or ".")
    return {path: file_id for path, file_id in files.items() if PurePath(path).is_relative_to(wanted)}


def _is_good(path: Path) -> bool:
    """Say whether a file is there and no web page, nor a `.npy` file without its first bytes."""
    if not path.is_file():
        return False
    if path.suffix == ".npy":
        with path.open("rb") as file:
            return file.read(6) == b"\x93NUMPY"
    return path.suffix in (".html", ".htm") or not is_web_page(path)


def _address(source: DriveSource) -> str:
    return f"https://drive.google.com/drive/folders/{source.folder_id}"


def _by_hand(folder: Path) -> str:
    return f"If you have the files, put them into {folder}, or use --from DIR."


def _library(name: str, folder: Path) -> ModuleType:
    try:
        with _output_aside():
            return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UnavailableError(
            f"the Python package {package} is not installed: pip install 'ld4mrec-bench[downloads]'. {_by_hand(folder)}"
        ) from error


@contextmanager
def _output_aside() -> Iterator[None]:
    """Keep what libraries print off stdout, which is for results; where no terminal shows their bars, drop them."""
    stream = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with redirect_stdout(stream), redirect_stderr(stream):
        yield
