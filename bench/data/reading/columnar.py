"""Parquet files as a stream of batches of text columns, just as delimited text gives; types are checked first."""

import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.data.raw.rawfiles import RawFile
from bench.data.reading.layout import Layout, is_columnar
from bench.data.reading.stream import TextFile
from bench.data.recipes.schema import did_you_mean
from bench.data.recipes.tables import InteractionsTable, ItemsTable, Table
from bench.errors import DataError

ROWS_AT_ONCE = 1 << 18
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def open_table(file: RawFile, table: Table, name: str) -> "TextFile | ColumnarFile":
    """Open the file that the recipe calls `name` as what its name says it is: Parquet, or else delimited text.

    Raises:
        DataError: it cannot be read, or is not what the recipe says.
    """
    return ColumnarFile(file, table, name) if is_columnar(name) else TextFile(file, table, name)


class ColumnarFile:
    """A Parquet file whose rows are read once, by `batches`. Use it in a `with`.

    Whole numbers become text without decimals, missing values "", and lists their elements joined by blanks. The
    column of times becomes whole seconds since 1970 where it holds points in time or days, whatever `timestamp_unit`
    says; those without a time zone are taken at the recipe's `utc_offset`.

    Attributes:
        layout: how the file is laid out.
        columns: names of all columns, in order.
    """

    def __init__(self, file: RawFile, table: Table, name: str) -> None:
        """Read the columns of `file`, which the recipe calls `name`.

        Raises:
            DataError: the file is damaged or no Parquet file, or the recipe declares columns, which it names itself.
        """
        self.layout = Layout.of(file, table, name)
        if table.columns:
            raise DataError(f"{file.shown} names its columns itself. Leave out 'columns' in the recipe.")
        with ExitStack() as opened:
            stream = opened.enter_context(_seekable(file))
            with self._refusing_damage():
                self._file = opened.enter_context(pq.ParquetFile(stream))
            self._opened = opened.pop_all()
        self.columns: list[str] = list(self._file.schema_arrow.names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    @property
    def shown(self) -> str:
        """How messages call the file."""
        return self.layout.file.shown

    def batches(self, wanted: Sequence[str], encoded: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, with the columns `wanted` as text, and the one of times perhaps as int64 seconds.

        Args:
            wanted: names of columns; a name may come twice.
            encoded: those of them to return dictionary-encoded.

        Raises:
            DataError: a column is missing or of a type that cannot be used, or the file is damaged.
        """
        names = list(dict.fromkeys(wanted))
        self._require(names)
        with self._refusing_damage():
            for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=names):
                # Parquet does not see to it that text is UTF-8.
                batch.validate(full=True)
                columns = [self._converted(batch.column(name), name) for name in names]
                columns = [
                    column.dictionary_encode() if name in encoded and pa.types.is_string(column.type) else column
                    for name, column in zip(names, columns, strict=True)
                ]
                if len(batch):
                    yield pa.RecordBatch.from_arrays(columns, names=names)

    def _require(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise DataError(
                f"{self.shown}: the recipe expects the column "
                f"{', '.join(did_you_mean(name, self.columns) for name in missing)}, but the file has the columns "
                f"{', '.join(map(repr, self.columns))}."
            )
        for name in names:
            if self.columns.count(name) > 1:
                raise DataError(f"{self.shown} has the column '{name}' {self.columns.count(name)} times.")
            self._check_type(name, self._file.schema_arrow.field(name).type)

    def _check_type(self, name: str, type_: pa.DataType) -> None:
        """Refuse a type before anything of it is read."""
        type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
        if name in _id_columns(self.layout.table):
            if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
                raise DataError(
                    f"{self.shown}: the column '{name}' should hold ids or labels as text or whole numbers, but its "
                    f"type is {type_}, as pandas makes of whole numbers where one is missing. Save it as text, or as "
                    f"int64 without gaps."
                )
            if not (_is_text(type_) or pa.types.is_integer(type_)):
                raise self._unusable(name, type_, "ids or labels as text or whole numbers")
        inner = type_.value_type if _is_list(type_) else type_
        if pa.types.is_nested(inner) or _is_binary(inner):
            raise self._unusable(name, type_, "text, numbers, times or lists of them")

    def _unusable(self, name: str, type_: pa.DataType, wish: str) -> DataError:
        return DataError(f"{self.shown}: the column '{name}' should hold {wish}, but its type is {type_}.")

    def _converted(self, column: pa.Array, name: str) -> pa.Array:
        """Return a column as text, or as seconds."""
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        table, is_time = self.layout.table, pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
        if isinstance(table, InteractionsTable) and name == table.timestamp and is_time:
            return _seconds(column, table.offset_s)
        if _is_list(column.type):
            return pa.array([_joined(cell) for cell in column.to_pylist()], pa.string())
        return pc.fill_null(column.cast(pa.string()), "")

    @contextmanager
    def _refusing_damage(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self.shown} is damaged, or no Parquet file although it is called one: {error}. Write or fetch it "
                f"anew."
            ) from error


@contextmanager
def _seekable(file: RawFile) -> Iterator[BinaryIO]:
    """Open a file to be read from any position; one that is packed is unpacked into a temporary file."""
    with file.open() as stream:
        is_packed = file.member is not None or file.path.name.lower().endswith(".gz")
        if not is_packed:
            yield stream
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(stream, unpacked)
            unpacked.seek(0)
            yield unpacked


def _id_columns(table: Table) -> set[str]:
    """Return the columns that a number with decimals would make useless."""
    if isinstance(table, ItemsTable):
        return {table.id}
    roles = ("user", "item", "split", "action") if isinstance(table, InteractionsTable) else ()
    return {column for role in roles if (column := getattr(table, role)) is not None}


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _is_binary(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_kind(type_) for is_kind in kinds)


def _is_list(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(type_) for is_kind in kinds)


def _joined(cell: list[Any] | None) -> str:
    return " ".join(str(value) for value in cell or () if value is not None)


def _seconds(column: pa.Array, offset_s: int) -> pa.Array:
    """Return points in time or days as whole seconds since 1970, rounded down, int64; nothing where there is none."""
    is_day = not pa.types.is_timestamp(column.type)
    times = column.cast(pa.timestamp("s")) if is_day else column
    # Times with a zone are counted in UTC already.
    ahead = 0 if times.type.tz else offset_s
    counts = np.asarray(pc.fill_null(times.view(pa.int64()), 0).to_numpy(zero_copy_only=False))
    seconds = np.floor_divide(counts, PER_SECOND[times.type.unit]) - ahead
    return pa.array(seconds, pa.int64(), mask=np.asarray(column.is_null().to_numpy(zero_copy_only=False)))
