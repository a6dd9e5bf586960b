"""How a raw text file splits into rows and cells, read line by line: slowly, but knowing every line's number.

The fast readers use it for a file's first line and, once something is wrong, to find the line that is to blame.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.data.raw.rawfiles import RawFile
from bench.data.reading.utf8 import Utf8Stream
from bench.data.recipes.tables import ItemsTable, Table
from bench.errors import DataError

SEPARATORS = {
    ",": "a comma",
    "\t": "a tab",
    ";": "a semicolon",
    "|": "a bar",
    "::": "two colons",
    "\x01": "the control character SOH",
    " ": "a space",
}
END = "\x00end of file"


def is_columnar(name: str) -> bool:
    """Say whether the file that a recipe calls `name` is a Parquet file, which names and types its columns itself."""
    return re.search(r"\.parquet(\.gz)?$", name.lower()) is not None


@dataclass(frozen=True)
class Layout:
    """How the text of `file` is laid out.

    Attributes:
        file: the raw file.
        table: its description in the recipe.
        separator: between cells; none where a line is one object, and where there are no lines.
    """

    file: RawFile
    table: Table
    separator: str | None

    @classmethod
    def of(cls, file: RawFile, table: Table, name: str) -> "Layout":
        """Describe the file that the recipe calls `name`."""
        objects = isinstance(table, ItemsTable) and table.format != "delimited"
        return cls(file, table, None if objects or is_columnar(name) else table.separator_of(name))

    @property
    def has_quotes(self) -> bool:
        """Say whether quotes keep a cell together, rather than being letters."""
        return self.separator == "," and self.table.free_text is None

    @property
    def is_simple(self) -> bool:
        """Say whether one character separates all cells, as parsers of CSV expect."""
        return self.separator is not None and len(self.separator) == 1 and self.table.free_text is None

    @property
    def has_header(self) -> bool:
        """Say whether the first row names the columns."""
        return self.separator is not None and not self.table.columns

    @property
    def line_ends(self) -> "re.Pattern[bytes]":
        """What ends a line: parsers of CSV also take a lone carriage return."""
        return re.compile(rb"\r\n|\r|\n" if self.is_simple else rb"\n")

    def cells(self, line: str) -> list[str]:
        """Split one row, without its line end."""
        if self.separator is None:
            return [line]
        if self.has_quotes:
            return self._quoted_cells(line)
        if self.table.free_text is None:
            return line.split(self.separator)
        n_before = self.table.columns.index(self.table.free_text)
        n_after = len(self.table.columns) - 1 - n_before
        *before, rest = line.split(self.separator, n_before)
        return [*before, *rest.rsplit(self.separator, n_after)] if len(before) == n_before else [*before, rest]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that is not blank with the number of its first line, from 1; a header is a row, too."""
        with Utf8Stream(self.file, self.table) as stream:
            newline = "" if self.is_simple else "\n"
            text = io.TextIOWrapper(io.BufferedReader(stream), "utf-8", "replace", newline=newline)
            if self.has_quotes:
                yield from self._quoted_rows(text)
                return
            for number, line in enumerate(text, start=1):
                if bare := line.rstrip("\r\n"):
                    yield number, self.cells(bare)

    def _quoted_rows(self, lines: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
        def ended() -> Iterator[str]:
            for line in lines:
                yield line if line[-1] in "\r\n" else line + "\n"
            yield END

        reader, start = csv.reader(ended()), 1
        try:
            for cells in reader:
                # A quote that is never closed takes the mark of the end into its cell.
                if END in "".join(cells[-1:]) and cells != [END]:
                    raise self.open_quote(start)
                if cells and cells != [END]:
                    yield start, cells
                start = reader.line_num + 1
        except csv.Error as error:
            raise self.open_quote(start) from error

    def is_open(self, line: str) -> bool:
        """Say whether a quote that opens in this row is not closed in it."""
        return END in "".join(self._quoted_cells(f"{line}\n{END}"))

    def _quoted_cells(self, text: str) -> list[str]:
        try:
            return next(csv.reader(io.StringIO(text, newline="")), [])
        except csv.Error as error:
            raise DataError(
                f"{self.file.shown} is no table: its first row has a cell without end ({error})."
            ) from error

    def open_quote(self, line: int) -> DataError:
        """Build the error for a row in which a quote opens that nothing closes."""
        return DataError(
            f"{self.file.shown}, line {line}: a quote opens in this row and is not closed. Where quotes are letters, "
            f"name all 'columns' and the 'free_text' among them in the recipe."
        )

    def line_of(self, row: int) -> int:
        """Return the number of the line on which data row `row`, from 0, starts."""
        for position, (line, _) in enumerate(self.rows()):
            if position == row + self.has_header:
                return line
        raise IndexError(f"{self.file.shown} has no data row {row}")

    def place_of(self, row: int) -> str:
        """Say where data row `row`, from 0, is found in the file."""
        return f"row {row} (counted from 0)" if is_columnar(self.file.name) else f"line {self.line_of(row)}"

    def refuse_misfits(self) -> None:
        """Refuse the first row that has another number of cells than there are columns, and quotes left open."""
        n_columns = len(self.table.columns)
        for line, cells in self.rows():
            n_columns = n_columns or len(cells)
            if len(cells) != n_columns:
                raise self.misfit(n_columns, line, cells)

    def misfit(self, n_columns: int, line: int, cells: Sequence[str]) -> DataError:
        """Build the error for a row with another number of cells than there are columns."""
        wish = f"the header has {n_columns} columns" if self.has_header else f"the recipe declares {n_columns} columns"
        hint = self.other_separator(cells[0]) if len(cells) == 1 else ""
        return DataError(
            f"{self.file.shown}: {wish}, but line {line} has {len(cells)} when split at {self.separator_name}."
            f"{hint or ' Check that line, and the separator in the recipe.'}"
        )

    @property
    def separator_name(self) -> str:
        """The separator in words."""
        return SEPARATORS.get(self.separator or "", repr(self.separator))

    def other_separator(self, line: str) -> str:
        """Suggest the separator that splits a line which came out as one cell."""
        for other, name in SEPARATORS.items():
            if other != self.separator and other in line:
                return f" It looks split at {name}: set separator = {json.dumps(other)} in the recipe."
        return ""


@dataclass(frozen=True)
class Origin:
    """Where rows were read: their file, and the number of its first row among the rows of all files."""

    layout: Layout
    first_row: int


def refuse(
    bad: NDArray[np.bool_], texts: pa.Array, rows: NDArray[np.int64], origins: Sequence[Origin], column: str, wish: str
) -> None:
    """Refuse values that are not what they should be, naming the first and its line.

    Args:
        bad: which values to refuse [n].
        texts: the values as they stand in the file [n].
        rows: number of each value's row among the rows of all files [n].
        origins: the files, in the order of their rows.
        column: name of the column in the file.
        wish: what the column should hold, in words.

    Raises:
        DataError: a value is refused.
    """
    if not bad.any():
        return
    first = int(bad.argmax())
    row = int(rows[first])
    origin = [origin for origin in origins if origin.first_row <= row][-1]
    place = origin.layout.place_of(row - origin.first_row)
    more = f" ({int(bad.sum()):,} such {place.split()[0]}s of {len(bad):,})" if bad.sum() > 1 else ""
    raise DataError(
        f"{origin.layout.file.shown}, {place}: the column '{column}' should hold {wish}, but holds "
        f"{str(texts[first]).strip()!r}{more}."
    )
