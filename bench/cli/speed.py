"""`bench speed`: what the program itself costs, measured on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bench.cli.console import AsJson, DataDir, Device, note, out, print_json, split_names, workspace
from bench.cli.speed_peers import peers
from bench.cli.speed_scale import scale

if TYPE_CHECKING:
    from bench.speed.training import ModelCost

app = typer.Typer(help="Measure what the program itself costs on this machine.", no_args_is_help=True)
app.command(
    epilog="Examples: bench speed peers --peer mmrec --checkout MMRec --dataset tiktok --models bm3,mgcn, "
    "bench speed peers --peer recbole --dataset toy --models lightgcn"
)(peers)
app.command(epilog="Examples: bench speed scale, bench speed scale --models bm3,mgcn --batches 100000")(scale)


@app.command(epilog="Examples: bench speed prepare, bench speed prepare --format tmall --rows 10000000,40000000")
def prepare(
    format: Annotated[str, typer.Option(help="Raw format to write and read: hm or tmall.")] = "hm",
    rows: Annotated[str | None, typer.Option(help="How many raw rows; several with commas between them.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Folder for the files, some GB; removed afterwards.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prepare synthetic files of a large dataset's raw format up to the split; print time and peak memory."""
    from bench.errors import UsageError, unknown_name
    from bench.speed.preparation import FORMATS, measure

    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    counts = [FORMATS[format]] if rows is None else []
    for part in (rows or "").split(",") if rows else []:
        if not part.strip().isdecimal() or int(part) < 1000:
            raise UsageError(f"--rows {rows}: expected whole numbers from 1000, with commas between them.")
        counts.append(int(part))
    found = [measure(format, count, scratch, note) for count in counts]
    if as_json:
        print_json([asdict(each) for each in found])
        return
    table = Table(title=f"Preparation up to the split, format {format}", title_justify="left")
    for column in ("raw rows", "raw MiB", "seconds", "rows/s", "peak MiB", "interactions left"):
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(
            f"{each.rows:,}",
            f"{each.raw_mib:,.0f}",
            f"{each.seconds:,.1f}",
            f"{each.rows_per_s:,.0f}",
            f"{each.peak_mib:,.0f}",
            f"{each.left:,}",
        )
    out.print(table)


@app.command(epilog="Examples: bench speed models --dataset tiktok, bench speed models --dataset toy --models ease,bm3")
def models(
    dataset: Annotated[str, typer.Option(help="The dataset to train on.")],
    models: Annotated[
        str, typer.Option(help="Models, comma-separated; recbole:Class; module:Class for your own; all.")
    ] = "all",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="MODEL.NAME=VALUE", help="Set a hyper-parameter; repeatable."),
    ] = None,
    presets: Annotated[bool, typer.Option(help="Use the hyper-parameters tuned for the dataset.")] = True,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each model; the first is a warm-up.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    device: Device = "auto",
    data_dir: DataDir = Path("datasets"),
    as_json: AsJson = False,
) -> None:
    """Train and serve each model for a few epochs; print seconds an epoch, inference and peak memory."""
    from bench.cli.run import prepared_datasets
    from bench.errors import UsageError
    from bench.experiments.execute import choose_device
    from bench.models import REGISTRY
    from bench.speed.training import measure_models

    names = list(REGISTRY) if models.strip() == "all" else split_names(models)
    if len(split_names(dataset)) != 1:
        raise UsageError(f"--dataset {dataset}: expected one dataset.")
    chosen = choose_device(device)
    (prepared,) = prepared_datasets(dataset, workspace(data_dir))
    costs = measure_models(
        prepared,
        names,
        settings or [],
        epochs=epochs,
        threads=threads,
        device=chosen,
        use_presets=presets,
        report=note,
    )
    if as_json:
        print_json([asdict(cost) for cost in costs])
    else:
        out.print(_cost_table(costs, prepared.name, chosen.type == "cuda"))
    if any(cost.error for cost in costs):
        raise typer.Exit(1)


def _cost_table(costs: "list[ModelCost]", dataset: str, on_device: bool) -> Table:
    table = Table(title=f"Cost of models on {dataset}", title_justify="left")
    columns = ["model", "parameters", "s/epoch", "fit, s", "inference, s", "peak MiB"]
    columns += ["device MiB"] if on_device else []
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right")
    for cost in costs:
        numbers = [cost.epoch_s, cost.fit_s, cost.inference_s]
        memory = [cost.peak_mib, *([cost.peak_device_mib] if on_device else [])]
        counted = "" if cost.n_parameters is None else f"{cost.n_parameters:,}"
        cells = [counted, *("" if n is None else f"{n:.3f}" for n in numbers)]
        cells += ["" if n is None else f"{n:,.0f}" for n in memory]
        table.add_row(escape(cost.model), *(["FAILED"] if cost.error else cells))
    return table
