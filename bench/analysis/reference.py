"""Stored results that later runs are checked against: their schema, their file, and how runs become one.

A reference holds, per model, the test metrics of each seed and the cost as a ratio to a calibration workload
timed beside them, so that a file made on one machine can judge another. It lies in
`results/reference/<dataset>.json`.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.analysis.files import write_atomically
from bench.analysis.selection import Selection
from bench.errors import StoreError
from bench.experiments.store import RunRecord

SCHEMA_VERSION = 1
CHECKED_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
UPDATE_HINT = "If the change is meant, store the new state with: bench check --update."


class _Schema(BaseModel):
    """Values that cannot change, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelReference(_Schema):
    """What one model gave.

    Attributes:
        hyperparameters: every one, resolved, as plain JSON values.
        seeds: the training seeds, in the order of the metric lists.
        closed_form: whether the model has no training epochs.
        metrics: test metric per seed, by name.
        mean: mean of each metric over the seeds.
        std: sample standard deviation (ddof 1) of each; 0 for a single seed.
        cost: seconds divided by the calibration's: `epoch_s` (or `fit_s` for a closed form) and
            `inference_s`, each the median over seeds; only what was timed.
    """

    hyperparameters: dict[str, Any]
    seeds: list[int] = Field(min_length=1)
    closed_form: bool
    metrics: dict[str, list[float]]
    mean: dict[str, float]
    std: dict[str, float]
    cost: dict[str, float]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        """Refuse a file whose summary is not that of its values: it was edited by hand."""
        for name, values in self.metrics.items():
            if len(values) != len(self.seeds):
                raise ValueError(f"{name} has {len(values)} values for {len(self.seeds)} seeds")
            for kind, stored, computed in (
                ("mean", self.mean.get(name), statistics.fmean(values)),
                ("std", self.std.get(name), _std(values)),
            ):
                if stored is None or abs(stored - computed) > 1e-9:
                    raise ValueError(f"{kind} of {name} is {stored}, its values give {computed}")
        return self


class Reference(_Schema):
    """What the models gave on one dataset under one protocol.

    Attributes:
        schema_version: form of this file.
        dataset: its name.
        fingerprint: content hash of the prepared data.
        protocol: evaluation and training settings.
        versions: Python and package versions of the runs.
        models: by label.
    """

    schema_version: int = SCHEMA_VERSION
    dataset: str
    fingerprint: str
    protocol: dict[str, Any]
    versions: dict[str, str]
    models: dict[str, ModelReference]


def _std(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def reference_from_runs(selection: Selection, calibration_s: float) -> Reference:
    """Summarize finished runs as a reference.

    Args:
        selection: comparable runs of one dataset; models without a finished run are not in the result.
        calibration_s: seconds of the calibration workload, timed beside the runs.

    Raises:
        ValueError: the calibration took no time.
    """
    if not calibration_s > 0:
        raise ValueError(f"expected a positive calibration time, found {calibration_s}")
    example = selection.example.data
    environment = example.get("environment") or {}
    versions = {"python": environment.get("python"), **(environment.get("packages") or {})}
    models = {
        label: _model_reference(runs, calibration_s)
        for label in selection.labels
        if (runs := selection.finished(label))
    }
    return Reference(
        dataset=selection.dataset,
        fingerprint=selection.example.fingerprint,
        protocol=_plain(example["protocol"]),
        versions={name: str(version) for name, version in versions.items() if version is not None},
        models=models,
    )


def _model_reference(runs: Sequence[RunRecord], calibration_s: float) -> ModelReference:
    tests = [run.data["metrics"]["test"] for run in runs]
    metrics = {name: [float(test[name]) for test in tests] for name in CHECKED_METRICS if all(name in t for t in tests)}
    closed_form = all(run.data["training"]["stopped"] == "closed_form" for run in runs)
    cost = {}
    for name in ("fit_s" if closed_form else "epoch_s", "inference_s"):
        seconds = [s for run in runs if (s := (run.data.get("cost") or {}).get(name)) is not None]
        if seconds:
            cost[name] = statistics.median(seconds) / calibration_s
    return ModelReference(
        hyperparameters=_plain(runs[0].data["hyperparameters"]),
        seeds=[run.seed for run in runs],
        closed_form=closed_form,
        metrics=metrics,
        mean={name: statistics.fmean(values) for name, values in metrics.items()},
        std={name: _std(values) for name, values in metrics.items()},
        cost=cost,
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON gives them back, so that tuples and lists compare equal."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return plain


def save_reference(reference: Reference, path: Path) -> None:
    """Write a reference as JSON that reads and diffs well.

    Raises:
        StoreError: the file cannot be written, or a trained model has a single seed, which gives no spread to
            judge later runs by.
    """
    lonely = [label for label, model in reference.models.items() if not model.closed_form and len(model.seeds) < 2]
    if lonely:
        raise StoreError(
            f"A reference needs at least two seeds of every trained model to know their spread; {', '.join(lonely)} "
            "has one. Run more seeds first."
        )
    write_atomically(path, json.dumps(reference.model_dump(), indent=2, sort_keys=True) + "\n")


def load_reference(path: Path) -> Reference:
    """Read a reference.

    Raises:
        StoreError: there is none, or it is not one that this program can read.
    """
    if not path.is_file():
        raise StoreError(f"There are no stored results at {path}. Make them with: bench check --update.")
    try:
        reference = Reference.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        detail = "; ".join(_fault(fault) for fault in error.errors()) if isinstance(error, ValidationError) else error
        raise StoreError(
            f"{path} is not a readable reference ({detail}). Restore it from version control, or make it anew with: "
            "bench check --update."
        ) from error
    if reference.schema_version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {reference.schema_version}; this program reads version {SCHEMA_VERSION}. "
            "Make it anew with: bench check --update."
        )
    return reference


def _fault(fault: Any) -> str:
    return f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
