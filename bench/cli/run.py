"""`bench run`: train and test models on datasets over seeds; finished cells are skipped."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import (
    AsJson,
    DataDir,
    Device,
    ResultsDir,
    note,
    out,
    plan_progress,
    print_json,
    split_names,
    workspace,
)

if TYPE_CHECKING:
    from bench.data import PreparedDataset
    from bench.experiments.plan import Cell
    from bench.experiments.store import RunStore
    from bench.workspace import Workspace

NAME = "run"
EXAMPLES = (
    "Examples: bench run --models ld4mrec,diffrec, bench run --models lightgcn --set lightgcn.n_layers=2 --seeds 1,2"
)
DEFAULT_DATASET = "ml-100k"


def command(
    models: Annotated[
        str, typer.Option(help="Models, comma-separated; recbole:Class; module:Class for your own; all.")
    ],
    datasets: Annotated[
        str | None,
        typer.Option(help=f"Datasets, comma-separated. Default: those prepared here, or {DEFAULT_DATASET}."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many seeds (10 means 1 to 10), or a list such as 1,2,3.")] = "10",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="MODEL.NAME=VALUE", help="Set a hyper-parameter; repeatable."),
    ] = None,
    presets: Annotated[bool, typer.Option(help="Use the hyper-parameters tuned for the dataset.")] = True,
    evaluation: Annotated[
        str, typer.Option(help="Evaluation protocol: mmrec, recbole, lattice_mmssl or diffmm.")
    ] = "mmrec",
    max_epochs: Annotated[int, typer.Option(min=1, help="The most epochs a model is trained.")] = 1000,
    patience: Annotated[int, typer.Option(min=1, help="Evaluations without a gain before training stops.")] = 20,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at once; above 1, times come from a pass of their own.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each cell.")] = 1,
    device: Device = "auto",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cells and what exists, run nothing.")] = False,
    data_dir: DataDir = Path("datasets"),
    results_dir: ResultsDir = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Run every cell of models x datasets x seeds that is not finished yet."""
    from bench.experiments.execute import Execution, choose_device
    from bench.experiments.memory import check_memory
    from bench.experiments.plan import make_plan, protocol_of
    from bench.experiments.seeds import parse_seeds
    from bench.experiments.store import RunStore
    from bench.models import REGISTRY

    names = list(REGISTRY) if models.strip() == "all" else split_names(models)
    seed_list = parse_seeds(seeds)
    protocol = protocol_of(evaluation, max_epochs=max_epochs, patience=patience)
    chosen_device = choose_device(device)
    space = workspace(data_dir, results_dir)
    store = RunStore(space.results)
    if not dry_run:
        store.check_writable()
    prepared = prepared_datasets(datasets, space)
    cells = make_plan(prepared, names, seed_list, protocol, store, settings=settings or [], use_presets=presets)
    if dry_run:
        show_plan(cells, as_json)
        return
    waiting = [cell for cell in cells if cell.waits(retry_failed)]
    for each in prepared:
        check_memory(each, [cell.configuration for cell in waiting if cell.dataset == each.name])
    announce(cells, waiting, retry_failed)
    with plan_progress(waiting) as listener:
        execution = Execution({d.name: d for d in prepared}, store, chosen_device, jobs, listener, threads)
        execution.run(waiting)
    finish(cells, store, as_json)


def prepared_datasets(names: str | None, space: "Workspace") -> "list[PreparedDataset]":
    """Return the datasets a run names, prepared now where they are not; without names, what this folder has."""
    from bench.data import find_recipe, prepare, prepared_names

    wanted = split_names(names) if names is not None else prepared_names(space) or [DEFAULT_DATASET]
    recipes = [find_recipe(name, space) for name in dict.fromkeys(wanted)]
    return [prepare(recipe, space, report=note) for recipe in recipes]


def announce(cells: "list[Cell]", waiting: "list[Cell]", retry_failed: bool) -> None:
    """Say what is there already and what will run."""
    from bench.analysis.wording import count

    states = [cell.state for cell in cells]
    words = [count(len(cells), "cell"), f"{states.count('finished')} finished before", f"{len(waiting)} to run"]
    if (failed := states.count("failed")) and not retry_failed:
        words.append(f"{failed} failed before and kept so (--retry-failed runs them again)")
    if busy := states.count("busy"):
        words.append(f"{busy} under way in another process")
    note("; ".join(words))


def show_plan(cells: "list[Cell]", as_json: bool) -> None:
    """Print the cells of a plan and the state of each."""
    if as_json:
        print_json(
            [
                {
                    "dataset": cell.dataset,
                    "model": cell.configuration.label,
                    "seed": cell.seed,
                    "state": cell.state,
                    "key": cell.key,
                    "hyperparameters": cell.configuration.hyperparameters,
                }
                for cell in cells
            ]
        )
        return
    from rich.table import Table

    from bench.analysis.wording import count

    table = Table(title=count(len(cells), "cell"), title_justify="left")
    for column in ("dataset", "model", "seed", "state"):
        table.add_column(column)
    for cell in cells:
        table.add_row(cell.dataset, cell.configuration.label, str(cell.seed), cell.state)
    out.print(table)


def finish(cells: "list[Cell]", store: "RunStore", as_json: bool) -> None:
    """Print how the plan's cells stand now; exit with 1 when one has failed."""
    from bench.analysis.wording import count
    from bench.experiments.store import FINISHED, RUNNING

    keys = {cell.key for cell in cells}
    records = [r for name in dict.fromkeys(c.dataset for c in cells) for r in store.records(name) if r.key in keys]
    failed = [record for record in records if record.status == "failed"]
    if as_json:
        print_json([{"folder": str(record.folder), **record.data} for record in records])
    else:
        for record in failed:
            error = record.data["error"]
            note(f"failed: {record.label} on {record.dataset}, seed {record.seed}: {error['type']}: {error['message']}")
        done = sum(record.status == FINISHED for record in records)
        busy = sum(record.status == RUNNING and record.alive for record in records)
        elsewhere = f", {busy} under way in another process" if busy else ""
        note(f"{done} of {count(len(cells), 'cell')} finished{elsewhere}. Next: bench report --pvalues")
    if failed:
        raise typer.Exit(1)
