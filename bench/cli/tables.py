"""Draw the tables of a report on a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from bench.analysis.display import Cell, Table

STYLES = {1: "bold", 2: "underline"}
# What a terminal has room for of a table of paired comparisons; report.md has every column.
COMPARISON_COLUMNS = (
    "Against",
    "n",
    "Relative",
    "95 % interval, relative",
    "p (t), Holm",
    "p (sign-flip), Holm",
    "Size against 1 %",
)


def rich_table(table: "Table", columns: Sequence[str] | None = None) -> RichTable:
    """Return a report's table for the terminal: best bold, second underlined.

    Args:
        table: what to draw.
        columns: those to keep, by heading; a heading the table lacks is no column of it. None keeps all.
    """
    kept = [place for place, name in enumerate(table.columns) if columns is None or name in columns]
    sides = table.alignment()
    drawn = RichTable(title=escape(table.title), title_justify="left")
    for place in kept:
        drawn.add_column(escape(table.columns[place]), justify=sides[place], overflow="fold", no_wrap=place == 0)
    for row in table.rows:
        drawn.add_row(*(_cell(row[place]) for place in kept))
    return drawn


def _cell(cell: "Cell") -> str:
    text = escape(cell.text)
    style = STYLES.get(cell.rank or 0)
    return f"[{style}]{text}[/{style}]" if style else text
