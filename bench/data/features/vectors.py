"""Keep encoded vectors by the content they were made from, so that an interrupted or repeated run goes on.

One folder per encoder (`encoder_folder`) holds parts: Parquet files with the columns `content` (SHA-256 of what was
encoded, 32 bytes) and `vector` (float32, a list of fixed size), and page checksums. A part is written beside its place
and renamed, so whoever is killed at any moment loses at most the vectors since the last part.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.errors import DataError

Report = Callable[[str], None]
Matrix = NDArray[np.float32]

BATCHES_PER_PART = 16
KEY_BYTES = 32
DECIMALS = 5


def content_key(content: bytes) -> bytes:
    """Return the key of a content: its SHA-256, 32 bytes."""
    return hashlib.sha256(content).digest()


def encoder_folder(cache: Path, encoder: str, model: str, settings: Mapping[str, Any]) -> Path:
    """Return the cache folder of an encoder, named so that vectors of different encoders never mix.

    The name has a readable part and a hash over the kind of encoder, the model and the settings. A model in a folder
    counts by the names and contents of its files, wherever it lies; a model of the hub counts by its name, so a model
    that was replaced there under the same name is not noticed.

    Args:
        cache: folder of all caches.
        encoder: kind of encoder.
        model: folder, or name on the hub.
        settings: whatever else the vectors depend on; values as in JSON.

    Raises:
        DataError: a file of the model cannot be read.
    """
    local = Path(model).expanduser()
    identity = {
        "encoder": encoder,
        "model": _hash_of_files(local) if local.is_dir() else model,
        "settings": dict(settings),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    name = local.resolve().name if local.is_dir() else model
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
    return cache / f"{encoder}-{slug}-{digest[:16]}"


class VectorCache:
    """The vectors of one encoder; use it in a `with` block, whose end writes the last part.

    Values are rounded to 5 decimals, because their last bits differ between machines, numbers of threads and batches,
    and a dataset's fingerprint should not. Rows always come from the stored form, so a cached result is a fresh one.

    Attributes:
        folder: of this encoder.
        width: length of the vectors; None while there are none.
    """

    def __init__(self, folder: Path, report: Report) -> None:
        """Open the cache, or begin one; damaged parts are deleted with a report, so that their content is encoded anew.

        Raises:
            DataError: the folder cannot be read or written.
        """
        self.folder = folder
        self.width: int | None = None
        self._where: dict[bytes, tuple[Path | None, int]] = {}
        self._keys: list[bytes] = []
        self._pending: list[Matrix] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            for path in sorted(folder.glob("part-*.parquet")):
                self._index(path, report)
        except OSError as error:
            raise DataError(f"The cache {folder} cannot be used: {error}. Check its permissions.") from error

    def __contains__(self, key: bytes) -> bool:
        return key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also when interrupted: what was encoded up to here is worth keeping.
        self.flush()

    def add(self, keys: Sequence[bytes], vectors: NDArray[np.floating[Any]]) -> None:
        """Take the vectors of one batch; every sixteenth batch a part is written.

        Args:
            keys: of the contents, none of them known yet.
            vectors: [len(keys), width]; finite.

        Raises:
            DataError: the width differs from that of the vectors before, or the part cannot be written.
        """
        if self.width not in (None, vectors.shape[1]):
            raise DataError(
                f"The encoder gives {vectors.shape[1]:,} numbers each, but the cache {self.folder} holds vectors of "
                f"{self.width:,}: the model behind this name has changed. Delete that folder and try again."
            )
        self.width = vectors.shape[1]
        for key in keys:
            self._where[key] = (None, len(self._keys))
            self._keys.append(key)
        # Adding 0 turns -0.0 into 0.0.
        self._pending.append(vectors.astype(np.float64).round(DECIMALS).astype(np.float32) + np.float32(0))
        if len(self._pending) >= BATCHES_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a part.

        Raises:
            DataError: it cannot be written.
        """
        if not self._keys:
            return
        path = self.folder / f"part-{content_key(b''.join(self._keys)).hex()[:32]}.parquet"
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            # Not forced to disk: what a power cut damages is found by its checksums and encoded anew.
            pq.write_table(self._pending_table(), partial, compression="none", write_page_checksum=True)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(
                f"{path} cannot be written: {error}. What was encoded in earlier parts is kept. Check free space and "
                f"permissions, and try again."
            ) from error
        for row, key in enumerate(self._keys):
            self._where[key] = (path, row)
        self._keys, self._pending = [], []

    def rows(self, keys: Sequence[bytes | None]) -> Matrix:
        """Return the vectors of contents that are all in the cache.

        Args:
            keys: one per row; None becomes a row of zeros.

        Returns:
            float32 [len(keys), width].

        Raises:
            KeyError: a content is not in the cache.
            DataError: a part was damaged or removed since the cache was opened.
        """
        self.flush()
        result = np.zeros((len(keys), self.width or 0), dtype=np.float32)
        wanted: dict[Path | None, list[tuple[int, int]]] = {}
        for row, key in enumerate(keys):
            if key is not None:
                path, stored = self._where[key]
                wanted.setdefault(path, []).append((row, stored))
        # Part by part: the cache may be much larger than what is asked for.
        for path, pairs in wanted.items():
            to, stored_rows = np.array(pairs).T
            result[to] = self._reread(path)[stored_rows]
        return result

    def _pending_table(self) -> pa.Table:
        values = pa.array(np.concatenate(self._pending).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(values, self.width)
        return pa.table({"content": pa.array(self._keys, pa.binary(KEY_BYTES)), "vector": vectors})

    def _index(self, path: Path, report: Report) -> None:
        try:
            keys, vectors = _read_part(path)
            if self.width not in (None, vectors.shape[1]):
                raise ValueError(f"vectors of {vectors.shape[1]}, not {self.width}")
        except (pa.ArrowException, ValueError, KeyError) as error:
            path.unlink()
            report(f"{path} is damaged ({error}) and was deleted; what it held is encoded anew")
            return
        self.width = vectors.shape[1]
        for row, key in enumerate(keys):
            self._where.setdefault(key, (path, row))

    def _reread(self, path: Path | None) -> Matrix:
        assert path is not None  # everything pending has been written
        try:
            return _read_part(path)[1]
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise DataError(f"{path} has changed while it was in use: {error}. Try again.") from error


def _read_part(path: Path) -> tuple[list[bytes], Matrix]:
    """Return the keys and the vectors [n, width] of a part.

    Raises:
        OSError: the file cannot be read.
        ArrowException: its content is damaged.
        ValueError: it holds something else.
    """
    content = path.read_bytes()
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except OSError as error:
        # The bytes are in memory already, so this is about their content: Arrow words damage as an OSError too.
        raise ValueError(str(error)) from error
    keys, vectors = table.column("content"), table.column("vector").combine_chunks()
    if keys.type != pa.binary(KEY_BYTES) or not pa.types.is_fixed_size_list(vectors.type):
        raise ValueError(f"unexpected columns {table.schema.types}")
    matrix = vectors.flatten().to_numpy().reshape(len(keys), vectors.type.list_size)
    if matrix.dtype != np.float32 or not np.isfinite(matrix).all():
        raise ValueError("vectors that are not finite float32 numbers")
    return keys.to_pylist(), matrix


def _remove_leftovers(folder: Path) -> None:
    """Remove parts that a killed process was writing; those of a running one are left alone."""
    for path in folder.glob(".part-*.partial"):
        pid = path.name.split(".")[-2]
        if not pid.isdecimal() or int(pid) == os.getpid() or not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def _hash_of_files(folder: Path) -> str:
    """Return a hash of the names and contents of a folder's files, hidden ones aside."""
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{json.dumps(name.as_posix())} {content}\n".encode())
    except OSError as error:
        raise DataError(f"A file of the model in {folder} cannot be read: {error}.") from error
    return digest.hexdigest()
