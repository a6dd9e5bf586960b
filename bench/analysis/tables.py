"""Turn selected runs into tidy frames: one row a value, raw and unrounded.

Accuracy is better when higher; time and memory when lower. Which model is best is decided here, on these
numbers, and not on what a report prints.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from bench.analysis.selection import MISSING, Selection
from bench.experiments.store import FINISHED, RunRecord

MIB = 2**20
# Means that differ by less than this share of their size differ by the rounding of their sums.
EQUAL_MEANS = 1e-12

NOT_TIMED = "not timed"
TIMED_IN_RUN = "run"
ESTIMATED = "timing pass, epoch median x epochs"

ACCURACY_COLUMNS = ("dataset", "model", "seed", "split", "metric", "k", "value")
EFFICIENCY_COLUMNS = (
    "dataset",
    "model",
    "seed",
    "phase",
    "seconds",
    "q1_seconds",
    "q3_seconds",
    "n",
    "unit",
    "peak_host_mib",
    "peak_device_mib",
    "parameters",
    "epochs",
    "best_epoch",
    "stopped",
    "source",
)
RUNS_COLUMNS = (
    "dataset",
    "model",
    "seed",
    "status",
    "included",
    "reason_left_out",
    "error_type",
    "error",
    "error_epoch",
    "error_step",
    "key",
    "fingerprint",
    "created",
)
SUMMARY_COLUMNS = (
    "dataset",
    "model",
    "family",
    "split",
    "metric",
    "k",
    "n_seeds",
    "n_seeds_expected",
    "mean",
    "std",
    "median",
    "rank",
)
LOWER_IS_BETTER = frozenset({"epoch_s", "fit_s", "inference_s", "peak_host_mib", "peak_device_mib"})
HIGHER_IS_BETTER = frozenset({"recall", "ndcg", "precision", "map", "mrr", "hit"})


def split_metric(name: str) -> tuple[str, int | None]:
    """Return `("recall", 20)` for `recall@20`; a metric without a cut-off has None."""
    base, at, k = name.partition("@")
    return (base, int(k)) if at and k.isdigit() else (name, None)


def of_metric(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of one metric, named like `recall@20`."""
    base, k = split_metric(name)
    same_k = frame["k"].isna() if k is None else frame["k"] == k
    return frame[(frame["metric"] == base) & same_k]


def runs_frame(selection: Selection) -> pd.DataFrame:
    """Return every run of the dataset, those left out included, and every cell that was never begun."""
    rows = [_run_row(run, "") for run in selection.cells.values()]
    rows += [_run_row(run, reason) for run, reason in selection.left_out]
    for label in selection.labels:
        for seed in selection.seeds:
            if selection.status(label, seed) == MISSING:
                row = {
                    "model": label,
                    "seed": seed,
                    "status": MISSING,
                    "included": True,
                    "reason_left_out": "",
                }
                rows.append({"dataset": selection.dataset, **row})
    order = {label: place for place, label in enumerate(selection.labels)}
    rows.sort(key=lambda row: (not row["included"], order.get(row["model"], len(order)), row["model"], row["seed"]))
    frame = pd.DataFrame(rows, columns=list(RUNS_COLUMNS))
    return frame.astype({"error_epoch": "Int64", "error_step": "Int64"})


def _run_row(run: RunRecord, reason: str) -> dict[str, Any]:
    error = run.data.get("error") or {}
    return {
        "dataset": run.dataset,
        "model": run.label,
        "seed": run.seed,
        "status": run.status,
        "included": not reason,
        "reason_left_out": reason,
        "error_type": error.get("type"),
        "error": error.get("message"),
        "error_epoch": error.get("epoch"),
        "error_step": error.get("step"),
        "key": run.key,
        "fingerprint": run.fingerprint,
        "created": run.data["created"],
    }


def accuracy_frame(selection: Selection) -> pd.DataFrame:
    """Return the mean metrics of every finished run on validation and test."""
    rows = []
    for label in selection.labels:
        for run in selection.finished(label):
            for split, values in run.data["metrics"].items():
                for name, value in values.items():
                    metric, k = split_metric(name)
                    rows.append((selection.dataset, label, run.seed, split, metric, k, value))
    return pd.DataFrame(rows, columns=list(ACCURACY_COLUMNS)).astype({"k": "Int64", "value": "float64"})


def efficiency_frame(selection: Selection) -> pd.DataFrame:
    """Return the cost of every finished run, one row a phase.

    Phases: `train` is the median epoch with its quartiles over `n` epochs (none for a closed form); `fit` is
    the whole training, construction included; `inference` is one pass over `n` test users. Memory, parameters
    and epochs belong to the run and stand in each of its rows. Where a run was timed in a separate short
    pass, `fit` is the median epoch times the run's epochs and its source says so. A run that was not timed
    has one row with `not timed`.
    """
    rows = []
    for label in selection.labels:
        for run in selection.finished(label):
            shared = {"dataset": selection.dataset, "model": label, "seed": run.seed, **_run_cost(run)}
            rows += [{**shared, **phase} for phase in _phases(run)]
    frame = pd.DataFrame(rows, columns=list(EFFICIENCY_COLUMNS))
    whole = dict.fromkeys(("n", "parameters", "epochs", "best_epoch"), "Int64")
    real = {name: "float64" for name in EFFICIENCY_COLUMNS if name.endswith(("seconds", "mib"))}
    return frame.astype({**whole, **real})


def _run_cost(run: RunRecord) -> dict[str, Any]:
    training, cost = run.data["training"], run.data.get("cost") or {}
    host, device = cost.get("peak_host_bytes"), cost.get("peak_device_bytes")
    return {
        "peak_host_mib": None if host is None else host / MIB,
        "peak_device_mib": None if device is None else device / MIB,
        "parameters": training["n_parameters"],
        "epochs": training["epochs"],
        "best_epoch": training["best_epoch"],
        "stopped": training["stopped"],
    }


def _phases(run: RunRecord) -> list[dict[str, Any]]:
    cost = run.data.get("cost")
    if cost is None:
        return [{"phase": "fit", "unit": "run", "source": NOT_TIMED}]
    source = cost["source"]
    phases = []
    if cost["epoch_s"] is not None:
        q1, q3 = cost["epoch_s_iqr"] or (None, None)
        quartiles = {"q1_seconds": q1, "q3_seconds": q3}
        n = cost.get("n_epochs_timed")
        train = {"phase": "train", "seconds": cost["epoch_s"], "n": n, "unit": "epochs", "source": source}
        phases.append({**train, **quartiles})
    fit_s = cost["fit_s"]
    if fit_s is None and cost["epoch_s"] is not None:
        fit_s, source = cost["epoch_s"] * run.data["training"]["epochs"], ESTIMATED
    phases.append({"phase": "fit", "seconds": fit_s, "n": 1, "unit": "run", "source": source})
    if cost["inference_s"] is not None:
        users = {"n": cost["inference_users"], "unit": "users"}
        phases.append({"phase": "inference", "seconds": cost["inference_s"], **users, "source": cost["source"]})
    return phases


def summary_frame(selection: Selection, accuracy: pd.DataFrame, efficiency: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model and quantity: number of seeds, mean, standard deviation, median, rank.

    Rows with split `valid` or `test` are metrics; those with split `cost` are `epoch_s`, `epoch_s_q1`,
    `epoch_s_q3`, `fit_s`, `inference_s`, `peak_host_mib`, `peak_device_mib`, `n_parameters`, `epochs`,
    `best_epoch`. A model without a finished run has one row with `n_seeds` 0. `rank` is 1 for the best and 2
    for the second, ties shared; metrics without a better side have none.
    """
    values = pd.concat([accuracy, _cost_values(efficiency)], ignore_index=True)
    keys = ["model", "split", "metric", "k"]
    grouped = values.groupby(keys, dropna=False, sort=False)["value"]
    summary = grouped.agg(n_seeds="count", mean="mean", std="std", median="median").reset_index()
    empty = [label for label in selection.labels if label not in set(summary["model"])]
    summary = pd.concat([summary, pd.DataFrame({"model": empty, "n_seeds": 0})], ignore_index=True)
    summary["dataset"] = selection.dataset
    families = {label: selection.runs(label)[0].family for label in selection.labels}
    summary["family"] = summary["model"].map(families)
    summary["n_seeds_expected"] = len(selection.seeds)
    summary["rank"] = pd.Series(pd.NA, index=summary.index, dtype="Int64")
    for (split, metric, _), rows in summary.groupby(["split", "metric", "k"], dropna=False, sort=False):
        by = "median" if split == "cost" else "mean"
        if metric in LOWER_IS_BETTER or metric in HIGHER_IS_BETTER:
            places = rank_best(rows[by], higher_is_better=metric in HIGHER_IS_BETTER)
            summary.loc[rows.index, "rank"] = pd.array(places, dtype="Int64")
    order = {label: place for place, label in enumerate(selection.labels)}
    summary = summary.sort_values("model", key=lambda column: column.map(order), kind="stable", ignore_index=True)
    return summary.astype({"k": "Int64"})[list(SUMMARY_COLUMNS)]


def _cost_values(efficiency: pd.DataFrame) -> pd.DataFrame:
    """Return the cost of runs as rows of `model, seed, split, metric, k, value`."""
    names = {"train": "epoch_s", "fit": "fit_s", "inference": "inference_s"}
    parts = [efficiency.assign(metric=efficiency["phase"].map(names), value=efficiency["seconds"])]
    train = efficiency[efficiency["phase"] == "train"]
    parts += [train.assign(metric=f"epoch_s_{q}", value=train[f"{q}_seconds"]) for q in ("q1", "q3")]
    runs = efficiency.drop_duplicates(["model", "seed"])
    of_run = {name: name for name in ("peak_host_mib", "peak_device_mib", "epochs", "best_epoch")}
    for metric, column in {**of_run, "n_parameters": "parameters"}.items():
        parts.append(runs.assign(metric=metric, value=runs[column].astype("float64")))
    values = pd.concat(parts, ignore_index=True).dropna(subset="value")
    values = values.assign(split="cost", k=pd.array([pd.NA] * len(values), dtype="Int64"))
    return values[["dataset", "model", "seed", "split", "metric", "k", "value"]]


def rank_best(values: Iterable[float], *, higher_is_better: bool) -> list[int | None]:
    """Return 1 for the best value, 2 for the second, None for the rest and for NaN; equal values share."""
    numbers = [float(value) for value in values]
    distinct: list[float] = []
    for value in sorted((v for v in numbers if not math.isnan(v)), reverse=higher_is_better):
        if not distinct or not _equal(value, distinct[-1]):
            distinct.append(value)
    return [_place(value, distinct[:2]) for value in numbers]


def _place(value: float, leaders: Sequence[float]) -> int | None:
    for place, leader in enumerate(leaders, start=1):
        if _equal(value, leader):
            return place
    return None


def _equal(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=EQUAL_MEANS, abs_tol=0.0)


def strongest_baseline(selection: Selection, summary: pd.DataFrame, metric: str) -> str | None:
    """Return the model with the highest mean validation metric among those comparable with the reference.

    Validation decides, so that the choice does not profit from luck on test. Variants of the reference model
    itself and models without all seeds do not count.
    """
    if not selection.has_reference:
        return None
    name = selection.runs(selection.reference)[0].model
    candidates = [
        label
        for label in selection.labels
        if selection.runs(label)[0].model != name
        and all(selection.status(label, seed) == FINISHED for seed in selection.seeds)
    ]
    rows = of_metric(summary[(summary["split"] == "valid") & summary["model"].isin(candidates)], metric)
    return str(rows.loc[rows["mean"].idxmax(), "model"]) if len(rows) else None
