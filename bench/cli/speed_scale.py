"""`bench speed scale`: what every model needs on large data."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bench.cli.console import AsJson, note, out, print_json, split_names

if TYPE_CHECKING:
    from bench.speed.scale import ScaleCost


def scale(
    models: Annotated[
        str, typer.Option(help="Models, comma-separated; recbole:Class; module:Class for your own; all.")
    ] = "all",
    users: Annotated[int, typer.Option(min=10, help="Users of the synthetic data.")] = 200_000,
    items: Annotated[int, typer.Option(min=10, help="Items.")] = 60_000,
    interactions: Annotated[int, typer.Option(min=30, help="Training interactions.")] = 2_000_000,
    modalities: Annotated[int, typer.Option(min=0, help="Feature matrices.")] = 2,
    width: Annotated[int, typer.Option(min=1, help="Columns of each.")] = 512,
    tested: Annotated[int, typer.Option(min=1, help="Users that are scored.")] = 5_000,
    batches: Annotated[int, typer.Option(min=1, help="Training batches of each model; a large number: an epoch.")] = 20,
    limit: Annotated[float, typer.Option(min=0.1, help="GiB that a model's whole process may take.")] = 12.0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="MODEL.NAME=VALUE", help="Set a hyper-parameter; repeatable."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    scratch: Annotated[Path | None, typer.Option(help="Folder for the synthetic data; removed afterwards.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train and score each model on large synthetic data, in a process of its own; print time and peak memory.

    Memory does not grow from batch to batch, so that a few are enough to see it; the seconds of an epoch are worked out
    from them. A model that needs more than the limit is refused before it begins if it can say so, and stopped if not;
    the exit code is 1 if one went over or failed.
    """
    import tempfile

    from bench.models import REGISTRY
    from bench.speed.scale import Scale, measure_at_scale, write_scaled

    names = list(REGISTRY) if models.strip() == "all" else split_names(models)
    size = Scale(users, items, interactions, modalities, width, tested)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="bench-scale-") as folder:
        dataset = write_scaled(Path(folder) / "synthetic", size)
        costs = measure_at_scale(
            dataset, names, settings or [], batches=batches, limit_mib=limit * 1024, threads=threads, report=note
        )
    if as_json:
        print_json([asdict(cost) for cost in costs])
    else:
        title = f"{users:,} users, {items:,} items, {interactions:,} interactions, {modalities} x {width} features"
        out.print(_table(costs, title))
    if any(cost.outcome in ("failed", "over") for cost in costs):
        raise typer.Exit(1)


def _table(costs: "list[ScaleCost]", title: str) -> Table:
    table = Table(title=title, title_justify="left")
    columns = ("model", "outcome", "peak GiB", "build, s", "s/epoch", "batches", "scoring, s")
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "outcome") else "right")
    for cost in costs:
        peak = cost.needed_mib if cost.outcome == "refused" else cost.peak_mib
        about = "~" if cost.outcome == "refused" or cost.batches != cost.of_batches else ""
        table.add_row(
            escape(cost.model),
            cost.outcome,
            "" if peak is None else f"{'~' if cost.outcome == 'refused' else ''}{peak / 1024:.2f}",
            "" if cost.build_s is None else f"{cost.build_s:.1f}",
            "" if cost.epoch_s is None else f"{about}{cost.epoch_s:.1f}",
            "" if cost.batches is None else f"{cost.batches} of {cost.of_batches}",
            "" if cost.score_s is None else f"{cost.score_s:.1f}",
        )
    return table
