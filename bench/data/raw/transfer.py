"""Bring one file over HTTP; what has come is kept and continued, and never taken for the whole."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError

from bench.data.raw import http_session
from bench.data.raw.checksums import checksum_of
from bench.data.raw.http_session import Report, TransferError, ask, status_words
from bench.data.raw.transfer_progress import TransferProgress, in_bytes
from bench.data.recipes.sources import Download

# What is lost when a transfer breaks off in the middle of one.
CHUNK_BYTES = 1 << 16
# A transfer that gains this much between two breaks is slow, not hopeless.
PROGRESS_BYTES = 1 << 20


class _BrokenOffError(Exception):
    """The body ended before its end."""


def transfer(session: requests.Session, url: str, part: Path, expected: Download, report: Report) -> bool:
    """Bring the whole of `url` into the file `part`, continuing what an earlier call left there.

    Beside `part` lies `<part>.json`, which says where its bytes come from. They are continued only if the server still
    vouches for the same file (ETag or Last-Modified), or if `expected` has a checksum to find a bad seam by.

    Args:
        session: from `open_session`.
        url: the address.
        part: where the bytes go; the caller checks and renames it.
        expected: what the recipe knows about the file.
        report: called with a line per request, and now and then in between.

    Returns:
        Whether the file may have been put together from several answers.

    Raises:
        TransferError: it cannot be had; what came so far stays in `part`.
        OSError: `part` cannot be written.
    """
    with TransferProgress(expected.filename, report) as progress:
        moving = _Transfer(session, url, part, expected, progress, report)
        failures, furthest = 0, _size(part)
        while not moving.is_whole:
            try:
                moving.attempt()
            except _BrokenOffError as error:
                have = _size(part)
                failures = 1 if have - furthest >= PROGRESS_BYTES else failures + 1
                furthest = max(furthest, have)
                if failures >= http_session.ATTEMPTS:
                    raise TransferError(
                        f"{url} broke off in the middle, {failures} times with little to show; try again later: the "
                        f"{in_bytes(have)} that came are kept and continued where the server allows it."
                    ) from error
                report(f"{url} broke off after {in_bytes(have)}; trying again")
                time.sleep(http_session.BACKOFF_S * 2 ** (failures - 1))
        return moving.is_stitched


def discard(part: Path) -> None:
    """Remove a partial file and what is known about it."""
    part.unlink(missing_ok=True)
    forget_origin(part)


def forget_origin(part: Path) -> None:
    """Remove only what is known about a partial file, after it has been renamed to what it is."""
    _origin_file(part).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Origin:
    """Where the bytes of a partial file come from."""

    url: str
    etag: str | None
    last_modified: str | None
    size: int | None

    @property
    def validator(self) -> str | None:
        """What `If-Range` may name; a weak ETag does not promise the same bytes."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.last_modified


class _Transfer:
    """One file on its way."""

    def __init__(
        self,
        session: requests.Session,
        url: str,
        part: Path,
        expected: Download,
        progress: TransferProgress,
        report: Report,
    ) -> None:
        self._session, self._url, self._part = session, url, part
        self._progress, self._report = progress, report
        self._has_checksum = checksum_of(expected)[1] is not None
        self._can_be_checked = self._has_checksum or expected.size is not None
        origin = _load_origin(part)
        self.is_whole = origin is not None and self._offset(origin) > 0 and origin.size == _size(part)
        self.is_stitched = self.is_whole

    def attempt(self) -> None:
        """Ask once for what is lacking and write it."""
        origin = _load_origin(self._part)
        offset = self._offset(origin)
        with ask(self._session, self._url, _range_headers(offset, origin, self._url)) as answer:
            if origin is not None and offset and answer.status_code in (206, 416):
                if self._gave_all(answer, offset, origin):
                    self.is_whole = self.is_stitched = True
                    return
                if not self._continues(answer, offset, origin):
                    discard(self._part)
                    self._report(f"{self._url} does not continue what came before; starting over")
                    return
            elif answer.status_code == 200:
                offset = 0
            else:
                raise TransferError(status_words(self._url, answer))
            self._write(answer, offset)

    def _write(self, answer: requests.Response, offset: int) -> None:
        total = _total(answer, offset)
        if total is None and not answer.raw.chunked and not self._can_be_checked:
            raise TransferError(
                f"{self._url} does not say how large it is, so that a part could not be told from the whole; add its "
                f"size or sha256 to the recipe."
            )
        shown = "" if total is None else f" ({in_bytes(total)})"
        self._report(f"{f'continuing after {in_bytes(offset)}:' if offset else 'downloading'} {self._url}{shown}")
        self._progress.begin(offset, total)
        self.is_stitched = offset > 0
        with self._part.open("ab" if offset else "wb") as file:
            if not offset:
                # Only now that the old bytes are gone: a kill in between must not leave them under a new origin.
                headers = answer.headers
                _save_origin(self._part, _Origin(self._url, headers.get("ETag"), headers.get("Last-Modified"), total))
            for chunk in _chunks(answer):
                file.write(chunk)
                self._progress.advance(len(chunk))
        if total is not None and _size(self._part) != total:
            raise _BrokenOffError
        self.is_whole = True

    def _offset(self, origin: _Origin | None) -> int:
        """Return how many bytes of the partial file can be built upon."""
        if origin is None:
            return 0
        is_vouched_for = origin.url == self._url and origin.validator is not None
        return _size(self._part) if is_vouched_for or self._has_checksum else 0

    def _gave_all(self, answer: requests.Response, offset: int, origin: _Origin) -> bool:
        """Say whether a server that has no more bytes to give (416) means that all of them are here."""
        if answer.status_code != 416 or answer.headers.get("Content-Range") != f"bytes */{offset}":
            return False
        return self._has_checksum or (origin.size in (None, offset) and self._is_same(answer, origin) is True)

    def _continues(self, answer: requests.Response, offset: int, origin: _Origin) -> bool:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if answer.status_code != 206 or span is None or int(span[1]) != offset:
            return False
        has_size = span[2] == "*" or origin.size is None or int(span[2]) == origin.size
        return has_size and self._is_same(answer, origin) is not False

    def _is_same(self, answer: requests.Response, origin: _Origin) -> bool | None:
        """Compare the version of the file in an answer with the one begun; None where nothing can be compared."""
        if origin.url != self._url:
            return None
        for name, before in (("ETag", origin.etag), ("Last-Modified", origin.last_modified)):
            now = answer.headers.get(name)
            if before is not None and now is not None:
                return before == now
        return None


def _range_headers(offset: int, origin: _Origin | None, url: str) -> dict[str, str]:
    if origin is None or not offset:
        return {}
    headers = {"Range": f"bytes={offset}-"}
    if origin.url == url and origin.validator is not None:
        headers["If-Range"] = origin.validator
    return headers


def _total(answer: requests.Response, offset: int) -> int | None:
    """Return the size of the whole file, if the answer tells."""
    whole = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
    if whole is not None:
        return int(whole[1])
    length = answer.headers.get("Content-Length", "")
    return offset + int(length) if length.isdecimal() and not answer.raw.chunked else None


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    try:
        yield from answer.raw.stream(CHUNK_BYTES, decode_content=False)
    except HTTPError as error:
        raise _BrokenOffError from error


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _origin_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _load_origin(part: Path) -> _Origin | None:
    """Return where the bytes of `part` come from; None if that is not known, so that they are of no use."""
    try:
        known = json.loads(_origin_file(part).read_text(encoding="utf-8"))
        return _Origin(**known)
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError, TypeError):
        return None


def _save_origin(part: Path, origin: _Origin) -> None:
    _origin_file(part).write_text(json.dumps(asdict(origin), indent=1) + "\n", encoding="utf-8")
