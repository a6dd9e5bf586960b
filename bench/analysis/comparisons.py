"""Compare the reference model with every other one, over seeds and over users, from the run store."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.selection import Selection
from bench.analysis.significance import (
    ALPHA,
    P_COLUMNS,
    SMALLEST_RELATIVE_DIFFERENCE,
    Comparison,
    Unit,
    Values,
    adjust_family,
    compare_paired,
)
from bench.analysis.tables import split_metric
from bench.errors import StoreError
from bench.experiments.store import RunRecord

KEY_COLUMNS = ("dataset", "split", "metric", "k", "reference", "model", "unit", "n")
EFFECT_COLUMNS = (
    "mean_reference",
    "mean_model",
    "difference",
    "ci_low",
    "ci_high",
    "relative",
    "relative_ci_low",
    "relative_ci_high",
    "d_z",
    "won",
    "tied",
    "lost",
    "smallest_difference",
    "versus_smallest",
)
TEST_COLUMNS = (
    *P_COLUMNS,
    *(f"{name}_holm" for name in P_COLUMNS),
    "family_size",
    "floor",
    "can_reach_alpha",
    "can_reach_alpha_holm",
)


def compare_models(
    selection: Selection, metrics: Sequence[str], *, tests: bool = True, alpha: float = ALPHA
) -> pd.DataFrame:
    """Compare the reference with every other model on the test split, each metric a family of its own.

    Args:
        selection: the comparable runs.
        metrics: names like `recall@20`, each in every finished run.
        tests: False leaves out the p values and what belongs to them.
        alpha: family-wise error rate.

    Returns:
        One row per metric, model and unit (`seed`, `user`): means, difference (reference minus model) with
        its 95 % interval, relative change, effect size, shares won, tied and lost, and the tests. A model
        without all of the reference's seeds has its row with `n` 0 and the reason in `note`. Empty without a
        reference.

    Raises:
        StoreError: a run lacks its per-user metrics or a metric, or two runs were tested on different users.
    """
    rows: list[dict[str, Any]] = []
    others = [label for label in selection.labels if label != selection.reference]
    if selection.has_reference:
        gaps = {label: _gap(selection, label) for label in others}
        users = _user_means(selection.finished(selection.reference), metrics) if not all(gaps.values()) else None
        for label in others:
            rows += _compare_one(selection, label, metrics, users, gaps[label], tests=tests)
    columns = [*KEY_COLUMNS, *EFFECT_COLUMNS, *(TEST_COLUMNS if tests else ()), "note"]
    frame = pd.DataFrame(rows, columns=[*KEY_COLUMNS, *EFFECT_COLUMNS, *P_COLUMNS, "floor", "note"])
    frame = frame.astype({"k": "Int64", "n": "int64"}).sort_values(
        ["metric", "k", "unit"], key=_metric_order(metrics), kind="stable", ignore_index=True
    )
    return (adjust_family(frame, alpha) if tests else frame)[columns]


def _metric_order(metrics: Sequence[str]) -> Any:
    """Sort metrics as given; cut-offs and units follow their own order."""
    places = {split_metric(name)[0]: place for place, name in reversed(list(enumerate(metrics)))}
    return lambda column: column.map(places) if column.name == "metric" else column


def _gap(selection: Selection, label: str) -> str:
    """Say why a model cannot be paired with the reference; empty when it can."""
    of_reference = selection.gap(selection.reference)
    if of_reference:
        return f"left out: {selection.reference} has {of_reference}"
    of_model = selection.gap(label)
    return f"left out: {of_model}" if of_model else ""


def _compare_one(
    selection: Selection,
    label: str,
    metrics: Sequence[str],
    reference_users: pd.DataFrame | None,
    gap: str,
    *,
    tests: bool,
) -> list[dict[str, Any]]:
    if gap or reference_users is None:
        units: tuple[Unit, Unit] = ("seed", "user")
        return [_row(selection, label, name, Comparison(unit, note=gap)) for name in metrics for unit in units]
    reference, model = selection.finished(selection.reference), selection.finished(label)
    users = _user_means(model, metrics)
    _check_same_users(reference_users, users, selection.reference, label)
    rows = []
    for name in metrics:
        over_seeds = compare_paired(_seed_values(reference, name), _seed_values(model, name), "seed", tests=tests)
        over_users = compare_paired(reference_users[name].to_numpy(), users[name].to_numpy(), "user", tests=tests)
        rows += [_row(selection, label, name, result) for result in (over_seeds, over_users)]
    return rows


def _row(selection: Selection, label: str, name: str, result: Comparison) -> dict[str, Any]:
    metric, k = split_metric(name)
    relative, relative_low, relative_high = result.relative
    return {
        **asdict(result),
        "dataset": selection.dataset,
        "split": "test",
        "metric": metric,
        "k": k,
        "reference": selection.reference,
        "model": label,
        "relative": relative,
        "relative_ci_low": relative_low,
        "relative_ci_high": relative_high,
        "smallest_difference": SMALLEST_RELATIVE_DIFFERENCE * abs(result.mean_model),
        "versus_smallest": result.versus_smallest,
    }


def _seed_values(runs: Sequence[RunRecord], name: str) -> Values:
    values = []
    for run in runs:
        value = run.data["metrics"]["test"].get(name)
        if value is None:
            raise StoreError(f"The run in {run.folder} has no test metric {name}. Name another with --metric.")
        values.append(value)
    return np.asarray(values, dtype=np.float64)


def _user_means(runs: Sequence[RunRecord], metrics: Sequence[str]) -> pd.DataFrame:
    """Return each user's metrics averaged over runs, index `user` sorted, one column a metric.

    Raises:
        StoreError: a metric is missing or not a number, or the runs were tested on different users.
    """
    total: pd.DataFrame | None = None
    for run in runs:
        frame = _run_users(run, metrics)
        if total is None:
            total, first = frame, run
        else:
            _check_same_users(total, frame, f"{first.label} seed {first.seed}", f"{run.label} seed {run.seed}")
            total = total + frame
    if total is None:
        raise ValueError("expected at least one run")
    return total / len(runs)


def _run_users(run: RunRecord, metrics: Sequence[str]) -> pd.DataFrame:
    frame = run.users()
    absent = [name for name in ("user", *metrics) if name not in frame.columns]
    if absent:
        raise StoreError(f"{run.folder / 'users.parquet'} has no column {', '.join(absent)}. Run the cell again.")
    frame = frame.set_index("user").sort_index()[list(metrics)].astype("float64")
    if frame.index.has_duplicates or frame.isna().to_numpy().any():
        raise StoreError(
            f"{run.folder / 'users.parquet'} must have one row a user and a number in every metric, but has "
            "repeated users or missing values. Delete that folder and run the cell again."
        )
    return frame


def _check_same_users(a: pd.DataFrame, b: pd.DataFrame, name_a: str, name_b: str) -> None:
    if a.index.equals(b.index):
        return
    only_a, only_b = a.index.difference(b.index), b.index.difference(a.index)
    raise StoreError(
        f"{name_a} and {name_b} were tested on different users: {len(only_a)} only in the first, "
        f"{len(only_b)} only in the second (for example {[*only_a[:3], *only_b[:3]]}). A paired comparison "
        "needs the same users; delete the runs that are wrong and run them again."
    )
