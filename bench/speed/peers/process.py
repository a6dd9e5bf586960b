"""One driver in a process of its own, with one thread and without a GPU."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.speed.peers.readings import Job, Readings

# One thread: threads that share a busy core spend their time waiting for each other. No bytecode: the modules of a
# peer lie in a folder of the user's.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "Agg",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class DriverError(Exception):
    """A driver ended without readings; its message is the reason."""


def run_driver(driver: str, job: Job) -> Readings:
    """Run a driver's module on a job and return what it measured.

    Args:
        driver: import path of a module that calls `drive`.
        job: what to measure, plain values.

    Raises:
        DriverError: it failed or ended without a word.
    """
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        job_path, outcome_path = Path(folder) / "job.json", Path(folder) / "outcome.json"
        job_path.write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", driver, str(job_path), str(outcome_path)],
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if not outcome_path.is_file():
            raise DriverError(_last_words(done.returncode, done.stderr))
        outcome = json.loads(outcome_path.read_text(encoding="utf-8"))
    if "error" in outcome:
        raise DriverError(outcome["error"])
    return Readings(**outcome)


def _last_words(code: int, printed: str) -> str:
    """Say how a process ended that wrote no outcome."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return f"its process ended with code {code}" + (f": {lines[-1]}" if lines else " and printed nothing")
