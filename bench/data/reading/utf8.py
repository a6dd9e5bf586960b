"""The bytes of a raw text file as UTF-8, and refusals of files that are no text at all."""

import codecs
import io
import re
from functools import partial
from typing import Any

from bench.data.raw.rawfiles import RawFile, RawFiles
from bench.data.raw.unavailable import UnavailableError
from bench.data.recipes.tables import Table
from bench.errors import DataError

HEAD_BYTES = 4096
MAX_LINE_BYTES = 16 << 20
WORKBOOK = "an Excel workbook, not text: open it and save it as CSV"
# What files that are no text start with (or, last, hold near their start).
SIGNATURES = {
    re.compile(rb"PK\x03\x04.*(\[Content_Types\]\.xml|xl/)", re.DOTALL): WORKBOOK,
    re.compile(rb"\xd0\xcf\x11\xe0"): WORKBOOK,
    re.compile(rb"PK\x03\x04"): "a zip archive without a name that says so: rename it to end in .zip",
    re.compile(rb"\x1f\x8b"): "packed by gzip without a name that says so: rename it to end in .gz",
    re.compile(rb"PAR1"): "a Parquet file, not text: rename it to end in .parquet, here and in the recipe",
    re.compile(rb"version https://git-lfs"): "a Git LFS pointer, not the file itself: fetch it by 'git lfs pull'",
    re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE): (
        "a web page, not the file itself, as servers send for a login, a quota or a file they lack: delete it, and "
        "fetch it again by hand"
    ),
}


def found(files: RawFiles, name: str) -> RawFile:
    """Find the file `name`, which the chosen source was checked to have.

    Raises:
        DataError: it is not there any more.
    """
    try:
        return files.find(name)
    except UnavailableError as error:
        raise DataError(str(error)) from error


class Utf8Stream(io.RawIOBase):
    """The bytes of a text file, as UTF-8 without a byte order mark.

    Bytes of a UTF-8 file are passed on as they are, so that whoever reads them checks them, unless what is no UTF-8 is
    to be replaced. `n_quotes` counts the double quotes that were read.

    Raises:
        DataError: the file cannot be read, is no text, or is not of its encoding.
    """

    def __init__(self, file: RawFile, table: Table) -> None:
        super().__init__()
        self._file, self._table = file, table
        self._decoder = _decoder(table, file.shown)
        self.n_quotes = 0
        self._raw = file.open()
        try:
            self._pending = self._start()
        except BaseException:
            self._raw.close()
            raise

    def _start(self) -> bytes:
        head = self._read_raw(HEAD_BYTES)
        for signature, meaning in SIGNATURES.items():
            if signature.match(head):
                raise DataError(f"{self._file.shown} is {meaning}.")
        return self._as_utf8(head).removeprefix(codecs.BOM_UTF8)

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._raw.close()
        super().close()

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer only at the end of the file; all that is left if `size` is negative."""
        parts, have = [self._pending], len(self._pending)
        while (size < 0 or have < size) and (block := self._fetch(size - have if size > 0 else HEAD_BYTES)):
            parts.append(block)
            have += len(block)
        data = b"".join(parts) if parts[0] else b"".join(parts[1:])
        cut = len(data) if size < 0 else size
        data, self._pending = data[:cut], data[cut:]
        self.n_quotes += data.count(b'"')
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, only at the end of the file less than whole."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def take_line(self, ends: "re.Pattern[bytes]") -> bytes:
        """Return the next line with its end, which matches `ends`; nothing at the end of the file."""
        searched = 0
        while True:
            # A line end of two bytes may be cut in two, so one byte more than the end must be there.
            end = ends.search(self._pending, searched)
            if end and end.end() < len(self._pending):
                break
            searched = end.start() if end else len(self._pending)
            block = self._fetch(1 << 16)
            if not block:
                return self._take(len(self._pending))
            self._pending += block
            if len(self._pending) > MAX_LINE_BYTES:
                raise DataError(
                    f"{self._file.shown} is no text: a line of it is longer than {MAX_LINE_BYTES >> 20} MiB."
                )
        return self._take(end.end())

    def give_back(self, line: bytes) -> None:
        """Put a line that was taken back to where it was."""
        self._pending = line + self._pending

    def at_end(self) -> bool:
        """Say whether nothing is left."""
        if not self._pending:
            self._pending = self._fetch(HEAD_BYTES)
        return not self._pending

    def _take(self, size: int) -> bytes:
        line, self._pending = self._pending[:size], self._pending[size:]
        return line

    def _fetch(self, size: int) -> bytes:
        """Return about `size` more bytes; nothing only at the end of the file."""
        while raw := self._read_raw(size):
            if block := self._as_utf8(raw):
                return block
        return self._as_utf8(b"")

    def _read_raw(self, size: int) -> bytes:
        try:
            return self._raw.read(size)
        except OSError as error:
            raise DataError(f"{self._file.shown} cannot be read: {error.strerror or error}.") from error

    def _as_utf8(self, raw: bytes) -> bytes:
        if self._decoder is None:
            return raw
        try:
            return self._decoder.decode(raw, final=not raw).encode()
        except UnicodeDecodeError as error:
            raise undecodable(self._file, self._table) from error


def undecodable(file: RawFile, table: Table) -> DataError:
    """Build the error for a file whose bytes do not fit its encoding, naming the first line with such a byte."""
    decode = codecs.getincrementaldecoder(table.encoding)("strict").decode
    line, where = 1, ""
    with file.open() as raw:
        try:
            for block in iter(partial(raw.read, 1 << 20), b""):
                line += decode(block).count("\n")
            decode(b"", final=True)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].decode(table.encoding, "replace").count("\n")
            where = f": line {line} holds the byte 0x{error.object[error.start]:02x}"
    return DataError(
        f"{file.shown} is not {table.encoding} text{where}. Set the table's 'encoding' in the recipe, for example "
        f'encoding = "latin-1"; or undecodable = "replace", where a few broken letters do no harm.'
    )


def _decoder(table: Table, shown: str) -> codecs.IncrementalDecoder | None:
    """Return what decodes the file, or nothing where its bytes can be passed on."""
    try:
        # The plain lookup also knows codecs that are no text encodings.
        "a".encode(table.encoding)
        name = codecs.lookup(table.encoding).name
    except LookupError as error:
        raise DataError(
            f"{shown}: Python knows no encoding '{table.encoding}'; usual ones are utf-8 and latin-1."
        ) from error
    if name in ("utf-8", "utf-8-sig") and table.undecodable == "refuse":
        return None
    return codecs.getincrementaldecoder(table.encoding)("replace" if table.undecodable == "replace" else "strict")
