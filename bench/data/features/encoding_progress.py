"""How far encoding has come."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.data.progress import StepProgress

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


class EncodingProgress(StepProgress):
    """Show how many things are encoded, at which rate, and the time left; used in `with`.

    Args:
        things: what is encoded, in the plural.
        total: how many there are.
        report: takes the lines where stderr is not a terminal.
    """

    def __init__(self, things: str, total: int, report: Callable[[str], None]) -> None:
        super().__init__(f"encoding {things}", total, report)

    def columns(self) -> "tuple[ProgressColumn, ...]":
        """Return count and time left."""
        from rich.progress import MofNCompleteColumn, TimeRemainingColumn

        return MofNCompleteColumn(), TimeRemainingColumn()

    def line(self, rate: float) -> str:
        """Return count, rate and time left."""
        return f"{self.name}: {self.done:,} of {self.total:,}, {rate:,.1f} per second, {self.left(rate)} left"
