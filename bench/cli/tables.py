"""Draw the tables of a report on a terminal."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from bench.analysis.display import Cell, Table

STYLES = {1: "bold", 2: "underline"}


def rich_table(table: "Table") -> RichTable:
    """Return a report's table for the terminal: best bold, second underlined."""
    drawn = RichTable(title=escape(table.title), title_justify="left", caption=escape(table.caption) or None)
    drawn.caption_justify = "left"
    for place, (column, side) in enumerate(zip(table.columns, table.alignment(), strict=True)):
        drawn.add_column(escape(column), justify=side, overflow="fold", no_wrap=place > 0 and side == "right")
    for row in table.rows:
        drawn.add_row(*(_cell(cell) for cell in row))
    return drawn


def _cell(cell: "Cell") -> str:
    text = escape(cell.text)
    style = STYLES.get(cell.rank or 0)
    return f"[{style}]{text}[/{style}]" if style else text
