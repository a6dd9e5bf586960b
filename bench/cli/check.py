"""`bench check`: do the models still give what they gave, at the cost they had?"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import AsJson, DataDir, Device, ResultsDir, note, out, plan_progress, print_json, split_names
from bench.cli.console import workspace as make_workspace

if TYPE_CHECKING:
    from bench.analysis.reference import Reference
    from bench.analysis.regression import Movement
    from bench.workspace import Workspace

NAME = "check"
EXAMPLES = "Examples: bench check, bench check --update --models ease,lightgcn --seeds 3"
DEFAULT_MODELS = "popularity,itemknn,ease,mf-bpr,lightgcn,diffrec,ld4mrec"


def command(
    dataset: Annotated[str, typer.Option(help="The dataset to check on.")] = "toy",
    update: Annotated[bool, typer.Option("--update", help="Store the outcome as the new reference.")] = False,
    models: Annotated[
        str | None, typer.Option(help="Models, comma-separated. Default: those of the reference.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds. Default: those of the reference, else 3.")] = None,
    max_epochs: Annotated[int, typer.Option(min=1, help="With --update: the most epochs a model is trained.")] = 30,
    cost_factor: Annotated[
        float, typer.Option(min=1.0, help="How many times slower than stored, relative to the calibration, is allowed.")
    ] = 2.5,
    device: Device = "cpu",
    data_dir: DataDir = Path("datasets"),
    results_dir: ResultsDir = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Run a few models on a small dataset again and compare with the stored reference; exit 1 when something moved.

    Quality is judged by the spread of the stored seeds, cost by its ratio to a workload timed in the same run.
    """
    from bench.analysis.reference import load_reference, save_reference
    from bench.analysis.regression import compare
    from bench.data import find_recipe
    from bench.experiments.plan import protocol_of
    from bench.experiments.seeds import parse_seeds

    space = make_workspace(data_dir, results_dir)
    name = find_recipe(dataset, space).name
    path = results_dir / "reference" / f"{name}.json"
    stored = None if update else load_reference(path)
    names = split_names(models) if models else list(stored.models) if stored else split_names(DEFAULT_MODELS)
    if seeds is not None:
        seed_list = parse_seeds(seeds)
    else:
        seed_list = next(iter(stored.models.values())).seeds if stored else [1, 2, 3]
    protocol = stored.protocol if stored else protocol_of("mmrec", max_epochs=max_epochs, patience=20)
    observed = observe(space, name, names, seed_list, protocol, device)
    if stored is None:
        save_reference(observed, path)
        note(f"stored: {path}")
        return
    movements = compare(stored, observed, cost_factor=cost_factor)
    moved = [movement for movement in movements if movement.verdict in ("moved", "missing")]
    if as_json:
        print_json([vars(movement) for movement in movements])
    else:
        show(movements, name)
        note(f"{len(moved)} of {len(movements)} quantities moved" if moved else "nothing moved")
    if moved:
        raise typer.Exit(1)


def observe(
    space: "Workspace", dataset: str, models: list[str], seeds: list[int], protocol: dict[str, object], device: str
) -> "Reference":
    """Run the models afresh, in a store of their own, between two timings of the calibration workload.

    One thread does all of it, so that sums come out the same and costs compare between machines of few and many cores.
    """
    from bench.analysis.reference import reference_from_runs
    from bench.analysis.selection import select_runs
    from bench.data import find_recipe, prepare
    from bench.experiments.calibration import calibrate
    from bench.experiments.execute import Execution, choose_device, thread_limit
    from bench.experiments.plan import make_plan
    from bench.experiments.store import RunStore

    prepared = prepare(find_recipe(dataset, space), space, report=note)
    chosen = choose_device(device)
    with TemporaryDirectory(prefix="bench-check-") as folder:
        store = RunStore(Path(folder))
        cells = make_plan([prepared], models, seeds, protocol, store)
        with thread_limit(1), plan_progress(cells) as listener:
            before = calibrate(chosen)
            Execution({dataset: prepared}, store, chosen, 1, listener).run(cells)
            calibration_s = (before + calibrate(chosen)) / 2
        selection = select_runs(store.records(dataset), dataset, reference=models[-1], seeds=seeds)
        return reference_from_runs(selection, calibration_s)


def show(movements: "list[Movement]", dataset: str) -> None:
    """Print what was compared, row by row, the moved ones in red."""
    from rich.table import Table

    table = Table(
        title=f"Check on {dataset}",
        title_justify="left",
        caption="Metrics: mean over seeds on test. Costs: seconds divided by the calibration workload's.",
    )
    for column in ("model", "quantity", "stored", "observed", "allowed", "verdict", "note"):
        table.add_column(column, justify="right" if column in ("stored", "observed", "allowed") else "left")
    for row in movements:
        allowed = f"{_number(row.low)} to {_number(row.high)}"
        style = "red" if row.verdict in ("moved", "missing") else None
        cells = (row.model, row.quantity, _number(row.stored), _number(row.observed), allowed, row.verdict, row.note)
        table.add_row(*cells, style=style)
    out.print(table)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
