"""How far a transfer has come: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 30.0


class TransferProgress:
    """Show a transfer with its rate and time left, also where it continues an earlier one; used in `with`.

    Args:
        name: what is being transferred.
        report: takes the lines where stderr is not a terminal.
    """

    def __init__(self, name: str, report: Callable[[str], None]) -> None:
        self._name, self._report = name, report
        self._bar = _bar(name) if sys.stderr.isatty() else None
        self._done = self._began_at = 0
        self._total: int | None = None
        self._began_s = self._shown_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, done: int, total: int | None) -> None:
        """Start counting at `done` of `total` bytes; called again whenever a transfer starts over or continues."""
        self._done = self._began_at = done
        self._total = total
        self._began_s = self._shown_s = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def advance(self, n_bytes: int) -> None:
        """Count bytes that came in."""
        self._done += n_bytes
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
            return
        now_s = time.monotonic()
        if now_s - self._shown_s >= LINE_EVERY_S:
            self._shown_s = now_s
            self._report(self._line(now_s - self._began_s))

    def _line(self, elapsed_s: float) -> str:
        rate = (self._done - self._began_at) / max(elapsed_s, 1e-9)
        speed = f"{in_bytes(int(rate))}/s"
        if self._total is None:
            return f"{self._name}: {in_bytes(self._done)}, {speed}"
        left_s = (self._total - self._done) / max(rate, 1e-9)
        percent = 100 * self._done / max(self._total, 1)
        return f"{self._name}: {percent:.0f} % of {in_bytes(self._total)}, {speed}, {_duration(left_s)} left"


def in_bytes(size: int) -> str:
    """Write a number of bytes for people, as in "12.3 MB"."""
    from rich.filesize import decimal

    return decimal(size)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _bar(name: str) -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(name, total=None)
    return bar
