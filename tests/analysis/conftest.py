"""Run folders written by hand in the store's form, so that these tests do not depend on what trains models."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.experiments.store import RunStore

DATASET = "toy"
FAMILIES = {
    "popularity": "general",
    "lightgcn": "general",
    "vbpr": "multimedia",
    "diffrec": "diffusion",
    "ld4mrec": "target",
}
PER_USER = [f"{name}@{k}" for name in ("recall", "ndcg", "hit") for k in (10, 20)]


def merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        inside = isinstance(value, Mapping) and isinstance(merged.get(name), dict) and not name.startswith("=")
        merged[name.removeprefix("=")] = merge(merged[name], value) if inside else value
    return merged


class Runs:
    """Writes runs into one results folder."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.store = RunStore(results)
        self.written = 0

    def add(
        self,
        label: str,
        seed: int,
        users: pd.DataFrame | None = None,
        *,
        valid: float | None = None,
        closed_form: bool = False,
        changes: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write one run; `users` holds its per-user test metrics, `changes` is merged into run.json.

        A key written `=name` replaces what is there instead of being merged into it.
        """
        self.written += 1
        users = constant_users(0.1) if users is None else users
        test = {name: float(users[name].mean()) for name in users.columns if name != "user"}
        valid_metrics = {name: value if valid is None else valid for name, value in test.items()}
        name = label.partition("[")[0]
        training = {"epochs": 57, "best_epoch": 37, "stopped": "patience", "n_parameters": 12345}
        cost: dict[str, Any] = {
            "source": "run",
            "epoch_s": 0.21,
            "epoch_s_iqr": [0.2, 0.22],
            "n_epochs_timed": 56,
            "fit_s": 12.3,
            "inference_s": 0.02,
            "inference_users": len(users),
            "peak_host_bytes": 300 * 2**20,
            "peak_device_bytes": None,
        }
        if closed_form:
            training = {"epochs": 0, "best_epoch": 0, "stopped": "closed_form", "n_parameters": 0}
            cost |= {"epoch_s": None, "epoch_s_iqr": None, "n_epochs_timed": 0, "fit_s": 0.5}
        data: dict[str, Any] = {
            "schema_version": 1,
            "created": f"2026-01-01T00:{self.written // 60:02d}:{self.written % 60:02d}.000+00:00",
            "dataset": {
                "name": DATASET,
                "fingerprint": "f" * 64,
                "n_users": 943,
                "n_items": 1682,
                "n_interactions": {"train": 80000, "valid": 10000, "test": 10000},
                "split": {"method": "random", "split_seed": 1, "labels": None},
                "steps": [{"kind": "core", "k": 5, "user_core": None, "item_core": None}],
                "modalities": {"text": 64},
            },
            "model": {
                "name": name,
                "label": label,
                "family": FAMILIES.get(name, "general"),
                "reference": f"baselines.{name}:Model",
                "code": "c0de",
            },
            "hyperparameters": {"embedding_dim": 64, "n_layers": 2},
            "overrides": {},
            "preset": {},
            "seed": seed,
            "protocol": {
                "evaluation": {"name": "mmrec", "ks": [10, 20], "mask": "train", "select_on": "valid"},
                "training": {"max_epochs": 1000, "patience": 20, "monitor": "recall@20"},
            },
            "status": "finished",
            "error": None,
            "metrics": {"valid": valid_metrics, "test": {**test, "coverage@20": 0.3, "popularity@20": 12.5}},
            "training": training,
            "cost": cost,
            "environment": {
                "python": "3.11.7",
                "platform": "Linux",
                "cpu": "Test CPU",
                "n_threads": 2,
                "device": "cpu",
                "gpu": None,
                "packages": {"torch": "2.13.0"},
            },
            "git": {"commit": "0123456789abcdef", "dirty": False},
        }
        data = merge(data, changes or {})
        identity = [data["hyperparameters"], data["model"]["code"], data["dataset"]["fingerprint"], data["protocol"]]
        text = json.dumps([label, seed, *identity], sort_keys=True)
        data["key"] = hashlib.sha256(text.encode()).hexdigest()
        folder = self.store.folder(DATASET, label, seed, data["key"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps(data))
        if data["status"] == "finished":
            users.to_parquet(folder / "users.parquet", index=False)
        return folder

    def add_failed(self, label: str, seed: int, kind: str = "TrainingError") -> Path:
        """Write a run that failed in its third epoch."""
        error = {"type": kind, "message": "the loss is nan", "epoch": 3, "step": 17}
        outcome = {"status": "failed", "error": error, "=metrics": {}, "training": None, "cost": None}
        return self.add(label, seed, changes=outcome)

    def add_model(self, label: str, means: Sequence[float], **more: Any) -> None:
        """Write one run per mean, with seeds from 1 and every user at that mean."""
        for seed, mean in enumerate(means, start=1):
            self.add(label, seed, constant_users(mean), **more)

    def records(self) -> list[Any]:
        """Return all runs."""
        return self.store.records(DATASET)


def constant_users(value: float, n_users: int = 30) -> pd.DataFrame:
    """Return users who all have the same value in every metric."""
    return pd.DataFrame({"user": np.arange(n_users), **dict.fromkeys(PER_USER, value)})


def users_from(values: np.ndarray) -> pd.DataFrame:
    """Return users with these values in every metric."""
    return pd.DataFrame({"user": np.arange(len(values)), **dict.fromkeys(PER_USER, values)})


@pytest.fixture(autouse=True)
def no_forced_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests the full garbage collection of every statsmodels call; it would take most of their time."""
    monkeypatch.setattr("gc.collect", lambda *generation: 0)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "results")


@pytest.fixture
def make_users() -> Callable[[np.ndarray], pd.DataFrame]:
    return users_from
