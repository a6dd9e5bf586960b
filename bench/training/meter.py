"""The clock and the memory gauge, the same for every model.

Times are wall-clock seconds with the device synchronised at both ends. Host memory is the peak resident set of the
process while the gauge runs, less what was resident when it began: what the cell itself took. On Linux the kernel
keeps that high-water mark exactly and lets it be reset; elsewhere a thread samples it, which can miss short peaks.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from bench.training.allocator import return_free_memory

_SELF = Path("/proc/self")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Stopwatch:
    """Seconds of one measured block; 0 until the block has ended."""

    seconds: float = 0.0


@contextmanager
def stopwatch(device: torch.device) -> Iterator[Stopwatch]:
    """Measure the block in wall-clock seconds with the device synchronised at both ends."""
    watch = Stopwatch()
    synchronize(device)
    start = time.perf_counter()
    yield watch
    synchronize(device)
    watch.seconds = time.perf_counter() - start


@dataclass
class MemoryGauge:
    """Peak memory of one measured block, in bytes.

    Attributes:
        peak_host_bytes: growth of the process's resident set at its peak over its size at the start.
        peak_device_bytes: most memory torch had allocated on the CUDA device, None on CPU.
        method: how the host peak was found: "kernel" (exact) or "sampled" (every 10 ms).
    """

    peak_host_bytes: int = 0
    peak_device_bytes: int | None = None
    method: str = "kernel"


@contextmanager
def memory_gauge(device: torch.device) -> Iterator[MemoryGauge]:
    """Measure the peak memory of the block."""
    return_free_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    process = psutil.Process()
    start = process.memory_info().rss
    gauge = MemoryGauge()
    if _reset_high_water_mark():
        yield gauge
        gauge.peak_host_bytes = max(0, _high_water_mark() - start)
    else:
        gauge.method = "sampled"
        with _sampled_peak(process) as peak:
            yield gauge
        gauge.peak_host_bytes = max(0, peak[0] - start)
    if device.type == "cuda":
        gauge.peak_device_bytes = torch.cuda.max_memory_allocated(device)


def _reset_high_water_mark() -> bool:
    """Reset the kernel's peak of the resident set; False where the system has no such thing."""
    control = _SELF / "clear_refs"
    if not control.exists():
        return False
    try:
        control.write_text("5")
    except OSError:
        return False
    return True


def _high_water_mark() -> int:
    for line in (_SELF / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def _sampled_peak(process: psutil.Process) -> Iterator[list[int]]:
    peak = [process.memory_info().rss]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak[0] = max(peak[0], process.memory_info().rss)
