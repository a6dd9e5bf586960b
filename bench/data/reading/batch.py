"""Interactions as they stand in a raw file, converted to numbers and times only when asked for."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bench.data.reading.layout import Origin, refuse
from bench.data.recipes.tables import InteractionsTable
from bench.errors import DataError

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# A day alone ends like an offset does, so a time must come before one.
HAS_OFFSET = r"[0-9][T ].*(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)$"
# Times past the year 5000 are milliseconds read as seconds, not a future to be split by.
LATEST_S = 1e11


@dataclass(frozen=True)
class Batch:
    """Some of the interactions of a file, in order; rows dropped before their values are asked for cost nothing.

    Attributes:
        table: `user` and `item` (dictionary<int32, string>, without blanks around); `row` (int64, from 0, counted over
            all files; interactions of one row share it); and, where the recipe names them, `rating` and `timestamp`
            (text as it stands in the file; int64 seconds where the file itself types its times), `split` and `action`
            (dictionary<int32, string>). `position` (int64) where a row holds several items whose order is their time.
        layout: the recipe's description of the file; None for files without ratings and times.
        origin: where the rows were read; None with `layout`.
    """

    table: pa.Table
    layout: InteractionsTable | None = None
    origin: Origin | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def filter(self, mask: NDArray[np.bool_]) -> "Batch":
        """Return the interactions where `mask` [n] is true."""
        return replace(self, table=self.table.filter(pa.array(mask, pa.bool_())))

    def users(self) -> pa.DictionaryArray:
        """Return the ids of users [n]; the dictionary has no value twice, but may have some that do not occur."""
        return self._column("user")

    def items(self) -> pa.DictionaryArray:
        """Return the ids of items [n]; the dictionary has no value twice, but may have some that do not occur."""
        return self._column("item")

    def actions(self) -> pa.DictionaryArray:
        """Return what was done [n]."""
        return self._column("action")

    def splits(self) -> pa.DictionaryArray:
        """Return what part of the split the rows belong to [n], in the file's words."""
        return self._column("split")

    def rows(self) -> NDArray[np.int64]:
        """Return the numbers of the rows [n], from 0, counted over all files."""
        return np.asarray(self._column("row").to_numpy())

    def ratings(self) -> NDArray[np.float64]:
        """Return the ratings [n].

        Raises:
            DataError: one is no finite number.
        """
        return self._numbers("rating", "a number", np.inf)

    def seconds(self) -> NDArray[np.int64]:
        """Return the times [n] in whole seconds since 1970 in UTC, rounded down.

        Where the order of the rows is the time, the number of the row, or the position among the items of a row.

        Raises:
            DataError: one is no time, or one past the year 5000.
        """
        table, _ = self._described()
        if table.timestamp_unit == "order":
            return self.rows() if table.item_separator is None else np.asarray(self._column("position").to_numpy())
        if pa.types.is_integer(self._column("timestamp").type):
            return self._typed_times()
        if table.timestamp_unit == "iso":
            return self._dates()
        scale = 1 if table.timestamp_unit == "s" else 1000
        unit = "seconds" if scale == 1 else "milliseconds"
        times = self._numbers("timestamp", f"a time in {unit} since 1970 (see timestamp_unit)", LATEST_S * scale)
        return np.asarray(np.floor_divide(times, scale), dtype=np.int64)

    def _numbers(self, role: str, wish: str, limit: float) -> NDArray[np.float64]:
        texts = self._column(role)
        numbers = numbers_of(texts)
        self._refuse(~(np.abs(numbers) < limit), role, texts, wish)
        return numbers

    def _typed_times(self) -> NDArray[np.int64]:
        """Return times that came as seconds; one that is missing, or out of reach, is refused."""
        column = self._column("timestamp")
        times = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
        texts = pc.fill_null(column.cast(pa.string()), "")
        self._refuse(~(np.abs(times) < LATEST_S), "timestamp", texts, "a time")
        return times.astype(np.int64)

    def _dates(self) -> NDArray[np.int64]:
        """Convert dates; those that repeat are converted once."""
        table, _ = self._described()
        texts = self._column("timestamp")
        encoded = pc.dictionary_encode(texts)
        known = seconds_of(pc.utf8_trim_whitespace(encoded.dictionary), table)
        times = known[encoded.indices.to_numpy()]
        wish = "a date such as 2020-09-22 or 2020-09-22T10:00:00"
        if table.timestamp_format is not None:
            wish = f"a date written as {table.timestamp_format!r}"
        self._refuse(~(np.abs(times) < LATEST_S), "timestamp", texts, wish)
        return np.asarray(times, dtype=np.int64)

    def _refuse(self, bad: NDArray[np.bool_], role: str, texts: pa.Array, wish: str) -> None:
        table, origin = self._described()
        refuse(bad, texts, self.rows(), [origin], str(getattr(table, role)), wish)

    def _column(self, name: str) -> pa.Array:
        return self.table.column(name).combine_chunks()

    def _described(self) -> tuple[InteractionsTable, Origin]:
        if self.layout is None or self.origin is None:
            raise ValueError("these interactions have neither ratings nor times")
        return self.layout, self.origin


def numbers_of(texts: pa.StringArray) -> NDArray[np.float64]:
    """Convert texts to numbers, NaN where one is none."""
    texts = pc.utf8_trim_whitespace(texts)
    try:
        return np.asarray(pc.cast(texts, pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        # One text that Arrow does not read stops it; Python says of each whether it is a number.
        values = texts.to_pylist()
        return np.array([float(text) if NUMBER.fullmatch(text) else np.nan for text in values], dtype=np.float64)


def seconds_of(texts: pa.StringArray, table: InteractionsTable) -> NDArray[np.float64]:
    """Convert dates to whole seconds since 1970, rounded down, NaN where a text is no date.

    Raises:
        DataError: the recipe's `timestamp_format` is none.
    """
    dates = texts.to_pandas()
    try:
        times = pd.to_datetime(dates, format=table.timestamp_format or "ISO8601", utc=True, errors="coerce")
    except ValueError as error:
        raise DataError(f"The recipe's timestamp_format {table.timestamp_format!r} is none: {error}.") from error
    # Pandas reads these two words as the time of the call.
    times = times.mask(dates.str.casefold().isin(["now", "today"]))
    seconds = ((times - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)).to_numpy("float64", na_value=np.nan)
    return np.asarray(np.where(_has_offset(dates, table), seconds, seconds - table.offset_s))


def _has_offset(dates: "pd.Series[str]", table: InteractionsTable) -> NDArray[np.bool_]:
    """Say of each date whether it comes with an offset from UTC of its own."""
    if table.timestamp_format is not None:
        return np.full(len(dates), re.search(r"%[zZ]", table.timestamp_format) is not None)
    return np.asarray(dates.str.contains(HAS_OFFSET, regex=True), dtype=np.bool_)


def tidy(ids: pa.DictionaryArray, prefix: str = "", digits: int | None = None) -> pa.DictionaryArray:
    """Return ids [n] without blanks around them and without a prefix, filled with leading zeros to some digits.

    Args:
        ids: dictionary-encoded.
        prefix: taken off where an id starts with it.
        digits: length that shorter ids are filled up to, unless they are empty.
    """
    values = pc.utf8_trim_whitespace(ids.dictionary)
    if prefix:
        bare = pc.utf8_replace_slice(values, 0, len(prefix), "")
        values = pc.if_else(pc.starts_with(values, prefix), bare, values)
    if digits is not None:
        values = pc.if_else(pc.equal(values, ""), values, pc.utf8_lpad(values, digits, "0"))
    if values.equals(ids.dictionary):
        return ids
    # Ids that differed may have become equal.
    again = values.dictionary_encode()
    return pa.DictionaryArray.from_arrays(again.indices.take(ids.indices), again.dictionary)


def unfit(ids: pa.DictionaryArray) -> NDArray[np.bool_]:
    """Say which of these tidied ids [n] are none: empty ones, and those with the line break of a quote left open."""
    bad = pc.or_(pc.equal(ids.dictionary, ""), pc.match_substring(ids.dictionary, "\n"))
    if not pc.any(bad).as_py():
        return np.zeros(len(ids), dtype=np.bool_)
    return np.asarray(bad.to_numpy(zero_copy_only=False)[ids.indices.to_numpy()], dtype=np.bool_)
