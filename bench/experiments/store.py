"""The run store: one folder a run, readable without this program (JSON, CSV, Parquet, safetensors).

A run is identified by its key, the hash of everything its numbers depend on: dataset fingerprint, model and
its source, hyper-parameters, seed and protocol. Its folder holds

- `run.json`: the key, status, metrics, timings, environment (`SCHEMA_VERSION` says which form);
- `history.csv`: one row an epoch;
- `users.parquet`: per-user test metrics, the source of every later statistic;
- `topk.parquet`: the recommended lists on test;
- `model.safetensors`: the weights of the best epoch, where the model has any.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from filelock import FileLock

from bench.errors import StoreError

SCHEMA_VERSION = 1

FINISHED, FAILED, RUNNING = "finished", "failed", "running"


def run_key(
    fingerprint: str,
    model: str,
    code: str,
    hyperparameters: Mapping[str, Any],
    seed: int,
    protocol: Mapping[str, Any],
) -> str:
    """Return the SHA-256 of what a run's numbers depend on, over canonical JSON.

    `code` is the hash of the model's source, so that an edited model is a new run and not a finished one.
    """
    identity = {
        "dataset": fingerprint,
        "model": model,
        "code": code,
        "hyperparameters": dict(hyperparameters),
        "seed": seed,
        "protocol": dict(protocol),
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class RunRecord:
    """One run as it lies on disk.

    Attributes:
        folder: the run's folder.
        data: the content of its `run.json`.
    """

    folder: Path
    data: dict[str, Any]

    @property
    def key(self) -> str:
        """The run's identity."""
        return str(self.data["key"])

    @property
    def status(self) -> str:
        """`finished`, `failed`, or `running` for one that never came to its end."""
        return str(self.data["status"])

    @property
    def model(self) -> str:
        """The registered name of the model."""
        return str(self.data["model"]["name"])

    @property
    def label(self) -> str:
        """The model's name in reports: with the user's overrides, where there are any."""
        return str(self.data["model"]["label"])

    @property
    def family(self) -> str:
        """The model's family in the registry."""
        return str(self.data["model"]["family"])

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.data["seed"])

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return str(self.data["dataset"]["name"])

    @property
    def fingerprint(self) -> str:
        """The content hash of the prepared dataset."""
        return str(self.data["dataset"]["fingerprint"])

    @property
    def alive(self) -> bool:
        """Whether the process that opened the run is still there; its start time guards against a reused number."""
        process = self.data.get("process") or {}
        try:
            other = psutil.Process(int(process["pid"]))
            return bool(abs(other.create_time() - float(process["started"])) < 1.0)
        except (KeyError, psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def users(self) -> pd.DataFrame:
        """Read the per-user test metrics: column `user` and one column a metric."""
        return self._table("users.parquet")

    def topk(self) -> pd.DataFrame:
        """Read the recommended lists on test: columns `user`, `rank` (from 1), `item`."""
        return self._table("topk.parquet")

    def history(self) -> pd.DataFrame:
        """Read the epochs: columns `epoch`, `loss`, `valid`, `train_s`, `valid_s`."""
        return self._table("history.csv")

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / name
        if not path.is_file():
            raise StoreError(
                f"The run in {self.folder} is {self.status} but lacks {name}. "
                "Delete that folder and run the cell again."
            )
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


class RunStore:
    """All runs under one results folder, `<results>/<dataset>/runs/<label>-seed<seed>-<key8>/`."""

    def __init__(self, results: Path) -> None:
        self.results = results

    def check_writable(self) -> None:
        """Refuse a results folder that cannot be written, before any work is done."""
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            probe = self.results / f".write-test-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"The results folder {self.results.resolve()} cannot be written ({error.strerror}). "
                "Make it writable, or name another one with --results-dir."
            ) from error

    def folder(self, dataset: str, label: str, seed: int, key: str) -> Path:
        """Return where a run lies, whether or not it exists."""
        readable = re.sub(r"[^A-Za-z0-9._=,@+-]+", "_", label).strip("_")[:60]
        return self.results / dataset / "runs" / f"{readable}-seed{seed}-{key[:8]}"

    def datasets(self) -> list[str]:
        """Return the datasets that have runs, by name."""
        return sorted(path.parent.name for path in self.results.glob("*/runs") if path.is_dir())

    def records(self, dataset: str) -> list[RunRecord]:
        """Return all runs of a dataset, whatever their status, oldest first."""
        folder = self.results / dataset / "runs"
        paths = sorted(folder.glob("*/run.json"))
        return sorted((self._read(path) for path in paths), key=lambda r: (r.data["created"], r.folder.name))

    def start(self, folder: Path, data: Mapping[str, Any], *, over_failed: bool = False) -> bool:
        """Open a run: its folder is emptied and marked `running`, so that a run cut short shows as such.

        Args:
            folder: the run's folder.
            data: what its `run.json` is to hold, without the status.
            over_failed: whether a failed run may be replaced, because it is known and asked for again.

        Returns:
            False, with nothing touched, where another process has ended the run or is at it.
        """
        path = folder / "run.json"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".lock"):
            if path.exists():
                there = self._read(path)
                if there.status == FINISHED or there.alive or (there.status == FAILED and not over_failed):
                    return False
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            self.write(folder, {**data, "status": RUNNING})
        return True

    def write(self, folder: Path, data: Mapping[str, Any]) -> None:
        """Replace `run.json` in one step; write it last, when the files it speaks of are there."""
        content = {"schema_version": SCHEMA_VERSION, **data}
        partial = folder / "run.json.partial"
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(folder / "run.json")

    @staticmethod
    def _read(path: Path) -> RunRecord:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data["schema_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is not a readable run record ({error}). Delete its folder and run the cell again."
            ) from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} has schema version {version}; this program reads version {SCHEMA_VERSION}. "
                "Use another results folder, or delete the old runs."
            )
        return RunRecord(path.parent, data)
