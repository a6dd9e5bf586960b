"""Is a file what the recipe says it is? Its content, its size and its checksum, whatever its line ends."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from bench.data.recipes.sources import Download

LineEnds = Literal["lf", "crlf"]
CHUNK_BYTES = 1 << 20
_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)


def wrong_with(path: Path, expected: Download) -> str | None:
    """Say what is wrong with the file at `path`, or nothing if it is the expected one.

    Returns:
        What was found and what the recipe expects, to be put after "gave" or "holds"; None if nothing speaks against
        the file: its checksum is right, or else its size, or else it is at least no web page.
    """
    if is_web_page(path) and not expected.filename.lower().endswith((".html", ".htm")):
        return "a web page instead of data"
    algorithm, checksum = checksum_of(expected)
    if expected.line_ends is None:
        size = path.stat().st_size
        if expected.size not in (None, size):
            return _other_size(size, expected)
        if checksum is None:
            return None
    found, size = digest(path, algorithm, expected.line_ends)
    if expected.size not in (None, size):
        return _other_size(size, expected)
    if checksum not in (None, found):
        return f"content with the {algorithm} {found}, but the recipe expects {checksum}"
    return None


def checksum_of(expected: Download) -> tuple[str, str | None]:
    """Return the algorithm to check with, and the checksum if the recipe knows one."""
    if expected.sha256 is None and expected.md5 is not None:
        return "md5", expected.md5
    return "sha256", expected.sha256


def digest(path: Path, algorithm: str, line_ends: LineEnds | None = None) -> tuple[str, int]:
    """Return the checksum (hexadecimal) and the size in bytes of a file, read in pieces.

    Args:
        path: the file; it stays as it is.
        algorithm: "sha256" or "md5".
        line_ends: take every line end, LF or CRLF, for this one; None: the bytes as they are.
    """
    state, size = hashlib.new(algorithm, usedforsecurity=False), 0
    with path.open("rb") as file:
        for chunk in _pieces(file) if line_ends is None else _with_line_ends(file, line_ends):
            state.update(chunk)
            size += len(chunk)
    return state.hexdigest(), size


def is_web_page(path: Path) -> bool:
    """Say whether a file starts like HTML, as login, consent and quota pages do."""
    with path.open("rb") as file:
        return _PAGE.match(file.read(2048)) is not None


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _with_line_ends(file: BinaryIO, line_ends: LineEnds) -> Iterator[bytes]:
    carried = b""
    for chunk in _pieces(file):
        whole = carried + chunk
        # A CR at the end of a piece may be the first half of a CRLF.
        carried = b"\r" if whole.endswith(b"\r") else b""
        lines = whole[: len(whole) - len(carried)].replace(b"\r\n", b"\n")
        yield lines if line_ends == "lf" else lines.replace(b"\n", b"\r\n")
    yield carried


def _other_size(size: int, expected: Download) -> str:
    return f"{size:,} bytes, but the recipe expects {expected.size:,}"
