"""How far a transfer has come."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.data.progress import StepProgress

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


class TransferProgress(StepProgress):
    """Show a transfer with its rate and time left, also where it continues an earlier one; used in `with`.

    Args:
        name: what is being transferred.
        report: takes the lines where stderr is not a terminal.
    """

    def __init__(self, name: str, report: Callable[[str], None]) -> None:
        super().__init__(name, None, report)

    def columns(self) -> "tuple[ProgressColumn, ...]":
        """Return size, rate and time left."""
        from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

        return DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()

    def line(self, rate: float) -> str:
        """Return percent, size, rate and time left; without a known size what came so far."""
        speed = f"{in_bytes(int(rate))}/s"
        if self.total is None:
            return f"{self.name}: {in_bytes(self.done)}, {speed}"
        percent = 100 * self.done / max(self.total, 1)
        return f"{self.name}: {percent:.0f} % of {in_bytes(self.total)}, {speed}, {self.left(rate)} left"


def in_bytes(size: int) -> str:
    """Write a number of bytes for people, as in "12.3 MB"."""
    from rich.filesize import decimal

    return decimal(size)
