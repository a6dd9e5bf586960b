"""`bench tune`: search hyper-parameters on validation, with the same budget for every model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from bench.cli.console import (
    AsJson,
    DataDir,
    Device,
    ResultsDir,
    note,
    out,
    print_json,
    split_names,
    workspace,
)

if TYPE_CHECKING:
    from bench.experiments.tuning import Tuning, Winner

NAME = "tune"
EXAMPLES = "Examples: bench tune --dataset ml-100k --models lightgcn,diffrec, bench tune --dataset toy --models all"


def command(
    models: Annotated[
        str, typer.Option(help="Models, comma-separated; recbole:Class; module:Class for your own; all.")
    ],
    dataset: Annotated[str, typer.Option(help="The dataset to search on.")],
    settings: Annotated[int, typer.Option(min=1, help="Settings of each model tried with the first seed.")] = 16,
    finalists: Annotated[int, typer.Option(min=1, help="The best of them, trained with every seed.")] = 3,
    seeds: Annotated[str, typer.Option(help="Training seeds, a list; none of those that reports use.")] = "11,12,13",
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="MODEL.NAME=VALUE", help="Fix a hyper-parameter in every trial of a model; repeatable."
        ),
    ] = None,
    max_epochs: Annotated[int, typer.Option(min=1, help="The most epochs of a trial.")] = 1000,
    patience: Annotated[int, typer.Option(min=1, help="Evaluations without a gain before a trial stops.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    device: Device = "auto",
    presets_file: Annotated[
        Path | None, typer.Option(help="Where to write the winners. Default: presets.toml beside the dataset's runs.")
    ] = None,
    data_dir: DataDir = Path("datasets"),
    results_dir: ResultsDir = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Search each model's hyper-parameters; a search that was stopped goes on where it was."""
    from bench.cli.run import prepared_datasets
    from bench.errors import UsageError
    from bench.experiments.execute import choose_device, thread_limit
    from bench.experiments.memory import check_memory
    from bench.experiments.plan import configure, overrides_by_model, protocol_of
    from bench.experiments.seeds import parse_seeds
    from bench.experiments.store import RunStore
    from bench.experiments.tuning import Budget, Tuning, merged_presets
    from bench.models import REGISTRY, find_model

    asked = list(REGISTRY) if models.strip() == "all" else split_names(models)
    specs = [find_model(name) for name in dict.fromkeys(asked)]
    if "," not in seeds:
        raise UsageError(
            f"--seeds {seeds}: a search takes a list of seeds that no report uses, such as 11,12,13 (or 11, for one)."
        )
    budget = Budget(settings, finalists, tuple(parse_seeds(seeds)))
    if len(split_names(dataset)) != 1:
        raise UsageError(f"--dataset {dataset}: expected one dataset; presets belong to one.")
    protocol = protocol_of("mmrec", max_epochs=max_epochs, patience=patience)
    chosen_device = choose_device(device)
    space = workspace(data_dir, results_dir)
    RunStore(space.results).check_writable()
    (prepared,) = prepared_datasets(dataset, space)
    names = [spec.name for spec in specs]
    check_memory(prepared, configure(names, fixed or [], prepared.name, use_presets=False))
    fixed_by_model = overrides_by_model(names, fixed or [])
    tuning = Tuning(prepared, space.results, protocol, chosen_device, note)
    path = presets_file or space.results / prepared.name / "presets.toml"
    winners: list[Winner] = []
    with thread_limit(threads):
        for spec in specs:
            if (winner := tuning.search(spec, budget, fixed_by_model[spec.name])) is not None:
                winners.append(winner)
            # After every model, so that a search that is stopped leaves what it has found.
            text = merged_presets(path, prepared.name, budget, protocol, winners)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            trials = tuning.write_table()
    taken_up = "" if presets_file else f" bench run uses {path.name} from now on."
    note(f"presets: {path}; every trial: {trials}.{taken_up}")
    _finish(tuning, names, winners, as_json)


def _finish(tuning: "Tuning", names: list[str], winners: "list[Winner]", as_json: bool) -> None:
    """Print what won; exit with 1 if a model has no trial that worked."""
    if as_json:
        print_json([{"model": w.model, "changed": w.changed, "valid": w.mean, "trials": w.n_trials} for w in winners])
    else:
        monitor = tuning.protocol["training"]["monitor"]
        table = Table(title=f"Best on validation, {tuning.dataset.name}", title_justify="left")
        for column in ("model", f"valid {monitor}", "trials", "changed from the defaults"):
            table.add_column(column)
        for winner in sorted(winners, key=lambda each: -each.mean):
            changed = ", ".join(f"{name}={value}" for name, value in sorted(winner.changed.items())) or "nothing"
            table.add_row(winner.model, f"{winner.mean:.4f}", str(winner.n_trials), changed)
        out.print(table)
    failed = [name for name in names if name not in {winner.model for winner in winners}]
    if failed:
        note(f"every trial failed: {', '.join(failed)}")
        raise typer.Exit(1)
