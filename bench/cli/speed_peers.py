"""`bench speed peers`: our seconds beside those of another project's own code."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bench.cli.console import AsJson, DataDir, note, out, print_json, split_names, workspace

if TYPE_CHECKING:
    from bench.speed.peers.comparison import Compared


def peers(
    peer: Annotated[str, typer.Option(help="The other project: mmrec, recbole or diffmm.")],
    dataset: Annotated[str, typer.Option(help="The dataset to train on.")],
    models: Annotated[str, typer.Option(help="Our models, comma-separated; all: those that the peer has too.")] = "all",
    checkout: Annotated[Path | None, typer.Option(help="Folder of the peer's code (mmrec, diffmm).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="MODEL.NAME=VALUE", help="Set a hyper-parameter of both; repeatable."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs in each process; the first is a warm-up.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="How often each program has its turn.")] = 2,
    data_dir: DataDir = Path("datasets"),
    as_json: AsJson = False,
) -> None:
    """Train models in another project's own code and in ours, in turn, one thread each; print both and the ratio."""
    from bench.cli.run import prepared_datasets
    from bench.errors import UsageError
    from bench.speed.peers.comparison import compare
    from bench.speed.peers.registry import find_peer

    chosen = find_peer(peer)
    names = list(chosen.counterparts) if models.strip() == "all" else split_names(models)
    if len(split_names(dataset)) != 1:
        raise UsageError(f"--dataset {dataset}: expected one dataset.")
    chosen.locate(checkout)
    (prepared,) = prepared_datasets(dataset, workspace(data_dir))
    found = compare(
        chosen, prepared, names, settings or [], checkout=checkout, epochs=epochs, rounds=rounds, report=note
    )
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        out.print(_peer_table(found, chosen.title, prepared.name))
    if any(each.error for each in found):
        raise typer.Exit(1)


def _peer_table(found: "list[Compared]", peer: str, dataset: str) -> Table:
    """Lay out times, ratios with the range of the rounds, and memory."""
    table = Table(title=f"{peer}'s own code beside ours on {dataset}, one thread", title_justify="left")
    times = ["theirs, s", "ours, s", "ratio (range)"]
    for column in ["model", peer, "trained", *times, *(f"valid {time}" for time in times), "theirs MiB", "ours MiB"]:
        left = column in ("model", peer, "trained")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for each in found:
        cells: list[str] = [each.trained]
        for part in (each.training, each.validation):
            if part is not None:
                ratio = f"{part.ratio:.1f} ({part.low:.1f}-{part.high:.1f})"
                cells += [f"{part.theirs_s:.3f}", f"{part.ours_s:.3f}", ratio]
        cells += [f"{mib:,.0f}" for mib in (each.theirs_mib, each.ours_mib) if mib is not None]
        table.add_row(escape(each.model), each.theirs, *(["FAILED"] if each.error else cells))
    return table
