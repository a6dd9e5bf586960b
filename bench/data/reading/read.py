"""Read raw interactions as a stream of batches, and say precisely what is wrong with one that is not as declared."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.data.raw.rawfiles import RawFiles
from bench.data.reading.batch import Batch, tidy, unfit
from bench.data.reading.columnar import open_table
from bench.data.reading.layout import Origin, refuse
from bench.data.reading.parts import part_batches
from bench.data.reading.stream import ENCODED
from bench.data.reading.utf8 import found
from bench.data.recipes.tables import InteractionsTable, PartFiles
from bench.errors import DataError

__all__ = ["Batch", "interaction_batches"]

ROLES = ("user", "item", "rating", "timestamp", "split", "action")
ENCODED_ROLES = ("user", "item", "split", "action")


def interaction_batches(files: RawFiles, table: InteractionsTable | PartFiles) -> Iterator[Batch]:
    """Read interactions in file order, never more than a few blocks of the file at a time.

    Ids stay text, so that leading zeros survive; blanks around them go.

    Raises:
        DataError: a file, its columns, its encoding or an id is not what the recipe says, or no file has a row.
    """
    if isinstance(table, PartFiles):
        yield from part_batches(files, table)
        return
    row = 0
    for name in table.files:
        with open_table(found(files, name), table, name) as text:
            origin = Origin(text.layout, row)
            columns = {role: column for role in ROLES if (column := getattr(table, role)) is not None}
            encoded = {columns[role] for role in ENCODED_ROLES if role in columns}
            # Several items in one cell are told apart before they are encoded.
            for raw in text.batches(list(columns.values()), encoded if table.item_separator is None else ()):
                yield _batch(raw, columns, row, table, origin)
                row += len(raw)
    if not row:
        shown = " and ".join(found(files, name).shown for name in table.files)
        has = "have headers" if len(table.files) > 1 else "has a header"
        raise DataError(f"{shown} {has} but no interactions.")


def _batch(raw: pa.RecordBatch, columns: dict[str, str], row: int, table: InteractionsTable, origin: Origin) -> Batch:
    data = {role: raw.column(column) for role, column in columns.items()}
    data["row"] = pa.array(np.arange(row, row + len(raw), dtype=np.int64))
    if table.item_separator is not None:
        data = _one_item_a_row(data, table.item_separator)
    for role in [role for role in ENCODED_ROLES if role in data]:
        texts = data[role] if data[role].type == ENCODED else data[role].dictionary_encode()
        data[role] = tidy(texts, table.item_prefix, table.item_digits) if role == "item" else tidy(texts)
        if role in ("user", "item"):
            refuse(unfit(data[role]), data[role], data["row"].to_numpy(), [origin], columns[role], "an id")
    for role in [role for role in ("rating", "timestamp") if role in data and data[role].type == ENCODED]:
        # A column that is also read as something else came encoded.
        data[role] = data[role].dictionary_decode()
    return Batch(pa.table(data), table, origin)


def _one_item_a_row(data: dict[str, pa.Array], separator: str) -> dict[str, pa.Array]:
    """Repeat rows for each item in their item cell; `position` counts the items of a row from 0."""
    lists = pc.split_pattern(pc.utf8_trim_whitespace(data["item"]), separator)
    parents = pc.list_parent_indices(lists)
    starts = np.asarray(lists.offsets)[:-1] - np.asarray(lists.offsets)[0]
    positions = np.arange(len(parents), dtype=np.int64) - starts[np.asarray(parents)]
    repeated = {role: column.take(parents) for role, column in data.items() if role != "item"}
    return repeated | {"item": lists.flatten(), "position": pa.array(positions)}
