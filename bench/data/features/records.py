"""Read binary files of fixed records: an item id in ASCII, then a vector of little-endian float32 numbers.

The image features of the Amazon reviews of 2014 are published so (McAuley et al. 2015): 10 bytes of id and 4096 numbers
in each record, many gigabytes in a file. They are read from front to back, and only wanted vectors are kept.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bench.data.raw.rawfiles import RawFile
from bench.errors import DataError

BLOCK_BYTES = 16 * 2**20
ID = "id"
VECTOR = "vector"


def read_records(
    file: RawFile, wanted: Sequence[str], id_bytes: int, width: int, report: Callable[[str], None]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read the vectors of the wanted ids.

    Args:
        file: of records.
        wanted: ids, each once.
        id_bytes: length of the id; a shorter one is followed by blanks or zero bytes.
        width: numbers in a vector.
        report: told of wanted ids that have several records, of which the first counts.

    Returns:
        float32 [n_wanted, width], zero where the id has no record; and bool [n_wanted], whether it has one.

    Raises:
        DataError: the file ends within a record, an id is no ASCII text, or a wanted vector is not finite.
    """
    rows = {id_: row for row, id_ in enumerate(wanted)}
    matrix = np.zeros((len(wanted), width), dtype=np.float32)
    present = np.zeros(len(wanted), dtype=np.bool_)
    repeated: dict[str, None] = {}
    for first, block in _blocks(file, id_bytes, width):
        for offset, raw in enumerate(block[ID].tolist()):
            id_ = _decoded(raw, file, first + offset)
            row = rows.get(id_)
            if row is None:
                continue
            if present[row]:
                repeated[id_] = None
                continue
            matrix[row], present[row] = block[VECTOR][offset], True
            if not np.isfinite(matrix[row]).all():
                raise DataError(
                    f"Record {first + offset:,} (counted from 0) of {file.shown}, of item '{id_}', holds numbers that "
                    f"are NaN or infinite. Get the file anew, or take its record out."
                )
    if repeated:
        report(
            f"{file.shown}: {len(repeated):,} of {int(present.sum()):,} items have more than one record, for example "
            f"'{next(iter(repeated))}'; the first counts"
        )
    return matrix, present


def record_ids(file: RawFile, id_bytes: int, width: int) -> set[str]:
    """Return the ids of all records; where the file can be jumped in, the vectors are not read.

    Raises:
        DataError: the file ends within a record, or an id is no ASCII text.
    """
    with file.open() as stream:
        if stream.seekable():
            return {_decoded(raw.rstrip(b"\0"), file, number) for number, raw in _jumped(stream, file, id_bytes, width)}
    return {
        _decoded(raw, file, first + offset)
        for first, block in _blocks(file, id_bytes, width)
        for offset, raw in enumerate(block[ID].tolist())
    }


def _jumped(stream: BinaryIO, file: RawFile, id_bytes: int, width: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the id of every record."""
    number, raw = 0, stream.read(id_bytes)
    while raw:
        # A jump past the end of a file succeeds, so the last byte of the vector is read to see that it is there.
        stream.seek(4 * width - 1, os.SEEK_CUR)
        ahead = stream.read(1 + id_bytes)
        if len(raw) < id_bytes or len(ahead) not in (1, 1 + id_bytes):
            raise _truncated(file, stream.seek(0, os.SEEK_END), id_bytes + 4 * width)
        yield number, raw
        number, raw = number + 1, ahead[1:]


def _blocks(file: RawFile, id_bytes: int, width: int) -> Iterator[tuple[int, NDArray[np.void]]]:
    """Yield records by the block, after the number of the first of them."""
    kind = np.dtype([(ID, f"S{id_bytes}"), (VECTOR, "<f4", (width,))])
    at_once = max(1, BLOCK_BYTES // kind.itemsize)
    first = 0
    with file.open() as stream:
        while block := stream.read(at_once * kind.itemsize):
            n_records, rest = divmod(len(block), kind.itemsize)
            if rest:
                raise _truncated(file, first * kind.itemsize + len(block), kind.itemsize)
            yield first, np.frombuffer(block, dtype=kind)
            first += n_records


def _decoded(raw: bytes, file: RawFile, number: int) -> str:
    try:
        return raw.decode("ascii").strip(" ")
    except UnicodeDecodeError as error:
        raise DataError(
            f"Record {number:,} (counted from 0) of {file.shown} should start with an item id in ASCII letters, but "
            f"starts with {raw!r}. Check 'id_bytes' and 'width' of the recipe's feature, or get the file anew."
        ) from error


def _truncated(file: RawFile, n_bytes: int, record_bytes: int) -> DataError:
    n_records, rest = divmod(n_bytes, record_bytes)
    return DataError(
        f"{file.shown} is truncated: {n_records:,} records and {rest:,} bytes, where each record should have "
        f"{record_bytes:,} bytes. Delete it and get it anew, or correct 'id_bytes' and 'width' of the recipe's feature."
    )
