"""`bench speed`: what the program itself costs, measured on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bench.cli.console import AsJson, note, out, print_json

app = typer.Typer(help="Measure what the program itself costs on this machine.", no_args_is_help=True)


@app.command(epilog="Examples: bench speed prepare, bench speed prepare --format tmall --rows 10000000,40000000")
def prepare(
    format: Annotated[str, typer.Option(help="Raw format to write and read: hm or tmall.")] = "hm",
    rows: Annotated[str | None, typer.Option(help="How many raw rows; several with commas between them.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Folder for the files, some GB; removed afterwards.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prepare synthetic files of a large dataset's raw format up to the split; print time and peak memory."""
    from bench.errors import UsageError, unknown_name
    from bench.speed.preparation import FORMATS, measure

    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    counts = [FORMATS[format]] if rows is None else []
    for part in (rows or "").split(",") if rows else []:
        if not part.strip().isdecimal() or int(part) < 1000:
            raise UsageError(f"--rows {rows}: expected whole numbers from 1000, with commas between them.")
        counts.append(int(part))
    found = [measure(format, count, scratch, note) for count in counts]
    if as_json:
        print_json([asdict(each) for each in found])
        return
    table = Table(title=f"Preparation up to the split, format {format}", title_justify="left")
    for column in ("raw rows", "raw MiB", "seconds", "rows/s", "peak MiB", "interactions left"):
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(
            f"{each.rows:,}",
            f"{each.raw_mib:,.0f}",
            f"{each.seconds:,.1f}",
            f"{each.rows_per_s:,.0f}",
            f"{each.peak_mib:,.0f}",
            f"{each.left:,}",
        )
    out.print(table)
