"""Fetch the files of a web source: checked before they are kept, unpacked as a whole or not at all."""

import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pooch
import requests.exceptions

from bench.data.sources import Download

Report = Callable[[str], None]
TIMEOUT_S = 60


class UnavailableError(Exception):
    """A source cannot give its files now; the message says why and what would help."""


def download(downloads: tuple[Download, ...], folder: Path, wanted: list[str], report: Report) -> None:
    """Bring files into `folder`; what is there already with the right checksum is not fetched again.

    Args:
        downloads: the files; zip and tar archives are unpacked.
        folder: where they go.
        wanted: paths of the members to unpack from archives.
        report: called with one line per file that is fetched.

    Raises:
        UnavailableError: a file cannot be fetched, or what came is not what the recipe expects.
    """
    pooch.get_logger().setLevel("WARNING")
    for each in downloads:
        target = folder / each.filename
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pooch.retrieve(
                each.url,
                known_hash=each.known_hash,
                fname=each.filename,
                path=folder,
                downloader=partial(_get, expected=each, report=report),
                processor=partial(_unpack, wanted=wanted),
            )
        except requests.exceptions.RequestException as error:
            raise UnavailableError(f"{_web_reason(error, each)} If you have the file, put it at {target}.") from error
        except (zipfile.BadZipFile, tarfile.TarError) as error:
            raise UnavailableError(f"{target} is a damaged archive ({error}). Delete it and try again.") from error
        except OSError as error:
            raise UnavailableError(f"{target} cannot be written: {error}.") from error
        if each.known_hash is None:
            report(f'{target} has no checksum in the recipe; add sha256 = "{pooch.file_hash(str(target))}"')


class _Bar:
    """What Pooch asks of a progress bar, drawn on stderr by Rich."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(name, total=None)
        self._progress.start()

    @property
    def total(self) -> float | None:
        return self._progress.tasks[0].total

    @total.setter
    def total(self, n_bytes: int) -> None:
        self._progress.update(self._task, total=n_bytes or None)

    def update(self, n_bytes: int) -> None:
        self._progress.advance(self._task, n_bytes)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.stop()


def _get(url: str, output_file: str, pup: Any, *, expected: Download, report: Report) -> None:
    """Download to `output_file`, and refuse a web page, a wrong size or a wrong checksum."""
    report(f"downloading {url}")
    bar = _Bar(expected.filename) if sys.stderr.isatty() else None
    try:
        pooch.HTTPDownloader(progressbar=bar or False, timeout=TIMEOUT_S)(url, output_file, pup)
    finally:
        if bar is not None:
            bar.close()
    path = Path(output_file)
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise UnavailableError(
            f"{url} answered with a web page instead of data: a login, a consent or a quota page. Open it in a "
            f"browser to see what it asks for."
        )
    if expected.size not in (None, path.stat().st_size):
        raise UnavailableError(f"{url} gave {path.stat().st_size:,} bytes, but the recipe expects {expected.size:,}.")
    if expected.known_hash is not None:
        kind, digest = expected.known_hash.split(":")
        found = pooch.file_hash(output_file, alg=kind)
        if found != digest:
            raise UnavailableError(
                f"{url} gave a file with the {kind} {found}, but the recipe expects {digest}: the download is damaged "
                f"or the file has changed. It was not kept; try again later."
            )


def _unpack(archive: str, action: str, pup: Any, *, wanted: list[str]) -> str:
    """Unpack the wanted members beside a zip or tar archive; each appears there whole or not at all."""
    folder = Path(archive).parent
    members: list[str]
    unpacker: Any
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            members, unpacker = opened.namelist(), pooch.Unzip
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            members, unpacker = tar.getnames(), pooch.Untar
    else:
        return archive
    chosen = [member for member in members if member in wanted]
    if chosen and (action != "fetch" or not all((folder / member).is_file() for member in chosen)):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
            unpacker(members=chosen, extract_dir=scratch)(archive, "download", pup)
            for member in chosen:
                (folder / member).parent.mkdir(parents=True, exist_ok=True)
                (Path(scratch) / member).replace(folder / member)
    return archive


def _web_reason(error: requests.exceptions.RequestException, expected: Download) -> str:
    url = expected.url
    status = error.response.status_code if error.response is not None else None
    if status in (401, 403):
        return f"{url} refuses access ({status}): it wants a login or accepted terms."
    if status in (404, 410):
        return f"{url} is not there any more ({status})."
    if status is not None:
        return f"{url} answered with the error {status}; try again later."
    if isinstance(error, requests.exceptions.Timeout):
        return f"{url} did not answer within {TIMEOUT_S} s; try again later."
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"{url} broke off in the middle; try again later."
    return f"{url} cannot be reached: this machine is offline or the server is down."
