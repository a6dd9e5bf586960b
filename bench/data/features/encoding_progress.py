"""How far encoding has come: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 30.0


class EncodingProgress:
    """Show how many things are done, at which rate, and the time left; used in `with`.

    Args:
        things: what is encoded, in the plural.
        total: how many there are.
        report: takes the lines where stderr is not a terminal.
    """

    def __init__(self, things: str, total: int, report: Callable[[str], None]) -> None:
        self._things, self._total, self._report = things, total, report
        self._done = 0
        self._began_s = self._shown_s = time.monotonic()
        self._bar = _bar(f"encoding {things}", total) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Count things that are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
            return
        now_s = time.monotonic()
        if now_s - self._shown_s >= LINE_EVERY_S:
            self._shown_s = now_s
            rate = self._done / (now_s - self._began_s)
            left_s = (self._total - self._done) / rate
            left = f"{left_s:.0f} s" if left_s < 90 else f"{left_s / 60:.0f} min"
            self._report(
                f"encoding {self._things}: {self._done:,} of {self._total:,}, {rate:,.1f} per second, {left} left"
            )


def _bar(name: str, total: int) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(name, total=total)
    return bar
