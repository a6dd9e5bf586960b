"""Find the raw files of a recipe: in an installed package, on the web, in a folder, or by generating them."""

import importlib.util
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import requests.exceptions

from bench.data.recipe import FileFeature, Recipe
from bench.data.sources import AnySource, Download, GeneratedSource, HttpSource, LocalSource, PackageSource
from bench.data.toy import planted
from bench.errors import DataError, unknown_name
from bench.workspace import Workspace

Report = Callable[[str], None]
TIMEOUT_S = 60


class UnavailableError(Exception):
    """A source cannot give the files now; the message says why and what would help."""


@dataclass(frozen=True)
class Located:
    """A source whose files are all there.

    Attributes:
        source: the one that was chosen.
        folder: holds the files that the recipe names.
    """

    source: AnySource
    folder: Path


def locate(recipe: Recipe, workspace: Workspace, *, source: str | None, report: Report) -> Located:
    """Return the first source of the recipe that is available, or the one named `source`.

    Raises:
        UsageError: the recipe has no source of that name.
        DataError: no source is available; the message says why, for each.
    """
    candidates = [each for each in recipe.sources if source in (None, each.name)]
    if not candidates:
        raise unknown_name(f"source of {recipe.name}", str(source), [each.name for each in recipe.sources])
    reasons = []
    for candidate in candidates:
        try:
            folder = _folder(candidate, recipe, workspace, report)
            _check_files(folder, candidate, recipe)
        except UnavailableError as reason:
            reasons.append(f"source '{candidate.name}': {reason}")
            report(f"{reasons[-1]}")
        else:
            report(f"source '{candidate.name}': {folder}")
            return Located(candidate, folder)
    raise DataError(f"The raw files of {recipe.name} are not available.\n  " + "\n  ".join(reasons))


def needed_files(source: AnySource, recipe: Recipe) -> list[str]:
    """Return the files of a source that the recipe reads, without repetition."""
    tables = [source.interactions, *([source.items] if source.items else [])]
    matrices = [feature.file for feature in recipe.features.values() if isinstance(feature, FileFeature)]
    return list(dict.fromkeys([*(table.file for table in tables), *matrices]))


def _folder(source: AnySource, recipe: Recipe, workspace: Workspace, report: Report) -> Path:
    match source:
        case PackageSource():
            return _package_folder(source)
        case LocalSource():
            return _local_folder(source, recipe)
        case HttpSource():
            return _download(source, recipe, workspace.raw(recipe.name), report)
        case GeneratedSource():
            return _generate(source, recipe, workspace.raw(recipe.name))


def _check_files(folder: Path, source: AnySource, recipe: Recipe) -> None:
    missing = [file for file in needed_files(source, recipe) if not (folder / file).is_file()]
    if missing:
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        shown = ", ".join(found[:10]) + (f" and {len(found) - 10:,} more" if len(found) > 10 else "")
        raise UnavailableError(f"{folder} lacks {', '.join(missing)}. It holds {shown or 'no files'}.")


def _package_folder(source: PackageSource) -> Path:
    # find_spec only looks a top-level package up: nothing of it runs, and a broken or slow import does not matter.
    spec = importlib.util.find_spec(source.package)
    if spec is None:
        raise UnavailableError(f"the Python package {source.package} is not installed (pip install {source.package}).")
    for location in spec.submodule_search_locations or []:
        folder = Path(location) / source.folder
        if folder.is_dir():
            return folder
    raise UnavailableError(
        f"the installed package {source.package} has no folder {source.folder}; its version may differ."
    )


def _local_folder(source: LocalSource, recipe: Recipe) -> Path:
    folder = recipe.path.parent / Path(source.folder).expanduser()
    if not folder.is_dir():
        raise UnavailableError(
            f"there is no folder {folder.resolve()}. Put {', '.join(needed_files(source, recipe))} there, or change "
            f"'folder' in {recipe.path}."
        )
    return folder


def _generate(source: GeneratedSource, recipe: Recipe, folder: Path) -> Path:
    """Write the generated tables and matrices; made anew each time, so that they follow the parameters."""
    try:
        data = planted(**source.params)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(f"{recipe.path}: the generator '{source.generator}' refuses its params: {error}.") from error
    folder.mkdir(parents=True, exist_ok=True)
    data.interactions.to_csv(folder / "interactions.csv", index=False)
    data.items.to_csv(folder / "items.csv", index=False)
    for modality, matrix in data.features.items():
        np.save(folder / f"{modality}.npy", matrix, allow_pickle=False)
    return folder


def _download(source: HttpSource, recipe: Recipe, folder: Path, report: Report) -> Path:
    """Fetch what is not there yet; a file that fails its checksum is never kept."""
    folder.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")
    wanted = needed_files(source, recipe)
    for download in source.downloads:
        target = folder / download.filename
        if not target.is_file():
            report(f"source '{source.name}': downloading {download.url}")
        try:
            pooch.retrieve(
                download.url,
                known_hash=download.known_hash,
                fname=download.filename,
                path=folder,
                downloader=partial(_get, size=download.size),
                processor=partial(_unpack, wanted=wanted),
            )
        except requests.exceptions.RequestException as error:
            raise UnavailableError(_web_reason(error, download, target)) from error
        except (zipfile.BadZipFile, tarfile.TarError) as error:
            raise UnavailableError(f"{target} is a damaged archive ({error}). Delete it and try again.") from error
        except ValueError as error:
            raise UnavailableError(
                f"what came from {download.url} does not have the checksum {download.known_hash}: the download is "
                f"damaged or the file has changed. Nothing was kept; try again later."
            ) from error
        if download.known_hash is None:
            digest = pooch.file_hash(str(target))
            report(f"source '{source.name}': {target} has no checksum in the recipe; sha256 = \"{digest}\"")
    return folder


def _get(url: str, output_file: str, pup: Any, *, size: int | None) -> None:
    """Download to `output_file`, and refuse a web page or a wrong size before the checksum is looked at."""
    pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT_S)(url, output_file, pup)
    path = Path(output_file)
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise UnavailableError(
            f"{url} answered with a web page instead of data: a login, a consent or a quota page. Open it in a "
            f"browser to see what it asks for."
        )
    if size is not None and path.stat().st_size != size:
        raise UnavailableError(f"{url} gave {path.stat().st_size:,} bytes, but the recipe expects {size:,}.")


def _unpack(archive: str, action: str, pup: Any, *, wanted: list[str]) -> str:
    """Unpack the wanted files beside a zip or tar archive; each appears there whole or not at all."""
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


def _web_reason(error: requests.exceptions.RequestException, download: Download, target: Path) -> str:
    by_hand = f"If you have the file, put it at {target}."
    status = error.response.status_code if error.response is not None else None
    if status in (401, 403):
        return f"{download.url} refuses access ({status}): it wants a login or accepted terms. {by_hand}"
    if status in (404, 410):
        return f"{download.url} is not there any more ({status}). {by_hand}"
    if status is not None:
        return f"{download.url} answered with the error {status}; try again later. {by_hand}"
    if isinstance(error, requests.exceptions.Timeout):
        return f"{download.url} did not answer within {TIMEOUT_S} s; try again later. {by_hand}"
    return f"{download.url} cannot be reached: this machine is offline or the server is down. {by_hand}"
