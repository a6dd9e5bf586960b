"""Fetch the files of a web source: each is checked before it gets its name, and fetched only if it is not there yet."""

import os
import re
from pathlib import Path

import requests

from bench.data.raw.checksums import checksum_of, digest, wrong_with
from bench.data.raw.http_session import Report, TransferError, open_session
from bench.data.raw.transfer import discard, forget_origin, transfer
from bench.data.raw.unavailable import UnavailableError
from bench.data.recipes.sources import Download, HttpSource
from bench.errors import UsageError


def download(source: HttpSource, folder: Path, report: Report, *, base: str | None = None) -> None:
    """Bring every file of a web source into `folder`; archives stay packed.

    A file that is there already is kept if its checksum is right, or else its size, or else if it is at least no web
    page. Any other is fetched anew and replaced only by a good one. Bytes on their way lie in `<name>.part`; the next
    call continues them.

    Args:
        source: the source. A relative url continues `base`, or else the source's own base, or else its mirrors in turn.
        folder: where the files go; made if need be.
        report: called with a line for everything worth knowing.
        base: address to fetch from in place of all others (`--url`). Absolute urls stay as they are, unless the source
            has no base: then `base` replaces everything before the last part of their path.

    Raises:
        UnavailableError: a file cannot be had or kept, from any address; nothing half-fetched got its name.
        UsageError: `base` is no web address.
    """
    if base is not None and not re.match(r"https?://[^/\s]", base):
        raise UsageError(f"--url expects a web address starting with http:// or https://, found '{base}'.")
    with open_session(report) as session:
        for expected in source.downloads:
            target = folder / expected.filename
            try:
                if not _is_there(target, expected, report):
                    folder.mkdir(parents=True, exist_ok=True)
                    _bring(session, _addresses(expected, source, base), target, expected, report)
            except OSError as error:
                raise UnavailableError(
                    f"{target} cannot be written or read: {error.strerror or error}. Check free space and permissions; "
                    f"what came so far is kept and continued."
                ) from error


def by_hand(target: Path) -> str:
    """Say where a file that cannot be fetched may be put by hand."""
    return f"If you have the file, put it at {target}, or use --from DIR."


def _addresses(expected: Download, source: HttpSource, base: str | None) -> list[str]:
    own = [source.base] if source.base else []
    bases = [base if base.endswith("/") else base + "/"] if base else [*own, *source.mirrors]
    if not expected.is_absolute:
        return [each + expected.url for each in bases]
    if source.base is not None:
        return [expected.url]
    moved = [each + re.sub(r"^[^?#]*/", "", expected.url) for each in bases]
    return moved if base else [expected.url, *moved]


def _is_there(target: Path, expected: Download, report: Report) -> bool:
    if not target.is_file():
        return False
    finding = wrong_with(target, expected)
    if finding is not None:
        report(f"{target} holds {finding}; fetching it anew")
    return finding is None


def _bring(session: requests.Session, urls: list[str], target: Path, expected: Download, report: Report) -> None:
    reasons: list[str] = []
    for url in urls:
        try:
            _fetch(session, url, target, expected, report)
        except TransferError as error:
            reasons.append(str(error))
            if url != urls[-1]:
                report(f"{error} Trying the next address.")
        else:
            return
    raise UnavailableError(" ".join([*reasons, by_hand(target)]))


def _fetch(session: requests.Session, url: str, target: Path, expected: Download, report: Report) -> None:
    """Fetch one file from one address, check it and give it its name."""
    part = target.with_name(target.name + ".part")
    is_stitched = transfer(session, url, part, expected, report)
    finding = wrong_with(part, expected)
    if finding is not None and is_stitched:
        report(f"{url}: the pieces make {finding}; starting over")
        discard(part)
        transfer(session, url, part, expected, report)
        finding = wrong_with(part, expected)
    if finding is not None:
        discard(part)
        raise TransferError(f"{url} gave {finding}{_what_now(finding)}")
    _sync(part)
    part.replace(target)
    forget_origin(part)
    if os.name != "nt":  # Windows keeps no handle on folders
        _sync(target.parent)
    algorithm, checksum = checksum_of(expected)
    if checksum is None:
        found, _ = digest(target, algorithm, expected.line_ends)
        report(f'{target} has no checksum in the recipe; add {algorithm} = "{found}"')


def _what_now(finding: str) -> str:
    if finding.startswith("a web page"):
        return ": a login, a consent or a quota page. Open it in a browser to see what it asks for."
    return ": the download is damaged or the file has changed. It was not kept; try again later."


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
