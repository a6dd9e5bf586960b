"""What every command shares: the two consoles, the common options, progress."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from bench.workspace import Workspace

if TYPE_CHECKING:
    from bench.experiments.plan import Cell
    from bench.experiments.store import RunRecord
    from bench.training import Epoch

PLAIN_WIDTH = 160

# A pipe or a file has no width to fit into; eighty columns would only fold the tables.
out = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True)

DataDir = Annotated[Path, typer.Option(help="Folder of recipes, downloads and prepared datasets.")]
ResultsDir = Annotated[Path, typer.Option(help="Folder of run results and reports.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]

PLAIN_INTERVAL_S = 5.0


def workspace(data_dir: Path, results_dir: Path = Path("results")) -> Workspace:
    """Return the workspace of the given folders."""
    return Workspace(data_dir, results_dir)


def note(text: str) -> None:
    """Print a line of progress or advice on stderr, as it is."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def print_error(error: object) -> None:
    """Print an error as one paragraph on stderr."""
    err.print("Error:", style="bold red", end=" ")
    err.print(str(error), markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    typer.echo(json.dumps(value, indent=2, default=str))


def split_names(text: str) -> list[str]:
    """Split a comma-separated option into its names; commas inside a label's brackets separate nothing."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


class _TerminalProgress:
    """Live bars: the plan above, each cell under way below with its epoch, loss and validation metric."""

    def __init__(self, progress: Progress, cells: Sequence["Cell"]) -> None:
        self.progress = progress
        self.total, self.done, self.failed = len(cells), 0, 0
        self.overall = progress.add_task("all cells", total=self.total, detail=f"0 of {self.total}")
        self.tasks: dict[str, TaskID] = {}

    def cell_started(self, cell: "Cell") -> None:
        self.tasks[cell.key] = self.progress.add_task(cell.title, total=None, detail="building")

    def epoch_done(self, cell: "Cell", epoch: "Epoch") -> None:
        self.progress.update(self.tasks[cell.key], detail=_epoch_text(cell, epoch))

    def cell_done(self, cell: "Cell", record: "RunRecord") -> None:
        self.failed += record.status == "failed"
        self._ended(cell, _cell_text(cell, record))

    def cell_left(self, cell: "Cell") -> None:
        self._ended(cell, _left_text(cell))

    def _ended(self, cell: "Cell", text: str) -> None:
        if cell.key in self.tasks:
            self.progress.remove_task(self.tasks.pop(cell.key))
        self.progress.console.print(text, markup=False, highlight=False)
        self.done += 1
        failed = f", {self.failed} failed" if self.failed else ""
        self.progress.update(self.overall, advance=1, detail=f"{self.done} of {self.total}{failed}")

    def timing_started(self, cell: "Cell") -> None:
        self.progress.update(self.overall, detail=f"timing {cell.configuration.label} alone")


class _PlainProgress:
    """Lines for logs: a cell's start and end, and its epoch every few seconds."""

    def __init__(self, cells: Sequence["Cell"]) -> None:
        self.total = len(cells)
        self.done = 0
        self.last_s = 0.0

    def cell_started(self, cell: "Cell") -> None:
        note(f"start {cell.title}")

    def epoch_done(self, cell: "Cell", epoch: "Epoch") -> None:
        from time import monotonic

        if monotonic() - self.last_s >= PLAIN_INTERVAL_S:
            self.last_s = monotonic()
            note(f"      {cell.title}: {_epoch_text(cell, epoch)}")

    def cell_done(self, cell: "Cell", record: "RunRecord") -> None:
        self._ended(_cell_text(cell, record))

    def cell_left(self, cell: "Cell") -> None:
        self._ended(_left_text(cell))

    def _ended(self, text: str) -> None:
        self.done += 1
        note(f"[{self.done}/{self.total}] {text}")

    def timing_started(self, cell: "Cell") -> None:
        note(f"timing {cell.configuration.label} on {cell.dataset} alone")


def _epoch_text(cell: "Cell", epoch: "Epoch") -> str:
    monitor = cell.protocol["training"]["monitor"]
    if epoch.epoch == 0:
        return f"valid {monitor} {epoch.valid:.4f}"
    return f"epoch {epoch.epoch}, loss {epoch.loss:.4g}, valid {monitor} {epoch.valid:.4f}"


def _cell_text(cell: "Cell", record: "RunRecord") -> str:
    if record.status == "failed":
        error = record.data["error"]
        return f"FAILED {cell.title}: {error['type']}: {error['message']}"
    training = record.data["training"]
    monitor = record.data["protocol"]["training"]["monitor"]
    epochs = f", best epoch {training['best_epoch']} of {training['epochs']}" if training["epochs"] else ""
    value = record.data["metrics"]["valid"][monitor]
    return f"{cell.title}: valid {monitor} {value:.4f}{epochs}, {training['wall_s']:.1f} s"


def _left_text(cell: "Cell") -> str:
    return f"{cell.title}: left to another process, which took it first"


@contextmanager
def plan_progress(cells: Sequence["Cell"]) -> Iterator[Any]:
    """Show a plan's progress on stderr: live bars on a terminal, plain lines elsewhere."""
    if not err.is_terminal:
        yield _PlainProgress(cells)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=err) as progress:
        yield _TerminalProgress(progress, cells)
