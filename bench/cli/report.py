"""`bench report`: tables and paired tests from the run store."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import AsJson, ResultsDir, note, out, print_json, split_names

if TYPE_CHECKING:
    from bench.analysis.report import Report
    from bench.experiments.store import RunStore

NAME = "report"
EXAMPLES = "Examples: bench report --pvalues, bench report --datasets ml-100k --reference lightgcn --metric ndcg@10"


def command(
    datasets: Annotated[str | None, typer.Option(help="Datasets, comma-separated. Default: all with runs.")] = None,
    models: Annotated[str | None, typer.Option(help="Models to show, comma-separated. Default: all with runs.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds to show. Default: those of the reference model.")] = None,
    reference: Annotated[str, typer.Option(help="The model the others are compared with.")] = "ld4mrec",
    metric: Annotated[str, typer.Option(help="The primary metric of the paired tests.")] = "recall@20",
    pvalues: Annotated[bool, typer.Option("--pvalues", help="Test the differences, over seeds and users.")] = False,
    alpha: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Family-wise error rate.")] = 0.05,
    results_dir: ResultsDir = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Write report.md and its CSVs beside the runs, and print the tables."""
    from bench.analysis.report import build_report
    from bench.errors import StoreError
    from bench.experiments.seeds import parse_seeds
    from bench.experiments.store import RunStore
    from bench.models import find_model

    store = RunStore(results_dir)
    names = split_names(datasets) if datasets is not None else store.datasets()
    if not names:
        raise StoreError(f"There are no runs in {results_dir.resolve()}. Make some: bench run --models ld4mrec,ease")
    build = partial(
        build_report,
        store,
        reference=reference,
        metric=metric,
        alpha=alpha,
        models=[name if "[" in name else find_model(name).name for name in split_names(models)]
        if models is not None
        else None,
        seeds=parse_seeds(seeds) if seeds is not None else None,
    )
    # Asked for by name, a dataset that cannot be tested is an error; among all there are, it is only shown.
    tested = {name: pvalues and (datasets is not None or has_runs(store, name, reference)) for name in names}
    for name in (name for name in names if pvalues and not tested[name]):
        note(f"{name}: no runs of {reference}, so nothing is tested there")
    reports = [build(name, pvalues=tested[name]) for name in names]
    written = {report.dataset: report.write(results_dir / report.dataset) for report in reports}
    if as_json:
        print_json(
            {
                report.dataset: {
                    "files": [str(path) for path in written[report.dataset]],
                    **{name: json.loads(frame.to_json(orient="records")) for name, frame in report.frames.items()},
                }
                for report in reports
            }
        )
        return
    for report in reports:
        show(report)
        note(f"written: {results_dir / report.dataset / 'report.md'} (with the captions) and its CSVs")


def has_runs(store: "RunStore", dataset: str, label: str) -> bool:
    """Tell whether a dataset has runs of a model, whatever their status."""
    return any(record.label == label for record in store.records(dataset))


def show(report: "Report") -> None:
    """Print a report's tables and what they come to."""
    from bench.cli.tables import COMPARISON_COLUMNS, rich_table

    tables = [rich_table(report.accuracy), rich_table(report.cost)]
    tables += [rich_table(table, COMPARISON_COLUMNS) for table in report.comparisons]
    if report.failures is not None:
        tables.append(rich_table(report.failures))
    for table in tables:
        out.print(table)
        out.print()
    remarks = [line for lines in report.remarks for line in lines]
    for line in (*report.headline, *remarks, *(f"Warning: {warning}" for warning in report.warnings)):
        out.print(line, markup=False, highlight=False)
