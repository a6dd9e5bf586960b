"""`bench datasets`: which datasets there are, and what is known of a prepared one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from bench.cli.console import AsJson, DataDir, out, print_json, workspace

if TYPE_CHECKING:
    from bench.data import PreparedDataset

app = typer.Typer(help="List the datasets; show what is known of one.", no_args_is_help=False)


@app.callback(invoke_without_command=True, epilog="Examples: bench datasets, bench datasets show ml-100k")
def listing(context: typer.Context, data_dir: DataDir = Path("datasets"), as_json: AsJson = False) -> None:
    """List the recipes: the user's own, and those that ship with the program."""
    if context.invoked_subcommand is not None:
        return
    from bench.data import list_recipes, prepared_names

    space = workspace(data_dir)
    recipes = list_recipes(space)
    prepared = set(prepared_names(space))
    if as_json:
        print_json([{**recipe.model_dump(mode="json"), "prepared": recipe.name in prepared} for recipe in recipes])
        return
    table = Table(title="Datasets", title_justify="left", caption=f"Your own: a recipe in {data_dir}/NAME.toml")
    for column in ("dataset", "aliases", "sources", "modalities", "state", "licence"):
        table.add_column(column)
    for recipe in recipes:
        table.add_row(
            recipe.name,
            ", ".join(recipe.aliases) or "none",
            ", ".join(f"{source.name} ({source.kind})" for source in recipe.sources),
            ", ".join(recipe.features) or "none",
            "prepared" if recipe.name in prepared else "not prepared",
            recipe.licence or "not stated",
        )
    out.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A dataset, as bench datasets lists it.")],
    data_dir: DataDir = Path("datasets"),
    as_json: AsJson = False,
) -> None:
    """Show the counts, split and modalities of a prepared dataset."""
    from bench.data import PreparedDataset, find_recipe

    space = workspace(data_dir)
    dataset = PreparedDataset.load(space.prepared(find_recipe(name, space).name))
    if as_json:
        print_json({"folder": str(dataset.folder), **dataset.metadata})
        return
    out.print(summary_table(dataset))


def summary_table(dataset: "PreparedDataset") -> Table:
    """Return the counts of a prepared dataset before and after its steps."""
    summary = dataset.metadata["summary"]
    table = Table(
        title=f"{dataset.name}  (fingerprint {dataset.fingerprint[:12]})",
        title_justify="left",
        caption=f"in {dataset.folder}",
    )
    for column in ("", "raw", "prepared"):
        table.add_column(column, justify="right" if column else "left")
    for what in ("users", "items", "interactions"):
        table.add_row(what, f"{summary['raw'][what]:,}", f"{summary['prepared'][what]:,}")
    raw = summary["raw"]
    raw_density = raw["interactions"] / max(1, raw["users"] * raw["items"])
    table.add_row("density", f"{raw_density:.3%}", f"{summary['density']:.3%}")
    table.add_section()
    for part in ("train", "valid", "test"):
        table.add_row(part, "", f"{summary['split'][part]:,}")
    table.add_row("users without train rows", "", f"{summary['users_without_train']:,}")
    table.add_row("items never in train", "", f"{summary['items_never_in_train']:,}")
    table.add_section()
    for modality, about in summary["modalities"].items():
        rows = f"{about['width']} wide, {about['zero_rows']:,} zero and {about['duplicate_rows']:,} repeated rows"
        table.add_row(f"modality {modality}", "", rows)
    return table
