"""`bench prepare NAME`: from raw files to a prepared dataset."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import AsJson, DataDir, note, out, print_json, workspace

NAME = "prepare"
EXAMPLES = "Examples: bench prepare ml-100k, bench prepare mydata --force"


def command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Datasets, as bench datasets lists them.")],
    force: Annotated[bool, typer.Option("--force", help="Build it again, even if it is there.")] = False,
    source: Annotated[str | None, typer.Option(help="Take this source of the recipe, and no other.")] = None,
    data_dir: DataDir = Path("datasets"),
    as_json: AsJson = False,
) -> None:
    """Read, filter, split and align a dataset; a second call finds it there."""
    from bench.data import find_recipe, prepare

    space = workspace(data_dir)
    recipes = [find_recipe(name, space) for name in names]
    prepared = [prepare(recipe, space, source=source, force=force, report=note) for recipe in recipes]
    if as_json:
        print_json([{"folder": str(dataset.folder), **dataset.metadata} for dataset in prepared])
        return
    from bench.cli.datasets import summary_table

    for dataset in prepared:
        out.print(summary_table(dataset))
