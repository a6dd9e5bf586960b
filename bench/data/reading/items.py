"""Read the descriptions of items, holding only those of the items that are wanted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bench.data.raw.rawfiles import RawFiles
from bench.data.reading.batch import tidy, unfit
from bench.data.reading.columnar import open_table
from bench.data.reading.layout import Layout, Origin, refuse
from bench.data.reading.objects import read_objects
from bench.data.reading.utf8 import found
from bench.data.recipes.schema import did_you_mean
from bench.data.recipes.tables import Flags, ItemsTable
from bench.errors import DataError


@dataclass(frozen=True)
class Items:
    """Descriptions of items.

    Attributes:
        frame: the text column `id` and one text column per field, "" where nothing is known; the index is the number
            of the row, from 0, counted over all files without blank lines and headers.
        n_rows: rows of the files, also those left out of `frame`.
    """

    frame: pd.DataFrame
    n_rows: int


def read_items(files: RawFiles, table: ItemsTable, wanted: Collection[str] | None = None) -> Items:
    """Read the descriptions of the items whose ids are `wanted`, or of all.

    Raises:
        DataError: a file, its columns or its encoding is not what the recipe says, an id is empty, or one that is kept
            stands on several lines and the recipe does not say that the first counts.
    """
    ids = None if wanted is None else frozenset(wanted)
    origins: list[Origin] = []
    frames: list[pd.DataFrame] = []
    n_rows = 0
    for name in table.files:
        origin = Origin(Layout.of(found(files, name), table, name), n_rows)
        read = _read_delimited if table.format == "delimited" else _read_objects
        frame, n = read(origin, table, name, ids)
        origins.append(origin)
        frames.append(frame)
        n_rows += n
    _refuse_other_columns(frames, origins)
    raw = pd.concat(frames)
    repeated = raw[table.id].duplicated().to_numpy()
    if table.repeated == "refuse":
        wish = "an id that no line before has"
        refuse(repeated, pa.array(raw[table.id]), raw.index.to_numpy(), origins, table.id, wish)
    return Items(_described(raw[~repeated], table, origins), n_rows)


def sources_of(table: ItemsTable) -> list[str]:
    """Return the columns that the table's fields are made from."""
    made_of = table.fields.values()
    return [column for source in made_of for column in (source.flags if isinstance(source, Flags) else (source,))]


def _read_delimited(
    origin: Origin, table: ItemsTable, name: str, wanted: frozenset[str] | None
) -> tuple[pd.DataFrame, int]:
    """Read the needed columns of wanted items, indexed by row, and the number of all rows."""
    n_rows, chosen = 0, None if wanted is None else pa.array(wanted, pa.string())
    with open_table(origin.layout.file, table, name) as text:
        columns = list(dict.fromkeys([table.id, *sources_of(table)] if table.fields else [table.id, *text.columns]))
        frames = [pd.DataFrame({column: pd.Series(dtype="str") for column in columns}, index=pd.RangeIndex(0))]
        for raw in text.batches(columns, {table.id}):
            first = origin.first_row + n_rows
            rows = np.arange(first, first + len(raw))
            ids = tidy(raw.column(table.id), digits=table.item_digits)
            refuse(unfit(ids), ids, rows, [origin], table.id, "an id")
            data = [ids.dictionary_decode(), *(pc.utf8_trim_whitespace(raw.column(name)) for name in columns[1:])]
            kept = pa.table(data, names=columns)
            if chosen is not None:
                mask = pc.is_in(ids.dictionary, chosen).take(ids.indices)
                kept, rows = kept.filter(mask), rows[mask.to_numpy(zero_copy_only=False)]
            if len(kept):
                frames.append(kept.to_pandas().set_axis(rows))
            n_rows += len(raw)
    return pd.concat(frames), n_rows


def _read_objects(origin: Origin, table: ItemsTable, _: str, wanted: frozenset[str] | None) -> tuple[pd.DataFrame, int]:
    """Read the needed keys of wanted items, indexed by row, and the number of all rows."""
    keys = list(dict.fromkeys([table.id, *sources_of(table)]))
    frame, n_rows = read_objects(origin.layout, table, keys, wanted)
    return frame.set_axis(frame.index + origin.first_row), n_rows


def _refuse_other_columns(frames: Sequence[pd.DataFrame], origins: Sequence[Origin]) -> None:
    for frame, origin in zip(frames, origins, strict=True):
        if list(frame) != list(frames[0]):
            raise DataError(
                f"{origin.layout.file.shown} has the columns {', '.join(frame)}, but {origins[0].layout.file.shown} "
                f"has {', '.join(frames[0])}. Name the 'fields' that both have in the recipe."
            )


def _described(raw: pd.DataFrame, table: ItemsTable, origins: Sequence[Origin]) -> pd.DataFrame:
    """Make the fields from the columns they come from."""
    fields = table.fields or {column: column for column in raw.columns if column != table.id}
    if "id" in fields:
        raise DataError(
            f"{origins[0].layout.file.shown}: a field cannot be called 'id', as the items' ids are. Give it another "
            f"name under 'fields' in the recipe."
        )
    frame = pd.DataFrame({"id": raw[table.id]})
    for field, made_of in fields.items():
        frame[field] = _joined_flags(raw, made_of, origins) if isinstance(made_of, Flags) else raw[made_of]
    for field, pattern in table.patterns.items():
        _extract(frame, field, pattern, origins)
    return frame


def _joined_flags(raw: pd.DataFrame, made_of: Flags, origins: Sequence[Origin]) -> "pd.Series[str]":
    """Join the names of the flag columns that hold 1, row by row."""
    joined = pd.Series("", index=raw.index, dtype="str")
    for column in made_of.flags:
        flag = raw[column]
        bad = ~flag.isin(["0", "1"]).to_numpy()
        refuse(bad, pa.array(flag), raw.index.to_numpy(), origins, column, "a flag, 0 or 1")
        between = joined.where(joined.eq(""), made_of.separator)
        joined = joined.where(~flag.eq("1"), joined + between + column)
    return joined


def _extract(frame: pd.DataFrame, field: str, pattern: str, origins: Sequence[Origin]) -> None:
    """Fill the fields named by the groups of `pattern` where it matches the whole text of `field`."""
    if field not in frame.columns:
        raise DataError(
            f"{origins[0].layout.file.shown}: the recipe's patterns look into the field "
            f"{did_you_mean(field, list(frame.columns))}, but the fields are {', '.join(frame.columns)}."
        )
    found_groups = frame[field].str.extract(f"^(?:{pattern})$")
    for group in found_groups.columns:
        before = frame[group] if group in frame.columns else ""
        frame[group] = found_groups[group].where(found_groups[group].notna(), before)
