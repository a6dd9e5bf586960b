"""How far a long step has come: a bar on a terminal, a line now and then in a log."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

LINE_EVERY_S = 30.0


class StepProgress(ABC):
    """Count what is done of a total; used in `with`. A kind of progress says its `columns` and its `line`.

    Args:
        name: what stands before the bar.
        total: how much there is; None where that is not known yet.
        report: takes the lines where stderr is not a terminal.
    """

    def __init__(self, name: str, total: int | None, report: Callable[[str], None]) -> None:
        self.name, self.total, self._report = name, total, report
        self.done = self.began_at = 0
        self._began_s = self._shown_s = time.monotonic()
        self._bar = self._new_bar() if sys.stderr.isatty() else None

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
        """Start counting at `done` of `total`; called again whenever the step starts over or continues."""
        self.done = self.began_at = done
        self.total = total
        self._began_s = self._shown_s = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def advance(self, count: int) -> None:
        """Count what came to it."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done)
            return
        now_s = time.monotonic()
        if now_s - self._shown_s >= LINE_EVERY_S:
            self._shown_s = now_s
            self._report(self.line(max(self.done - self.began_at, 1e-9) / max(now_s - self._began_s, 1e-9)))

    def left(self, rate: float) -> str:
        """Write the time left at `rate` per second, for a known total."""
        return in_time(((self.total or 0) - self.done) / rate)

    @abstractmethod
    def columns(self) -> "tuple[ProgressColumn, ...]":
        """Return what stands behind the bar."""

    @abstractmethod
    def line(self, rate: float) -> str:
        """Return the line for a log, at `rate` per second."""

    def _new_bar(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        description = TextColumn("{task.description}", markup=False)
        bar = Progress(description, BarColumn(), *self.columns(), console=Console(stderr=True), transient=True)
        bar.add_task(self.name, total=self.total)
        return bar


def in_time(seconds: float) -> str:
    """Write a duration for people, as in "12 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
