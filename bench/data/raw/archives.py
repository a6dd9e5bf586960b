"""Look into zip and tar archives without unpacking them: members are listed and read in place, as streams.

Nothing is ever written, so a member cannot land outside a folder; what is no plain file with a path below the archive's
own top (links, devices, absolute paths, "..") is passed over. Reading stops where an archive expands beyond reason.
"""

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from bench.data.raw.unavailable import UnavailableError
from bench.data.raw.unpack import DAMAGE, damaged, joined, paired, stretch
from bench.errors import DataError

SUFFIX = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
UNPACKERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
UNREADABLE_METHODS = {9: "deflate64", 93: "zstandard", 98: "ppmd"}


@dataclass(frozen=True)
class Member:
    """A plain file in an archive.

    Attributes:
        path: inside the archive, with "/" between folders.
        size: bytes, unpacked.
        packed: bytes it is made from: its own in a zip, all of the archive's in a tar.
        start: where it begins in the unpacked tar.
        entry: of a zip's table of contents.
        obstacle: why it cannot be read here, and what helps; "" if it can.
    """

    path: str
    size: int
    packed: int
    start: int = 0
    entry: zipfile.ZipInfo | None = None
    obstacle: str = ""


class Archive(ABC):
    """An archive on disk, whole or split into numbered parts that follow one another.

    Attributes:
        parts: its files, in order.
        path: the first of them, which stands for the archive in messages.
    """

    def __init__(self, parts: tuple[Path, ...]) -> None:
        self.parts = parts
        self.path = parts[0]

    @cached_property
    def members(self) -> dict[str, Member]:
        """Path -> plain file.

        Raises:
            UnavailableError: the archive cannot be read to its end.
        """
        try:
            return {member.path: member for member in self._list()}
        except DAMAGE as error:
            raise UnavailableError(damaged(str(self.path), error)) from error
        except DataError as error:
            raise UnavailableError(str(error)) from error

    def open(self, member: Member) -> BinaryIO:
        """Open a member for reading, unpacked; seeking back unpacks again.

        Raises:
            DataError: it cannot be read; while reading: it is damaged, or expands beyond reason.
        """
        shown = f"{self.path}: {member.path}"
        if member.obstacle:
            raise DataError(f"{shown} {member.obstacle}")
        try:
            return self._open(member, shown)
        except DAMAGE as error:
            raise DataError(damaged(shown, error)) from error

    @abstractmethod
    def _list(self) -> Iterator[Member]: ...

    @abstractmethod
    def _open(self, member: Member, shown: str) -> BinaryIO: ...


class _ZipArchive(Archive):
    _handle: zipfile.ZipFile | None = None
    _owner = 0

    def _zip(self) -> zipfile.ZipFile:
        # Threads can share one handle, but a forked process would share the position in the file as well.
        if self._handle is None or self._owner != os.getpid():
            whole: Any = joined(self.parts) if len(self.parts) > 1 else self.path
            self._handle, self._owner = zipfile.ZipFile(whole), os.getpid()
        return self._handle

    def _list(self) -> Iterator[Member]:
        for entry in self._zip().infolist():
            path = _inside(entry.filename)
            is_link = stat.S_ISLNK(entry.external_attr >> 16)
            if path and not entry.is_dir() and not is_link:
                yield Member(path, entry.file_size, entry.compress_size, entry=entry, obstacle=_obstacle(entry))

    def _open(self, member: Member, shown: str) -> BinaryIO:
        inner = cast(BinaryIO, self._zip().open(cast(zipfile.ZipInfo, member.entry)))
        return stretch(inner, shown, member.packed, size=member.size)


class _TarArchive(Archive):
    def _list(self) -> Iterator[Member]:
        packed = sum(part.stat().st_size for part in self.parts)
        stream, is_packed = self._unpacked()
        with stream, stretch(stream, str(self.path), packed) as contents:
            # Only a tar that is not compressed can be skipped through; the others are read to their end, which checks
            # their checksum once and for all members.
            mode: Any = "r|" if is_packed else "r:"
            with tarfile.open(fileobj=contents, mode=mode, bufsize=1 << 20) as tar:
                for info in tar:
                    path = _inside(info.name)
                    if path and info.isreg():
                        obstacle = _by_hand("is stored with gaps left out (sparse)") if info.issparse() else ""
                        yield Member(path, info.size, packed, info.offset_data, obstacle=obstacle)
            while is_packed and contents.read(1 << 20):
                continue

    def _open(self, member: Member, shown: str) -> BinaryIO:
        stream, _ = self._unpacked()
        return stretch(stream, shown, member.packed, start=member.start, size=member.size)

    def _unpacked(self) -> tuple[BinaryIO, bool]:
        file = cast(BinaryIO, joined(self.parts))
        # By its first bytes: browsers unpack a .tar.gz now and then, and keep the name.
        head = file.read(6)
        file.seek(0)
        for magic, unpack in UNPACKERS.items():
            if head.startswith(magic):
                return paired(unpack(file), file), True
        return file, False


def is_archive(name: str) -> bool:
    """Say whether a file of this name is an archive that `open_archive` reads."""
    return SUFFIX.search(name) is not None


def open_archive(*parts: Path) -> Archive:
    """Return an archive; while its files stay as they are, the same one, so that it is listed once.

    Args:
        parts: the file, or the parts of a split archive in order; the name, less a number, says zip or tar.

    Raises:
        UnavailableError: a file is not there.
    """
    try:
        stamps = tuple((stats.st_size, stats.st_mtime_ns) for stats in (part.stat() for part in parts))
    except OSError as error:
        raise UnavailableError(f"{parts[0]} cannot be read: {error.strerror or error}.") from error
    return _archive(parts, stamps)


@lru_cache(maxsize=32)
def _archive(parts: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> Archive:
    is_zip = re.search(r"\.zip(\.[0-9]+)?$", parts[0].name, re.IGNORECASE)
    return _ZipArchive(parts) if is_zip else _TarArchive(parts)


def _inside(name: str) -> str:
    """Return the path of a member in plain form; "" if it is hidden or would lead out of the archive."""
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    is_absolute = path.startswith("/") or re.match("[A-Za-z]:", path)
    # ".." starts with a dot as hidden names do.
    is_hidden_or_up = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return "" if is_absolute or is_hidden_or_up else "/".join(parts)


def _obstacle(entry: zipfile.ZipInfo) -> str:
    if entry.flag_bits & 0x1:
        return _by_hand("is locked with a password")
    if entry.compress_type not in ZIP_METHODS:
        method = UNREADABLE_METHODS.get(entry.compress_type, f"number {entry.compress_type}")
        return _by_hand(f"is packed by a method that Python cannot read ({method})")
    return ""


def _by_hand(why: str) -> str:
    return f"{why}. Unpack it by hand, put the file beside the archive and remove the archive."
