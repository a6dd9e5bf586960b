"""Tables as plain data: rows of cells with their text and, where there is one, their place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Cell:
    """What one cell says.

    Attributes:
        text: never empty; a word where there is no number.
        rank: 1 for the best of its column, 2 for the second, None otherwise.
    """

    text: str
    rank: int | None = None


@dataclass(frozen=True)
class Table:
    """A table ready to be drawn, in Markdown or on a terminal.

    Attributes:
        title: its heading.
        columns: the headings of its columns.
        rows: its cells, each row as long as `columns`.
        caption: what a reader needs to read it right.
        text_columns: how many columns from the left hold words; the others hold numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    text_columns: int = 1

    def __post_init__(self) -> None:
        """Refuse rows of another length and cells without a word.

        Raises:
            ValueError: the table is not whole.
        """
        for row in self.rows:
            if len(row) != len(self.columns) or not all(cell.text.strip() for cell in row):
                raise ValueError(f"table '{self.title}': expected {len(self.columns)} filled cells, found {row}")

    def alignment(self) -> list[Literal["left", "right"]]:
        """Return how each column is set."""
        return ["left" if place < self.text_columns else "right" for place in range(len(self.columns))]


def words(texts: Sequence[str]) -> tuple[Cell, ...]:
    """Return a row of cells without places."""
    return tuple(Cell(text) for text in texts)


@dataclass(frozen=True)
class Bullets:
    """A list of short lines."""

    lines: tuple[str, ...]


Block = str | Table | Bullets


@dataclass(frozen=True)
class Section:
    """A titled part of a report: paragraphs, tables and lists in reading order."""

    title: str
    blocks: tuple[Block, ...]
