"""Read packed bytes as a file: within a stretch, within limits of expansion, and with errors worded for people."""

import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from bench.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FREE_BYTES = 100_000_000
MAX_EXPANSION = 1000
BUFFER_BYTES = 1 << 18
# What Python's readers raise at bytes that make no sense, down to the odd ones of half a header.
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, ValueError, OverflowError, NotImplementedError),
)


def damaged(shown: str, error: Exception | str) -> str:
    """Say that the file called `shown` cannot be read, and what to do."""
    if isinstance(error, OSError) and error.strerror:
        return f"{shown} cannot be read: {error.strerror}."
    return f"{shown} is damaged or not complete ({error}). Delete it and fetch it again."


def stretch(inner: BinaryIO, shown: str, packed: int, start: int = 0, size: int | None = None) -> BinaryIO:
    """Return a stretch of an unpacked stream as a file of its own, which closes the stream together with itself.

    Args:
        inner: the unpacked stream, at its beginning.
        shown: how messages call the file.
        packed: bytes that all of `inner` is made from; more than `MAX_EXPANSION` times that many (and `FREE_BYTES`)
            do not come out of real data.
        start: where the stretch begins.
        size: its length; None: to the end of the stream.

    Raises:
        DataError: while reading: the bytes are damaged, too few, or expand beyond reason.
    """
    return cast(BinaryIO, io.BufferedReader(_Stretch(inner, shown, packed, start, size), BUFFER_BYTES))


def gunzip(packed: BinaryIO, size: int, shown: str) -> BinaryIO:
    """Return the unpacked content of a gzip stream of `size` bytes, which is closed together with it.

    Raises:
        DataError: while reading: it is no gzip, is damaged, or expands beyond reason.
    """
    return stretch(paired(cast(BinaryIO, gzip.GzipFile(fileobj=packed)), packed), shown, size)


def paired(unpacker: BinaryIO, file: BinaryIO) -> BinaryIO:
    """Return `unpacker` as a stream that closes the packed `file` together with itself, as Python's own do not."""
    return cast(BinaryIO, _Pair(unpacker, file))


def joined(parts: tuple[Path, ...]) -> io.BufferedReader:
    """Open the parts of a split file as one; it can be read from any position.

    Raises:
        OSError: one of them cannot be opened.
    """
    return parts[0].open("rb") if len(parts) == 1 else io.BufferedReader(_Joined(parts), BUFFER_BYTES)


class _Stretch(io.RawIOBase):
    def __init__(self, inner: BinaryIO, shown: str, packed: int, start: int, size: int | None) -> None:
        self._inner, self._shown, self._packed = inner, shown, packed
        self._start, self._size = start, size
        self._at, self._inner_at = 0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and self._size is None:
            raise io.UnsupportedOperation("the length is not known before the end is reached")
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size or 0}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        if self._size is not None:
            view = view[: max(0, self._size - self._at)]
        if not view:
            return 0
        count = self._read(view)
        if count == 0 and self._size is not None:
            raise DataError(damaged(self._shown, f"it ends after {self._at:,} of {self._size:,} bytes"))
        self._at += count
        self._inner_at += count
        if self._inner_at > max(FREE_BYTES, MAX_EXPANSION * self._packed):
            raise DataError(
                f"{self._shown} unpacks to more than {MAX_EXPANSION:,} times its packed size ({self._packed:,} bytes), "
                f"as no real data does, so it is read no further. Delete it and fetch it again from its publisher."
            )
        return count

    def _read(self, view: memoryview) -> int:
        try:
            if self._inner_at != self._start + self._at:
                self._inner_at = self._inner.seek(self._start + self._at)
            return int(self._inner.readinto(view))  # type: ignore[attr-defined]
        except DAMAGE as error:
            raise DataError(damaged(self._shown, error)) from error

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class _Pair(io.BufferedIOBase):
    def __init__(self, unpacker: BinaryIO, file: BinaryIO) -> None:
        self._unpacker, self._file = unpacker, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        return int(self._unpacker.readinto(buffer))  # type: ignore[attr-defined]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._unpacker.seek(offset, whence)

    def close(self) -> None:
        with ExitStack() as stack:
            stack.callback(super().close)
            stack.callback(self._file.close)
            stack.callback(self._unpacker.close)


class _Joined(io.RawIOBase):
    def __init__(self, parts: tuple[Path, ...]) -> None:
        with ExitStack() as stack:
            self._files = [stack.enter_context(part.open("rb")) for part in parts]
            self._closing = stack.pop_all()
        self._ends = list(accumulate(part.stat().st_size for part in parts))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._ends[-1]}[whence]
        if origin + offset < 0:
            raise ValueError("a position before the beginning")
        self._at = origin + offset
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        part = bisect_right(self._ends, self._at)
        if part == len(self._files):
            return 0
        self._files[part].seek(self._at - (self._ends[part - 1] if part else 0))
        count = self._files[part].readinto(buffer)
        self._at += count
        return count

    def close(self) -> None:
        self._closing.close()
        super().close()
