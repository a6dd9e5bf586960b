"""`bench prepare NAME`: from raw files to a prepared dataset."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from bench.cli.console import AsJson, DataDir, Device, note, out, print_json, workspace

if TYPE_CHECKING:
    from bench.data import PreparedDataset

NAME = "prepare"
EXAMPLES = "Examples: bench prepare ml-100k, bench prepare microlens --core 5, bench prepare tmall --from ~/tianchi"


def command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Datasets, as bench datasets lists them.")],
    core: Annotated[
        str | None,
        typer.Option(help="Another k-core than the recipe's: 5, user=5,item=10 or none. Makes NAME@5core."),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(help="MODALITY=ALTERNATIVE of the recipe, or MODALITY=none. Makes NAME@MODALITY=ALTERNATIVE."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Take this source of the recipe, and no other.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Take the raw files in DIR, packed or not.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Download from below this address instead of the recipe's.")] = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Build it again, even if it is there.")] = False,
    data_dir: DataDir = Path("datasets"),
    as_json: AsJson = False,
) -> None:
    """Fetch, read, filter, split and align a dataset; a second call finds it there."""
    from bench.data import Cores, Variant, features_from_options, find_recipe, prepare

    space = workspace(data_dir)
    cores = None if core is None else Cores.parse(core)
    variant = Variant(cores, features_from_options(feature or []), source)
    recipes = [variant.apply(find_recipe(name, space)) for name in names]
    prepared = []
    for recipe in recipes:
        prepared.append(
            prepare(
                recipe,
                space,
                source=source,
                folder=folder,
                base=url,
                device=device,
                force=force,
                report=note,
            )
        )
    if as_json:
        print_json([{"folder": str(dataset.folder), **dataset.metadata} for dataset in prepared])
        return
    from bench.cli.datasets import summary_table

    for dataset in prepared:
        out.print(summary_table(dataset))
        _print_comparison(dataset)


def _print_comparison(dataset: "PreparedDataset") -> None:
    """Print our counts beside the published ones, where the recipe knows some."""
    rows = dataset.metadata.get("comparison") or []
    if not rows:
        return
    table = Table(title="Beside what is published", title_justify="left")
    for column in ("", "users", "items", "interactions", "per user", "per item", "density"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        users, items, interactions = row["users"], row["items"], row["interactions"]
        table.add_row(
            row["name"],
            *(f"{n:,}" for n in (users, items, interactions)),
            f"{interactions / users:.2f}",
            f"{interactions / items:.2f}",
            f"{interactions / (users * items):.3%}",
        )
    out.print(table)
    if dataset.metadata.get("closest"):
        out.print(dataset.metadata["closest"], markup=False, highlight=False, soft_wrap=True)
