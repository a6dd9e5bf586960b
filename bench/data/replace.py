"""Replace a folder as a whole: readers find the old one or the new one, never a half-written one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.errors import DataError


def replace_folder(folder: Path, fill: Callable[[Path], None], *, marker: str) -> None:
    """Fill a new folder beside `folder`, force it to disk, and rename it into place.

    An older folder is renamed aside first and removed last. If a step fails, or the program is killed, the older folder
    is back in place: at once, or by `clean_partials` at the next call.

    Args:
        folder: the folder to replace or create.
        fill: writes the content into the empty folder it is given.
        marker: a file that every such folder holds; without it, `folder` is somebody's own and stays untouched.

    Raises:
        DataError: the folder cannot be written, or is not one of ours.
    """
    if folder.exists() and not (folder / marker).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} exists, but has no {marker}, so it was not written by this program and will not be replaced. "
            f"Move it away, or choose another place."
        )
    partial = _beside(folder, "partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clean_partials(folder)
        partial.mkdir()
        fill(partial)
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        _swap(partial, folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error}. Nothing half-written is in its place: it is as before, or complete. "
            f"Check free space and permissions, and try again."
        ) from error
    finally:
        # What a failure leaves is of no use; what cannot be removed now is removed by the next call.
        shutil.rmtree(partial, ignore_errors=True)


def clean_partials(folder: Path) -> None:
    """Remove what interrupted writes left beside `folder`, and restore it if one was caught in mid-swap.

    What belongs to another process that is still running is left alone.
    """
    if not folder.parent.is_dir():
        return
    leftovers = [path for path in folder.parent.iterdir() if _is_leftover(path, folder)]
    aside = [path for path in leftovers if path.name.startswith(f".{folder.name}.old-")]
    if aside and not folder.exists():
        newest = max(aside, key=lambda path: path.stat().st_mtime)
        newest.replace(folder)
        leftovers.remove(newest)
    for path in leftovers:
        shutil.rmtree(path)


def _swap(partial: Path, folder: Path) -> None:
    """Rename `partial` to `folder`; what `folder` was before is put back if that fails, else removed."""
    aside = _beside(folder, "old")
    replaced = folder.exists()
    if replaced:
        folder.replace(aside)
    try:
        partial.replace(folder)
    except BaseException:
        if replaced and not folder.exists():
            aside.replace(folder)
        raise
    _sync(folder.parent)
    if replaced:
        # The new folder is in place: a file that cannot be removed now is removed by the next call.
        shutil.rmtree(aside, ignore_errors=True)


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}-{os.getpid()}")


def _is_leftover(path: Path, folder: Path) -> bool:
    for kind in ("partial", "old"):
        prefix = f".{folder.name}.{kind}-"
        pid = path.name.removeprefix(prefix)
        if path.name.startswith(prefix) and pid.isdecimal():
            return int(pid) == os.getpid() or not psutil.pid_exists(int(pid))
    return False


def _sync(path: Path) -> None:
    """Force a file or the names in a folder to disk."""
    if path.is_dir() and os.name == "nt":  # Windows keeps no handle on folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
