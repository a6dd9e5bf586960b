"""Find the pictures of items by path rules, in folders and archives, or fetch them one by one from the web."""

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Literal

from bench.data.features.picture_web import FAILURES_IN_A_ROW, PictureWeb, split_address
from bench.data.raw.rawfiles import RawFile, RawFiles
from bench.data.recipes.modalities import Pictures
from bench.errors import DataError

Report = Callable[[str], None]
Status = Literal["there", "gone", "again", "unusable"]

COVERAGE = "coverage.csv"
COLUMNS = ["id", "status", "url"]
STATUSES: dict[str, Status] = {"there": "there", "gone": "gone", "again": "again", "unusable": "unusable"}
THREADS = 4
SAVE_EVERY = 500


def find_pictures(files: RawFiles, rules: Sequence[str], ids: Sequence[str]) -> list[RawFile | None]:
    """Return the picture of each item, or None.

    A rule is a path with `{id}` for the item's id and `{id:3}` for its first three characters. The path may begin at
    the raw folder, in any folder below it, or in an archive; a leading folder of the rule may also be an archive of
    that name (`covers/{id}.jpg` as `12.jpg` in `covers.zip`). Where a rule finds an item's picture in several such
    places, the raw folder comes first, then the place with the most pictures.

    Args:
        files: the raw files.
        rules: in order; the first that finds an item's picture counts.
        ids: of the items; one that cannot be a file's name has no picture.

    Raises:
        DataError: an archive cannot be looked into.
    """
    names = files.names()
    found: dict[str, str] = {}
    for rule in rules:
        pending = [one for one in ids if one not in found and _is_plain(one)]
        found |= _by_rule(names, rule, pending)
    return [files.lookup(found[one]) if one in found else None for one in ids]


def _by_rule(names: Sequence[str], rule: str, ids: Sequence[str]) -> dict[str, str]:
    """Return id -> path for the ids that one rule finds, by one pass over the names per way to begin the path."""
    parts = rule.split("/")
    n_fixed = next(position for position, part in enumerate(parts) if "{" in part)
    places: dict[tuple[int, str], dict[str, str]] = {}
    for dropped in range(n_fixed + 1):
        wanted: dict[str, list[str]] = {}
        for one in ids:
            wanted.setdefault(_fill("/".join(parts[dropped:]), one), []).append(one)
        for name in names:
            head, tail = _cut(name, len(parts) - dropped)
            if tail in wanted and (not dropped or _is_archive_of(head, parts[dropped - 1])):
                # The raw folder itself, then places below it, then archives in the place of a folder.
                place = places.setdefault((dropped + bool(head), head), {})
                place.update(dict.fromkeys(wanted[tail], name))
    found: dict[str, str] = {}
    for _, paths in sorted(places.items(), key=lambda place: (place[0][0], -len(place[1]), place[0][1])):
        found = paths | found
    return found


def _fill(rule: str, one: str) -> str:
    return re.sub(r"\{id(?::(\d+))?\}", lambda match: one[: int(match[1])] if match[1] else one, rule)


def _cut(name: str, n_parts: int) -> tuple[str, str]:
    """Split a path before its last `n_parts` parts."""
    parts = name.rsplit("/", n_parts)
    return (parts[0], "/".join(parts[1:])) if len(parts) > n_parts else ("", name)


def _is_archive_of(head: str, folder: str) -> bool:
    return head.rsplit("/", 1)[-1].casefold().startswith(f"{folder.casefold()}.")


def _is_plain(one: str) -> bool:
    """Say whether an id can be the name of a file, and nothing but that."""
    return re.fullmatch(r"(?!\.)[^/\\:*?\"<>|\x00-\x1f]{1,200}", one) is not None


def fetch_pictures(
    pictures: Pictures, ids: Sequence[str], addresses: Sequence[str], folder: Path, report: Report
) -> None:
    """Fetch pictures one by one into `<folder>/<id>.jpg`, whatever their format, and keep a list of what came.

    An address is asked for at its own host, then with the same path at each of `pictures.hosts`. A picture is gone for
    good when a host says so and no other was too busy to answer; whatever else goes wrong is tried again by the next
    call, which asks neither for pictures that are there nor for those that are gone.

    `<folder>/coverage.csv` lists id, status and the address that gave the picture, or the item's own. The status is
    "there", "gone", "again", or "unusable" for an id or an address that can never work.

    Args:
        pictures: hosts, and the least time between two requests to one of them.
        ids: of the items.
        addresses: one per item.
        folder: where pictures go.
        report: gets a line after every 500 pictures and at the end.

    Raises:
        DataError: the folder cannot be written, or its coverage.csv is not one of ours.
    """
    web = PictureWeb(pictures.hosts, pictures.delay_s)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        coverage = _Coverage(folder)
        try:
            with closing(_fetch_all(web, coverage.to_ask(ids, addresses), folder)) as answers:
                for count, (one, status, url) in enumerate(answers, start=1):
                    coverage.rows[one] = (status, url)
                    if count % SAVE_EVERY == 0:
                        coverage.save()
                        report(coverage.line(ids))
        finally:
            coverage.save()
    except OSError as error:
        raise DataError(
            f"Pictures cannot be kept in {folder}: {error}. Those that are there stay. Check free space and "
            f"permissions, and try again."
        ) from error
    for host in web.given_up():
        report(f"pictures: {host} failed {FAILURES_IN_A_ROW} times in a row and was not asked any more")
    report(coverage.line(ids))


def _fetch_all(
    web: PictureWeb, asked: Iterable[tuple[str, str]], folder: Path
) -> Generator[tuple[str, Status, str], None, None]:
    """Yield (id, status, address) as answers come, a few items at once."""
    queue = iter(asked)
    pool = ThreadPoolExecutor(THREADS)
    running: set[Future[tuple[str, Status, str]]] = set()
    try:
        while True:
            # Few are handed over at a time, so that an interruption waits for these only.
            for one, address in islice(queue, 2 * THREADS - len(running)):
                running.add(pool.submit(_fetch_one, web, one, address, folder))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch_one(web: PictureWeb, one: str, address: str, folder: Path) -> tuple[str, Status, str]:
    answer = web.fetch(address)
    if isinstance(answer, str):
        return one, "gone" if answer == "gone" else "again", address
    content, url = answer
    partial = folder / f".{one}.jpg.part"
    partial.write_bytes(content)
    partial.replace(folder / f"{one}.jpg")
    return one, "there", url


class _Coverage:
    """What is known of each picture of a folder, by id; kept in its coverage.csv."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / COVERAGE
        self.rows: dict[str, tuple[Status, str]] = self._read() if self.path.is_file() else {}
        self._there: set[str] = set()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and entry.name.endswith(".jpg.part"):
                    (folder / entry.name).unlink()
                elif entry.name.endswith(".jpg") and entry.stat().st_size:
                    self._there.add(entry.name.removesuffix(".jpg"))

    def to_ask(self, ids: Sequence[str], addresses: Sequence[str]) -> list[tuple[str, str]]:
        """Return (id, address) of the pictures to ask for, and settle the others; of a repeated id the first counts."""
        asked: dict[str, str] = {}
        settled: dict[str, tuple[Status, str]] = {}
        for one, address in zip(ids, addresses, strict=True):
            known = self.rows.get(one, ("again", ""))
            if one in asked or one in settled:
                continue
            if one in self._there:
                settled[one] = known if known[0] == "there" else ("there", "")
            elif not _is_plain(one) or split_address(address) is None:
                settled[one] = ("unusable", address)
            elif known == ("gone", address):
                settled[one] = known
            else:
                asked[one] = address
        self.rows |= settled
        self.rows |= {one: ("again", address) for one, address in asked.items()}
        return list(asked.items())

    def save(self) -> None:
        partial = self.path.with_name(f".{COVERAGE}.part")
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows((one, *row) for one, row in sorted(self.rows.items()))
        partial.replace(self.path)

    def line(self, ids: Sequence[str]) -> str:
        """Say how many of the items' pictures are there."""
        counts = Counter(self.rows[one][0] for one in set(ids))
        line = f"pictures: {counts['there']:,} of {counts.total():,} there, {counts['gone']:,} gone"
        line += f", {counts['again']:,} to try again"
        return line + (f", {counts['unusable']:,} without a usable address" if counts["unusable"] else "")

    def _read(self) -> dict[str, tuple[Status, str]]:
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                header, *lines = csv.reader(file)
            if header != COLUMNS:
                raise ValueError(f"its first line is {','.join(header)}")
            return {one: (STATUSES[status], url) for one, status, url in lines}
        except (ValueError, KeyError, csv.Error) as error:
            raise DataError(
                f"{self.path} should list {', '.join(COLUMNS)} of pictures as this program writes them, but cannot be "
                f"read: {error}. Delete it; pictures that are there are not fetched again."
            ) from error
