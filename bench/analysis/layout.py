"""Lay the frames of one dataset out as the report's accuracy, cost and configuration tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.analysis.display import Cell, Table, words
from bench.analysis.selection import MISSING, Selection
from bench.analysis.tables import ESTIMATED, of_metric, split_metric
from bench.analysis.wording import (
    ABSENT,
    fixed,
    is_absent,
    listing,
    percent,
    percent_interval,
    setting,
    significant,
)
from bench.experiments.store import FAILED, FINISHED, RUNNING

METRIC_TITLES = {"recall": "Recall", "ndcg": "NDCG", "precision": "Precision", "map": "MAP", "mrr": "MRR", "hit": "Hit"}
OUT_OF_MEMORY = "OOM"
SIDE_BY_SIDE = "not timed (ran side by side)"
CLOSED_FORM = "closed form"
NOT_COMPARED = "not compared"
LONGEST_REASON = 240

Quantities = Mapping[tuple[str, str, str, int | None], Any]


def metric_title(name: str) -> str:
    """Return `Recall@20` for `recall@20`."""
    metric, k = split_metric(name)
    title = METRIC_TITLES.get(metric, metric)
    return title if k is None else f"{title}@{k}"


def quantities(summary: pd.DataFrame) -> Quantities:
    """Index the summary by (model, split, metric, k)."""
    found = {}
    for row in summary.itertuples(index=False):
        k = None if is_absent(row.k) else int(row.k)
        found[str(row.model), str(row.split), str(row.metric), k] = row
    return found


def accuracy_table(
    selection: Selection,
    summary: pd.DataFrame,
    metrics: Sequence[str],
    changes: pd.DataFrame,
    baseline: str | None,
) -> Table:
    """Lay out `mean ± std` on test per model and metric.

    Args:
        selection: the runs.
        summary: of the same runs.
        metrics: the columns, names like `recall@20`.
        changes: rows over seeds of the reference against `baseline`, for the last line.
        baseline: the strongest baseline, None where there is none.
    """
    known = quantities(summary)
    rows = []
    for label in selection.labels:
        done, expected = len(selection.finished(label)), len(selection.seeds)
        seeds = str(done) if done == expected else f"{done} of {expected}"
        family = selection.runs(label)[0].family
        cells = [_accuracy_cell(selection, known, label, name) for name in metrics]
        rows.append((*words([family, label, seeds]), *cells))
    if baseline is not None and len(changes):
        rows.append(_change_row(selection.reference, baseline, metrics, changes))
    columns = ("Family", "Model", "Seeds", *(f"{metric_title(name)} ↑" for name in metrics))
    return Table("Accuracy on test", columns, tuple(rows), text_columns=2)


def _accuracy_cell(selection: Selection, known: Quantities, label: str, name: str) -> Cell:
    row = known.get((label, "test", *split_metric(name)))
    if row is None:
        return Cell(ABSENT if selection.finished(label) else outcome(selection, label))
    rank = None if is_absent(row.rank) else int(row.rank)
    return Cell(f"{fixed(row.mean)} ± {fixed(row.std)}", rank)


def _change_row(reference: str, baseline: str, metrics: Sequence[str], changes: pd.DataFrame) -> tuple[Cell, ...]:
    cells = []
    for name in metrics:
        rows = of_metric(changes, name)
        row = rows.iloc[0] if len(rows) else None
        if row is None or row["n"] == 0:
            cells.append(Cell(NOT_COMPARED))
        else:
            ends = percent_interval(row["relative_ci_low"], row["relative_ci_high"])
            cells.append(Cell(f"{percent(row['relative'])} {ends if ends != ABSENT else '(no interval)'}"))
    n = str(int(changes["n"].max()))
    return (*words(["change", f"{reference} against {baseline}", n]), *cells)


def outcome(selection: Selection, label: str) -> str:
    """Say in a word why a model has no number: `OOM`, `failed`, `running` or `missing`."""
    runs = selection.runs(label)
    failed = [run for run in runs if run.status == FAILED]
    if failed:
        kinds = {(run.data.get("error") or {}).get("type") for run in failed}
        return OUT_OF_MEMORY if kinds == {OUT_OF_MEMORY} else FAILED
    return RUNNING if any(run.status == RUNNING for run in runs) else MISSING


def cost_table(selection: Selection, summary: pd.DataFrame, efficiency: pd.DataFrame) -> Table:
    """Lay out the median cost per model over its timed runs."""
    known = quantities(summary)
    on_device = bool(efficiency["peak_device_mib"].notna().any())
    columns = ["Model", "Training, s/epoch [quartiles] ↓", "Training, s ↓", "Epochs (best)", "Inference, s ↓"]
    columns += ["Peak host memory, MiB ↓", *(["Peak GPU memory, MiB ↓"] if on_device else []), "Parameters"]
    memory = ["peak_host_mib", *(["peak_device_mib"] if on_device else [])]
    rows = []
    for label in selection.labels:
        if not selection.finished(label):
            rows.append(words([label, *[outcome(selection, label)] * (len(columns) - 1)]))
            continue
        runs = efficiency[efficiency["model"] == label]
        closed = bool((runs["stopped"] == "closed_form").all())
        cells = [
            _epoch_cell(known, label, closed=closed),
            _cost_cell(known, label, "fit_s", about=bool((runs["source"] == ESTIMATED).any())),
            _epochs_cell(known, label, closed=closed),
            *(_cost_cell(known, label, name) for name in ["inference_s", *memory]),
            _parameters_cell(known, label),
        ]
        rows.append((Cell(label), *cells))
    return Table("Cost", tuple(columns), tuple(rows))


def _median(known: Quantities, label: str, name: str) -> tuple[float | None, int | None]:
    row = known.get((label, "cost", name, None))
    if row is None:
        return None, None
    return float(row.median), None if is_absent(row.rank) else int(row.rank)


def _cost_cell(known: Quantities, label: str, name: str, *, about: bool = False) -> Cell:
    value, rank = _median(known, label, name)
    if value is None:
        return Cell(SIDE_BY_SIDE)
    return Cell(f"{'≈ ' if about else ''}{significant(value)}", rank)


def _epoch_cell(known: Quantities, label: str, *, closed: bool) -> Cell:
    if closed:
        return Cell(CLOSED_FORM)
    value, rank = _median(known, label, "epoch_s")
    if value is None:
        return Cell(SIDE_BY_SIDE)
    q1, q3 = (_median(known, label, f"epoch_s_{q}")[0] for q in ("q1", "q3"))
    quartiles = "" if q1 is None or q3 is None else f" [{significant(q1)}, {significant(q3)}]"
    return Cell(f"{significant(value)}{quartiles}", rank)


def _epochs_cell(known: Quantities, label: str, *, closed: bool) -> Cell:
    if closed:
        return Cell(CLOSED_FORM)
    epochs, best = (_median(known, label, name)[0] for name in ("epochs", "best_epoch"))
    return Cell(ABSENT if epochs is None or best is None else f"{epochs:g} ({best:g})")


def _parameters_cell(known: Quantities, label: str) -> Cell:
    value, _ = _median(known, label, "n_parameters")
    return Cell(ABSENT if value is None else f"{value:,.0f}")


def failures_table(selection: Selection) -> Table | None:
    """Lay out every cell that did not finish with its reason, equal ones in one row; None when all did."""
    seeds: dict[tuple[str, str, str, str], list[int]] = {}
    for label in selection.labels:
        for seed in selection.seeds:
            status = selection.status(label, seed)
            if status == FINISHED:
                continue
            run = selection.cells.get((label, seed))
            error = (run.data.get("error") if run is not None else None) or {}
            seeds.setdefault((label, status, _place(error), _reason(status, error)), []).append(seed)
    rows = [words([label, listing(of), status, *rest]) for (label, status, *rest), of in seeds.items()]
    columns = ("Model", "Seeds", "State", "Where", "Reason")
    return Table("Runs that did not finish", columns, tuple(rows), text_columns=5) if rows else None


def _place(error: Mapping[str, Any]) -> str:
    parts = [f"{name} {error[name]}" for name in ("epoch", "step") if error.get(name) is not None]
    return ", ".join(parts) or ABSENT


def _reason(status: str, error: Mapping[str, Any]) -> str:
    if status == MISSING:
        return "never begun"
    if status == RUNNING:
        return "still running, or interrupted before its end"
    message = " ".join(str(error.get("message") or "no reason recorded").split())
    shortened = message if len(message) <= LONGEST_REASON else f"{message[:LONGEST_REASON]} ..."
    return f"{error.get('type') or 'error'}: {shortened}"


def hyperparameters_table(selection: Selection) -> Table:
    """Lay out each model's hyper-parameters by where their values came from."""
    rows = []
    for label in selection.labels:
        data = selection.runs(label)[0].data
        overrides, preset = data.get("overrides") or {}, data.get("preset") or {}
        defaults = {k: v for k, v in data["hyperparameters"].items() if k not in overrides and k not in preset}
        rows.append(words([label, *(_values(part) for part in (overrides, preset, defaults))]))
    columns = ("Model", "Set by the user", "From the preset", "Default")
    return Table("Hyper-parameters", columns, tuple(rows), text_columns=4)


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={setting(value)}" for name, value in sorted(values.items())) or "none"
