"""Build the report of one dataset from the run store: tables, paired comparisons, notes, and their raw frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from bench.analysis import statements
from bench.analysis.comparison_tables import comparison_table, reasons, seed_statements, user_statements
from bench.analysis.comparisons import compare_models
from bench.analysis.display import Block, Bullets, Section, Table
from bench.analysis.files import write_atomically
from bench.analysis.layout import (
    accuracy_table,
    cost_table,
    failures_table,
    hyperparameters_table,
    metric_title,
)
from bench.analysis.markdown import render_document
from bench.analysis.selection import Selection, cut_short, describe_left_out, mixed_conditions, select_runs
from bench.analysis.significance import ALPHA
from bench.analysis.tables import (
    HIGHER_IS_BETTER,
    accuracy_frame,
    efficiency_frame,
    of_metric,
    runs_frame,
    split_metric,
    strongest_baseline,
    summary_frame,
)
from bench.analysis.wording import count
from bench.errors import StoreError, unknown_name
from bench.experiments.store import FINISHED, RunStore

UNITS = ("seed", "user")
SHOWN_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


@dataclass(frozen=True)
class Report:
    """Everything to say about one dataset.

    Attributes:
        dataset: its name.
        reference: label of the model the others are compared with.
        metric: the declared primary metric.
        baseline: the strongest baseline by validation; None where there is none.
        headline: the outcome in a sentence or two.
        warnings: what makes the numbers less comparable than they look.
        accuracy: `mean ± std` on test per model.
        cost: time and memory per model.
        comparisons: the reference against every other model, over seeds and over users; empty without a
            reference.
        remarks: for each comparison, what is left out of it and what it can and cannot show.
        failures: cells that did not finish; None when all did.
        sections: the whole report in reading order.
        frames: raw, tidy frames by file name without suffix.
    """

    dataset: str
    reference: str
    metric: str
    baseline: str | None
    headline: tuple[str, ...]
    warnings: tuple[str, ...]
    accuracy: Table
    cost: Table
    comparisons: tuple[Table, ...]
    remarks: tuple[tuple[str, ...], ...]
    failures: Table | None
    sections: tuple[Section, ...]
    frames: Mapping[str, pd.DataFrame]

    @property
    def markdown(self) -> str:
        """The report as Markdown."""
        return render_document(self.sections)

    def write(self, folder: Path) -> list[Path]:
        """Write `report.md` and one CSV per frame into `folder`, each in one step, the report last.

        Returns:
            The files written.

        Raises:
            StoreError: the folder or a file cannot be written.
        """
        written = []
        for name, frame in self.frames.items():
            path = folder / f"{name}.csv"
            write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))
            written.append(path)
        write_atomically(folder / "report.md", self.markdown)
        return [*written, folder / "report.md"]


def build_report(
    store: RunStore,
    dataset: str,
    *,
    reference: str = "ld4mrec",
    metric: str = "recall@20",
    pvalues: bool = False,
    alpha: float = ALPHA,
    models: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Report:
    """Read a dataset's runs and build its report.

    Args:
        store: the run store.
        dataset: name of the dataset.
        reference: label of the model the others are compared with.
        metric: the declared primary metric, measured per user.
        pvalues: whether the paired differences are tested, and not only shown with their intervals.
        alpha: family-wise error rate.
        models: labels or model names to show; None shows all. The reference is always among them.
        seeds: seeds to show; None takes the reference's.

    Raises:
        StoreError: there are no runs to show, or tests are asked for without runs of the reference.
        UsageError: the metric is unknown.
    """
    selection = select_runs(store.records(dataset), dataset, reference=reference, models=models, seeds=seeds)
    metrics = _metrics(selection, metric)
    if pvalues and not selection.has_reference:
        raise StoreError(
            f"p values compare every model with the reference, but dataset {dataset} has no runs of '{reference}'. "
            f"Run it, or name one of these with --reference: {', '.join(selection.labels)}."
        )
    accuracy, efficiency = accuracy_frame(selection), efficiency_frame(selection)
    summary = summary_frame(selection, accuracy, efficiency)
    comparisons = compare_models(selection, metrics, tests=pvalues, alpha=alpha)
    baseline = strongest_baseline(selection, summary, metric)
    over_seeds = comparisons[(comparisons["unit"] == "seed") & (comparisons["model"] == baseline)]
    accuracy_cells = accuracy_table(selection, summary, metrics, over_seeds, baseline)
    cost_cells = cost_table(selection, summary, efficiency)
    primary = of_metric(comparisons, metric)
    warnings = [*statements.protocol_warnings(selection), *cut_short(selection), *mixed_conditions(selection)]
    by_unit = [primary[primary["unit"] == unit] for unit in UNITS] if len(primary) else []
    report = Report(
        dataset=dataset,
        reference=reference,
        metric=metric,
        baseline=baseline,
        headline=tuple(statements.headline(selection, comparisons, baseline, metric)),
        warnings=tuple(warnings),
        accuracy=replace(accuracy_cells, caption=statements.accuracy_caption(selection, metric)),
        cost=replace(cost_cells, caption=statements.cost_caption(selection, efficiency)),
        comparisons=tuple(
            comparison_table(rows, unit, metric, alpha) for unit, rows in zip(UNITS, by_unit, strict=False)
        ),
        remarks=tuple(
            _remarks(rows, unit, len(selection.seeds), alpha, pvalues=pvalues)
            for unit, rows in zip(UNITS, by_unit, strict=False)
        ),
        failures=failures_table(selection),
        sections=(),
        frames={
            "accuracy": accuracy,
            "efficiency": efficiency,
            "runs": runs_frame(selection),
            "summary": summary,
            "comparisons": comparisons,
        },
    )
    return replace(report, sections=_sections(report, selection, pvalues=pvalues))


def _metrics(selection: Selection, metric: str) -> list[str]:
    """Return the metrics to show, the primary among them.

    Raises:
        UsageError: no finished run has the primary metric, or it is not one measured per user.
    """
    finished = [run for run in selection.cells.values() if run.status == FINISHED]
    if not finished:
        return [metric]
    known = set.intersection(*(set(run.data["metrics"]["test"]) for run in finished))
    per_user = {name for name in known if split_metric(name)[0] in HIGHER_IS_BETTER}
    if metric not in per_user:
        raise unknown_name("metric", metric, per_user, "The primary metric is one that every user has.")
    shown = [name for name in SHOWN_METRICS if name in per_user]
    return shown if metric in shown else [*shown, metric]


def _remarks(rows: pd.DataFrame, unit: str, n_seeds: int, alpha: float, *, pvalues: bool) -> tuple[str, ...]:
    lines = reasons(rows)
    if pvalues:
        lines += seed_statements(rows, alpha) if unit == "seed" else user_statements(rows, n_seeds, alpha)
    return tuple(lines)


def _sections(report: Report, selection: Selection, *, pvalues: bool) -> tuple[Section, ...]:
    opening: list[Block] = [statements.data_paragraph(selection), *report.headline]
    if report.warnings:
        opening.append(Bullets(tuple(f"Warning: {line}" for line in report.warnings)))
    compared = count(len(selection.labels), "model")
    subject = f"{report.reference} and its baselines" if selection.has_reference else f"{compared} compared"
    change = statements.change_note(selection, report.baseline, report.metric)
    sections = [
        Section(f"{report.dataset}: {subject}", tuple(opening)),
        Section("Accuracy", (report.accuracy, change)),
        Section("Cost", (f"Machine: {statements.machine(selection)}", report.cost)),
    ]
    for table, remarks in zip(report.comparisons, report.remarks, strict=True):
        sections.append(Section(table.title, (table, Bullets(remarks)) if remarks else (table,)))
    if report.failures is not None:
        sections.append(Section("Runs that did not finish", (report.failures,)))
    else:
        sections.append(Section("Runs that did not finish", ("None: every model finished every seed.",)))
    sections.append(Section("Hyper-parameters", (hyperparameters_table(selection),)))
    notes = [statements.protocol_note(selection), statements.program_note(selection)]
    notes += [f"Not in this report: {line}" for line in describe_left_out(selection)]
    notes.append(
        "Raw values: accuracy.csv, efficiency.csv, runs.csv, summary.csv, comparisons.csv. Metrics other than "
        f"{metric_title(report.metric)} are compared there, each corrected as a family of its own."
    )
    commands = "\n".join(statements.reproduce_commands(selection, report.metric, pvalues=pvalues))
    sections.append(Section("Notes", (Bullets(tuple(notes)),)))
    return (*sections, Section("To run it again", (f"```sh\n{commands}\n```",)))
