"""Run the cells of a plan: one after another in this process, or several at once in worker processes."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.managers import SyncManager
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import torch
from threadpoolctl import threadpool_limits

from bench.data import PreparedDataset
from bench.errors import UsageError
from bench.experiments.cell import record_death, run_cell
from bench.experiments.cost import time_cell
from bench.experiments.plan import Cell
from bench.experiments.store import FINISHED, RunRecord, RunStore
from bench.training import Epoch


class Listener(Protocol):
    """What wants to hear how a plan is going."""

    def cell_started(self, cell: Cell) -> None:
        """A cell has begun."""

    def epoch_done(self, cell: Cell, epoch: Epoch) -> None:
        """An epoch of a cell has ended."""

    def cell_done(self, cell: Cell, record: RunRecord) -> None:
        """A cell has ended, finished or failed."""

    def cell_left(self, cell: Cell) -> None:
        """A cell was left alone, because another process took it first."""

    def timing_started(self, cell: Cell) -> None:
        """The timing pass of a cell that ran beside others has begun."""


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: another word, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdigit()):
        if not torch.cuda.is_available():
            raise UsageError(
                f"--device {name}: expected a CUDA GPU, but torch {torch.__version__} sees none. "
                "Install a CUDA build of torch and check the driver, or use --device cpu."
            )
        count = torch.cuda.device_count()
        if name != "cuda" and int(name[5:]) >= count:
            raise UsageError(f"--device {name}: this machine has {count} CUDA devices, numbered from 0.")
        return torch.device(name)
    raise UsageError(f"--device expects auto, cpu, cuda or cuda:N; found '{name}'.")


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Hold torch and the linear algebra below NumPy and SciPy to a number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Execution:
    """What it takes to run a plan.

    Attributes:
        datasets: the prepared datasets of the plan's cells, by name.
        store: where runs go.
        device: where to train.
        jobs: cells at once; above 1, times come from a separate pass after them.
        listener: hears of progress.
        threads: CPU threads of each cell. One is the default on purpose: sums, and so results, come out the same on
            machines of few and many cores, and threads that share a busy core spend their time waiting for each other.
    """

    datasets: Mapping[str, PreparedDataset]
    store: RunStore
    device: torch.device
    jobs: int
    listener: Listener
    threads: int = 1
    records: list[RunRecord] = field(default_factory=list)

    def run(self, cells: Sequence[Cell]) -> list[RunRecord]:
        """Run the cells and return their records in the order in which they ended; of those left to others, none."""
        self.store.check_writable()
        with thread_limit(self.threads):
            self._run(cells)
        return self.records

    def _run(self, cells: Sequence[Cell]) -> None:
        if self.jobs == 1 or len(cells) < 2:
            for cell in cells:
                self.listener.cell_started(cell)
                dataset = self.datasets[cell.dataset]
                record = run_cell(
                    cell,
                    dataset,
                    self.store,
                    self.device,
                    timed=True,
                    on_epoch=lambda epoch, cell=cell: self.listener.epoch_done(cell, epoch),  # type: ignore[misc]
                )
                self._done(cell, record)
        else:
            with _pool(self.jobs, self.threads, self.listener, cells) as pool:
                self._run_beside(cells, pool)
            self._time_alone(cells)

    def _done(self, cell: Cell, record: RunRecord | None) -> None:
        if record is None:
            self.listener.cell_left(cell)
            return
        self.records.append(record)
        self.listener.cell_done(cell, record)

    def _run_beside(self, cells: Sequence[Cell], pool: "_Pool") -> None:
        """Run the cells in a pool; if a worker dies, run those that were under way again, one at a time.

        A dead worker breaks the whole pool, so only a cell that dies alone is known to be the cause.
        """
        for cell in self._submit(cells, pool.jobs, pool):
            if self._submit([cell], 1, pool):
                reason = "The worker process died without a word; running out of memory is the usual cause."
                self._done(cell, record_death(cell, self.datasets[cell.dataset], self.store, self.device, reason))

    def _submit(self, cells: Sequence[Cell], jobs: int, pool: "_Pool") -> list[Cell]:
        """Run cells at most `jobs` at once; return those that a broken pool left without a record."""
        unfinished: list[Cell] = []
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, initializer=_set_up_worker, initargs=pool.worker_setup) as workers:
            futures: dict[Future[RunRecord | None], Cell] = {}
            for cell in cells:
                folder = self.datasets[cell.dataset].folder
                future = workers.submit(_run_in_worker, cell, folder, self.store.results, str(self.device))
                futures[future] = cell
            for future in as_completed(futures):
                try:
                    self._done(futures[future], future.result())
                except BrokenProcessPool:
                    unfinished.append(futures[future])
        return unfinished

    def _time_alone(self, cells: Sequence[Cell]) -> None:
        """Measure one seed of each configuration with nothing beside it, into the record of that run."""
        finished = {record.key: record for record in self.records if record.status == FINISHED}
        measured: set[tuple[str, str]] = set()
        for cell in cells:
            record = finished.get(cell.key)
            group = (cell.dataset, cell.configuration.label)
            if record is None or group in measured:
                continue
            measured.add(group)
            self.listener.timing_started(cell)
            cost = time_cell(cell, self.datasets[cell.dataset], self.device)
            self.store.write(record.folder, {**record.data, "cost": cost})


@dataclass(frozen=True)
class _Pool:
    jobs: int
    worker_setup: tuple[Any, ...]


@contextmanager
def _pool(jobs: int, threads: int, listener: Listener, cells: Sequence[Cell]) -> Any:
    """Open the channel through which workers report their epochs."""
    by_key = {cell.key: cell for cell in cells}
    manager: SyncManager
    with multiprocessing.get_context("spawn").Manager() as manager:
        channel = manager.Queue()

        def listen() -> None:
            while (event := channel.get()) is not None:
                key, epoch = event
                if epoch is None:
                    listener.cell_started(by_key[key])
                else:
                    listener.epoch_done(by_key[key], epoch)

        thread = Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield _Pool(jobs, (channel, threads))
        finally:
            channel.put(None)
            thread.join(timeout=5)


_report: Callable[[Any], None]


def _set_up_worker(channel: Any, threads: int) -> None:
    global _report
    _report = channel.put
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def _run_in_worker(cell: Cell, folder: Path, results: Path, device: str) -> RunRecord | None:
    _report((cell.key, None))
    return run_cell(
        cell,
        PreparedDataset.load(folder),
        RunStore(results),
        torch.device(device),
        timed=False,
        on_epoch=lambda epoch: _report((cell.key, epoch)),
    )
