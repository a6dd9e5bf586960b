"""`bench datasets`: which datasets there are, and what is known of each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bench.cli.console import AsJson, DataDir, note, out, print_json, workspace
from bench.cli.dataset_tables import description_tables, heading_lines, summary_table
from bench.cli.recipe_tables import listing_table, recipe_table

if TYPE_CHECKING:
    from bench.data import PreparedDataset, Recipe
    from bench.workspace import Workspace

__all__ = ["app", "summary_table"]

WIDEST = 120
# Below these numbers the description is there at once; above, a line says what is going on.
MANY_INTERACTIONS, MANY_FEATURE_VALUES = 500_000, 20_000_000

app = typer.Typer(help="List the datasets; show what is known of one.", no_args_is_help=False)


@app.callback(invoke_without_command=True, epilog="Examples: bench datasets, bench datasets show ml-100k")
def listing(context: typer.Context, data_dir: DataDir = Path("datasets"), as_json: AsJson = False) -> None:
    """List the recipes, the user's own and those that ship with the program, and what is prepared of them."""
    if context.invoked_subcommand is not None:
        return
    from bench.data import list_recipes, prepared_names
    from bench.data.glance import glance

    space = workspace(data_dir)
    recipes = list_recipes(space)
    there = {name: glance(space.prepared(name)) for name in prepared_names(space)}
    families = {each.name: [one for name, one in there.items() if base_of(name) == each.name] for each in recipes}
    strays = [each for name, each in there.items() if base_of(name) not in families]
    if as_json:
        known = [{**each.model_dump(mode="json"), "prepared": list(map(vars, families[each.name]))} for each in recipes]
        print_json([*known, *({"name": each.name, "sources": [], "prepared": [vars(each)]} for each in strays)])
        return
    table = listing_table(recipes, families, strays)
    table.caption = f"Your own: a recipe in {escape(str(data_dir))}/NAME.toml"
    out.print(table, width=min(WIDEST, out.width))


def base_of(name: str) -> str:
    """Return the recipe's name in a dataset's name: what stands before the @ of a variant."""
    return name.partition("@")[0]


@app.command(epilog="Examples: bench datasets show ml-100k, bench datasets show microlens@5core --json")
def show(
    name: Annotated[str, typer.Argument(help="A dataset, as bench datasets lists it.")],
    data_dir: DataDir = Path("datasets"),
    as_json: AsJson = False,
) -> None:
    """Show the recipe of a dataset and, once it is prepared, what it looks like."""
    from bench.data import PreparedDataset

    space = workspace(data_dir)
    recipe = recipe_of(name, space)
    folder = space.prepared(name if recipe is None else recipe.name)
    dataset = PreparedDataset.load(folder) if recipe is None or folder.is_dir() else None
    if as_json:
        print_json(as_document(recipe, dataset))
        return
    if dataset is not None:
        print_prepared(dataset)
    elif recipe is not None:
        out.print(recipe_table(recipe), width=min(WIDEST, out.width))


def recipe_of(name: str, space: "Workspace") -> "Recipe | None":
    """Return the recipe of a dataset or a variant; None for a prepared dataset that no recipe is known of.

    Raises:
        UsageError: nothing answers to the name.
    """
    from bench.data import find_recipe, list_recipes, prepared_names

    known = {recipe.name for recipe in list_recipes(space)}
    if name in prepared_names(space) and base_of(name) not in known:
        return None
    return find_recipe(name, space)


def as_document(recipe: "Recipe | None", dataset: "PreparedDataset | None") -> dict[str, Any]:
    """Return everything that is known, for machines; None where there is no recipe, or nothing is prepared."""
    from dataclasses import asdict

    from bench.data.describe import describe

    return {
        "name": dataset.name if dataset else recipe.name if recipe else None,
        "recipe": recipe.model_dump(mode="json") if recipe else None,
        "folder": str(dataset.folder) if dataset else None,
        "fingerprint": dataset.fingerprint if dataset else None,
        "metadata": dataset.metadata if dataset else None,
        "description": asdict(describe(dataset)) if dataset else None,
    }


def print_prepared(dataset: "PreparedDataset") -> None:
    """Print the description of a prepared dataset."""
    from bench.data.describe import describe

    n_values = sum(matrix.size for matrix in dataset.features.values())
    if len(dataset.interactions) > MANY_INTERACTIONS or n_values > MANY_FEATURE_VALUES:
        note(f"counting {len(dataset.interactions):,} interactions and looking up neighbours; this can take a while")
    description = describe(dataset)
    for line in heading_lines(dataset):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    for table in description_tables(description, plain=not out.encoding.lower().startswith("utf")):
        out.print()
        out.print(table, width=min(WIDEST, out.width))
