"""Delimited text as a stream of batches of text columns, however large the file."""

from collections.abc import Collection, Iterator, Sequence
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pacsv

from bench.data.raw.rawfiles import RawFile
from bench.data.reading.layout import Layout
from bench.data.reading.utf8 import MAX_LINE_BYTES, Utf8Stream, undecodable
from bench.data.recipes.schema import did_you_mean
from bench.data.recipes.tables import Table
from bench.errors import DataError

# Arrow reads up to 32 blocks ahead of whoever takes them.
BLOCK_BYTES = 4 << 20
# Less than the longest cell that Python's own parser of CSV takes.
MAX_ROW_BYTES = 1 << 16
ENCODED = pa.dictionary(pa.int32(), pa.string())


class TextFile:
    """A delimited text file; its first line is read at once, its rows once by `batches`. Use it in a `with`.

    Blank lines are no rows.

    Attributes:
        layout: how the text is laid out.
        columns: names of all columns, in order.
    """

    def __init__(self, file: RawFile, table: Table, name: str) -> None:
        """Read the first line of `file`, which the recipe calls `name`.

        Raises:
            DataError: the file cannot be read, is empty, or its first line is not what the recipe says.
        """
        self.layout = Layout.of(file, table, name)
        self._stream = Utf8Stream(file, table)
        try:
            self.columns = self._read_columns()
        except UnicodeDecodeError as error:
            self._stream.close()
            raise undecodable(file, table) from error
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    @property
    def shown(self) -> str:
        """How messages call the file."""
        return self.layout.file.shown

    def batches(self, wanted: Sequence[str], encoded: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, with the columns `wanted` as text exactly as it stands in the file.

        Args:
            wanted: names of columns; a name may come twice.
            encoded: those of them to return dictionary-encoded.

        Raises:
            DataError: a column is missing, a row has too few or too many cells, or bytes of these columns do not fit
                the encoding.
        """
        self._require(wanted)
        names = list(dict.fromkeys(wanted))
        positions = [self.columns.index(name) for name in names]
        types = [ENCODED if name in encoded else pa.string() for name in names]
        rows = self._parsed(positions, types) if self.layout.is_simple else self._split(positions, types)
        try:
            for batch in rows:
                if len(batch):
                    yield pa.RecordBatch.from_arrays(batch.columns, names=names)
        except pa.ArrowInvalid as error:
            raise self._explained(error) from error
        # An opened quote that nothing closes takes the rest of the file into one cell, and the parser is silent.
        if self.layout.has_quotes and self._stream.n_quotes % 2:
            self.layout.refuse_misfits()

    def _read_columns(self) -> list[str]:
        number, raw = self._take_row()
        line = raw.decode().rstrip("\r\n")
        cells = [cell.strip() for cell in self.layout.cells(line)]
        if self.layout.has_header:
            return cells
        declared = list(self.layout.table.columns)
        if len(cells) != len(declared):
            raise self.layout.misfit(len(declared), number, cells)
        if cells == declared:
            raise DataError(
                f"{self.shown}: the recipe declares the columns of a file without a header line, but line {number} is "
                f"one. Leave out 'columns' in the recipe."
            )
        self._stream.give_back(raw)
        return declared

    def _take_row(self) -> tuple[int, bytes]:
        """Take the first row that is not blank from the stream, and return its line's number and its bytes."""
        number, raw = 0, b""
        while not raw.rstrip(b"\r\n"):
            number += 1
            raw = self._stream.take_line(self.layout.line_ends)
            if not raw:
                raise DataError(f"{self.shown} is empty.")
        while self.layout.has_quotes and self.layout.is_open(raw.decode()):
            more = self._stream.take_line(self.layout.line_ends)
            if not more or len(raw) > MAX_ROW_BYTES:
                raise self.layout.open_quote(number)
            raw += more
        return number, raw

    def _require(self, wanted: Sequence[str]) -> None:
        missing = [name for name in dict.fromkeys(wanted) if name not in self.columns]
        if missing:
            hint = self.layout.other_separator(self.columns[0]) if len(self.columns) == 1 else ""
            raise DataError(
                f"{self.shown}: the recipe expects the column "
                f"{', '.join(did_you_mean(name, self.columns) for name in missing)}, but line 1, split at "
                f"{self.layout.separator_name}, has the columns {', '.join(map(repr, self.columns))}.{hint}"
            )
        for name in wanted:
            if self.columns.count(name) > 1:
                raise DataError(f"{self.shown}: line 1 has the column '{name}' {self.columns.count(name)} times.")

    def _parsed(self, positions: Sequence[int], types: Sequence[pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Yield columns split by Arrow's parser, which knows separators of one character."""
        if self._stream.at_end():
            return
        # Numbers in place of names: a header may name two columns alike, as long as neither is wanted.
        names = [str(position) for position in positions]
        quoted = self.layout.has_quotes
        reader = pacsv.open_csv(
            self._stream,
            pacsv.ReadOptions(block_size=BLOCK_BYTES, column_names=[str(n) for n in range(len(self.columns))]),
            pacsv.ParseOptions(
                delimiter=self.layout.separator, quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            pacsv.ConvertOptions(include_columns=names, column_types=dict(zip(names, types, strict=True))),
        )
        with reader:
            yield from reader

    def _split(self, positions: Sequence[int], types: Sequence[pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Yield columns split from whole lines, for what a parser of CSV does not know."""
        for lines in self._lines():
            cells = self._cells(lines)
            columns = [cells[position] for position in positions]
            yield pa.RecordBatch.from_arrays(
                [
                    column.dictionary_encode() if type_ == ENCODED else column
                    for column, type_ in zip(columns, types, strict=True)
                ],
                names=[str(position) for position in positions],
            )

    def _lines(self) -> Iterator[pa.StringArray]:
        rest = b""
        while block := self._stream.read(BLOCK_BYTES):
            text = rest + block
            cut = text.rfind(b"\n") + 1
            rest = text[cut:]
            if len(rest) > MAX_LINE_BYTES:
                raise DataError(f"{self.shown} is no text: a line of it is longer than {MAX_LINE_BYTES >> 20} MiB.")
            yield self._without_ends(text[:cut])
        yield self._without_ends(rest)

    @staticmethod
    def _without_ends(text: bytes) -> pa.StringArray:
        lines = pc.split_pattern(pa.array([text], pa.binary()).cast(pa.string()), "\n").flatten()
        lines = pc.utf8_rtrim(lines, "\r")
        return lines.filter(pc.not_equal(lines, ""))

    def _cells(self, lines: pa.StringArray) -> list[pa.StringArray]:
        """Split lines into cells [n_columns][n_lines]."""
        separator, table, n_columns = self.layout.separator, self.layout.table, len(self.columns)
        if table.free_text is None:
            return self._elements(pc.split_pattern(lines, separator), n_columns)
        # Split off the columns before the free text from the left, and those after it from the right.
        n_before = self.columns.index(table.free_text)
        n_after = n_columns - 1 - n_before
        before = self._elements(pc.split_pattern(lines, separator, max_splits=n_before), n_before + 1)
        rest = pc.split_pattern(before.pop(), separator, max_splits=n_after, reverse=True)
        return before + self._elements(rest, n_after + 1)

    def _elements(self, lists: pa.ListArray, n: int) -> list[pa.StringArray]:
        if pc.any(pc.not_equal(pc.list_value_length(lists), n)).as_py():
            self.layout.refuse_misfits()
        return [pc.list_element(lists, position) for position in range(n)]

    def _explained(self, error: pa.ArrowInvalid) -> DataError:
        """Find out what Arrow stumbled over."""
        words = str(error)
        if "UTF8" in words:
            return undecodable(self.layout.file, self.layout.table)
        self.layout.refuse_misfits()
        return DataError(
            f"{self.shown} does not split into columns at {self.layout.separator_name}: {words}. Check the separator "
            f"in the recipe."
        )
