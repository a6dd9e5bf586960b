"""Render tables and paragraphs as Markdown that also reads well as plain text."""

from collections.abc import Sequence

from tabulate import tabulate

from bench.analysis.display import Bullets, Cell, Section, Table


def heading(text: str, level: int) -> str:
    """Return a heading line."""
    return f"{'#' * level} {text}"


def bullets(lines: Sequence[str]) -> str:
    """Return a list, one line an entry."""
    return "\n".join(f"- {line}" for line in lines)


def render_table(table: Table) -> str:
    """Return the table as a padded pipe table with its caption under it.

    The best cell is bold; the second is underlined with the HTML `u` element, as Markdown has no underline.
    """
    body = tabulate(
        [[_cell(cell) for cell in row] for row in table.rows],
        headers=[_escape(column) for column in table.columns],
        tablefmt="pipe",
        colalign=table.alignment(),
        disable_numparse=True,
        preserve_whitespace=False,
    )
    return f"{body}\n\n{table.caption}" if table.caption else body


def _cell(cell: Cell) -> str:
    text = _escape(cell.text)
    marks = {1: f"**{text}**", 2: f"<u>{text}</u>"}
    return marks.get(cell.rank or 0, text)


def _escape(text: str) -> str:
    """Keep a cell on its line and in its column."""
    return " ".join(text.replace("|", "\\|").split())


def join_blocks(blocks: Sequence[str]) -> str:
    """Return blocks with one blank line between, without empty ones, ending in a newline."""
    return "\n\n".join(block.strip("\n") for block in blocks if block.strip()) + "\n"


def render_document(sections: Sequence[Section]) -> str:
    """Return a document: the first section's title is its heading, the others follow one level below."""
    blocks = []
    for place, section in enumerate(sections):
        blocks.append(heading(section.title, 1 if place == 0 else 2))
        for block in section.blocks:
            if isinstance(block, Table):
                blocks.append(render_table(block))
            elif isinstance(block, Bullets):
                blocks.append(bullets(block.lines))
            else:
                blocks.append(block)
    return join_blocks(blocks)
