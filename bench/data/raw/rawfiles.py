"""The raw files of one source: a folder in which a file may lie deeper than the recipe says, or packed.

A name is matched from strict to loose, and the first way that finds something decides:

1. the path itself, then in other case, then with ".gz" added or taken off;
2. as the end of a longer path, in any case, then the name of the file alone, then that with ".gz" as before;
3. the same ways among the members of all zip and tar archives, by their paths inside.

Two files found in one and the same way are an error: which one is meant is for the user to say.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from bench.data.raw.archives import Archive, is_archive, open_archive
from bench.data.raw.unavailable import UnavailableError
from bench.data.raw.unpack import damaged, gunzip
from bench.errors import DataError

SHOWN = 10
PART = re.compile(r"(?P<whole>.*)\.(?P<number>[0-9]{2,3})")
LEFTOVERS = (".part", ".part.json")


@dataclass(frozen=True)
class RawFile:
    """A file to read, on disk or in an archive.

    Attributes:
        name: as it was asked for.
        path: the file on disk, or the archive (of a split one, its first part).
        member: path inside the archive.
        shown: how messages call it.
        archive: the opened archive; unset: opened when needed.
    """

    name: str
    path: Path
    member: str | None
    shown: str
    archive: Archive | None = field(default=None, repr=False, compare=False)

    def open(self) -> BinaryIO:
        """Open for reading in binary form, without the gzip packing of names that end in ".gz".

        Raises:
            DataError: it cannot be read; while reading: it is damaged, or expands beyond reason.
        """
        stream, size = self._open_plain() if self.member is None else self._open_member(self.member)
        last = self.member or self.path.name
        return gunzip(stream, size, self.shown) if last.lower().endswith(".gz") else stream

    def read_bytes(self) -> bytes:
        """Return the whole content.

        Raises:
            DataError: as for `open`.
        """
        with self.open() as stream:
            return stream.read()

    def _open_plain(self) -> tuple[BinaryIO, int]:
        try:
            return self.path.open("rb"), self.path.stat().st_size
        except OSError as error:
            raise DataError(damaged(self.shown, error)) from error

    def _open_member(self, path: str) -> tuple[BinaryIO, int]:
        try:
            archive = self.archive or open_archive(self.path)
            member = archive.members[path]
        except UnavailableError as reason:
            raise DataError(str(reason)) from reason
        return archive.open(member), member.size


@dataclass(frozen=True)
class _Place:
    """Where a file lies: `file` relative to the folder; `inside` is that, or the path inside the archive `file`."""

    file: str
    inside: str
    archive: Archive | None = None

    @property
    def whole(self) -> str:
        return f"{self.file}/{self.inside}" if self.archive else self.file


class RawFiles:
    """The files in a folder, and those in its archives; it is looked through once, when first needed.

    Attributes:
        folder: whose files these are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> RawFile:
        """Return the file that a recipe calls `name`.

        Raises:
            UnavailableError: there is none, or more than one that could be meant; the message says what is there.
        """
        place = self._search(name)
        if place is None:
            raise UnavailableError(self.lacks([name]))
        found = self._file(name, place)
        obstacle = place.archive.members[place.inside].obstacle if place.archive else ""
        if obstacle:
            raise UnavailableError(f"{found.shown} {obstacle}")
        return found

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that are not there.

        Raises:
            UnavailableError: there is more than one file that one of the names could mean.
        """
        return [name for name in names if self._search(name) is None]

    def lacks(self, names: Iterable[str]) -> str:
        """Say in words that `names` are missing, what is there instead, and which archives could not be looked into."""
        found = sorted(place.whole for place in [*self._on_disk, *self._packed[0]])
        shown = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else "")
        return " ".join([f"{self.folder} lacks {', '.join(names)}. It holds {shown or 'no files'}.", *self._packed[1]])

    def names(self) -> list[str]:
        """Return the paths of all files, and of archives' members as `archive.zip/path/inside`, in order.

        Raises:
            DataError: an archive cannot be looked into.
        """
        return list(self._by_whole)

    def lookup(self, path: str) -> RawFile | None:
        """Return the file at exactly this path, as in `names`, or None.

        Raises:
            DataError: an archive cannot be looked into.
        """
        place = self._by_whole.get(path)
        return self._file(path, place) if place else None

    def _file(self, name: str, place: _Place) -> RawFile:
        path = self.folder / place.file
        if place.archive is None:
            return RawFile(name, path, None, str(path))
        return RawFile(name, path, place.inside, f"{path}: {place.inside}", place.archive)

    def _search(self, name: str) -> _Place | None:
        # Most recipes name the very file: no need to look through a folder of many thousand pictures.
        if (self.folder / name).is_file():
            return _Place(name, name)
        for places in self._ways(name):
            if len(places) > 1:
                shown = " and ".join(self._file(name, place).shown for place in places[:SHOWN])
                raise UnavailableError(
                    f"more than one file could be {name}: {shown}. Keep the right one in {self.folder} and move the "
                    f"others out."
                )
            if places:
                return places[0]
        return None

    def _ways(self, name: str) -> Iterator[list[_Place]]:
        """Yield the files found in each way, from strict to loose; archives are opened only when the disk has none."""
        yield from _matches(name, self._disk_index)
        yield from _matches(name, self._packed_index)

    @cached_property
    def _on_disk(self) -> list[_Place]:
        return [_Place(path, path) for path in sorted(_walk(self.folder))]

    @cached_property
    def _disk_index(self) -> dict[str, list[_Place]]:
        return _by_last_part(self._on_disk)

    @cached_property
    def _packed_index(self) -> dict[str, list[_Place]]:
        return _by_last_part(self._packed[0])

    @cached_property
    def _packed(self) -> tuple[list[_Place], list[str]]:
        """Members of all archives, and what is wrong with those that cannot be looked into."""
        places, problems = [], []
        for parts in _archives([place.file for place in self._on_disk]):
            try:
                _refuse_gaps(self.folder, parts)
                archive = open_archive(*(self.folder / part for part in parts))
                places += [_Place(parts[0], path, archive) for path in archive.members]
            except UnavailableError as reason:
                problems.append(str(reason))
        return places, problems

    @cached_property
    def _by_whole(self) -> dict[str, _Place]:
        places, problems = self._packed
        if problems:
            raise DataError(" ".join(problems))
        return {place.whole: place for place in sorted([*self._on_disk, *places], key=lambda place: place.whole)}


def _by_last_part(places: Iterable[_Place]) -> dict[str, list[_Place]]:
    found: dict[str, list[_Place]] = {}
    for place in places:
        found.setdefault(_last_part(place.inside), []).append(place)
    return found


def _last_part(path: str) -> str:
    return path.rpartition("/")[2].casefold()


def _matches(name: str, by_last_part: dict[str, list[_Place]]) -> Iterator[list[_Place]]:
    folded = name.casefold()
    other = folded.removesuffix(".gz") if folded.endswith(".gz") else f"{folded}.gz"
    alike = by_last_part.get(_last_part(name), [])
    packed = by_last_part.get(_last_part(other), [])
    yield [place for place in alike if place.inside == name]
    yield [place for place in alike if place.inside.casefold() == folded]
    yield [place for place in packed if place.inside.casefold() == other]
    yield [place for place in alike if place.inside.casefold().endswith(f"/{folded}")]
    yield alike
    yield packed


def _walk(folder: Path) -> Iterator[str]:
    """Yield the files below a folder, through links to folders too, but not hidden ones or unfinished downloads."""
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        stats = Path(root).stat()
        is_new = (stats.st_dev, stats.st_ino) not in seen
        seen.add((stats.st_dev, stats.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if is_new else []
        prefix = "" if Path(root) == folder else Path(root).relative_to(folder).as_posix() + "/"
        for name in files if is_new else []:
            if not name.startswith(".") and not name.endswith(LEFTOVERS):
                yield prefix + name


def _archives(files: list[str]) -> list[list[str]]:
    """Return the archives among `files`; the parts of a split one together, in order, unless it is there as a whole."""
    there = set(files)
    whole = [[file] for file in files if is_archive(file)]
    split: dict[str, list[str]] = {}
    for file in files:
        match = PART.fullmatch(file)
        if match and is_archive(match["whole"]) and match["whole"] not in there:
            split.setdefault(match["whole"], []).append(file)
    return whole + [sorted(parts, key=_number) for parts in split.values()]


def _number(part: str) -> int:
    return int(part.rpartition(".")[2])


def _refuse_gaps(folder: Path, parts: list[str]) -> None:
    numbers = [_number(part) for part in parts] if PART.fullmatch(parts[0]) else []
    lost = sorted(set(range(1, max(numbers, default=0))) - set(numbers))
    if lost:
        width = len(parts[0].rpartition(".")[2])
        names = ", ".join(f".{number:0{width}}" for number in lost)
        raise UnavailableError(f"The split archive {folder / parts[0]} lacks its part {names}. Fetch that as well.")
