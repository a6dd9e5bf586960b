"""`bench models`: what can be run, and with which hyper-parameters."""

from typing import Annotated

import typer
from rich.table import Table

from bench.cli.console import AsJson, note, out, print_json

app = typer.Typer(help="List the models; show one's hyper-parameters.", no_args_is_help=False)


@app.callback(invoke_without_command=True, epilog="Examples: bench models, bench models show lightgcn")
def listing(
    context: typer.Context,
    recbole: Annotated[bool, typer.Option("--recbole", help="List RecBole's general recommenders instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the registered models by family, or those of RecBole with what they need."""
    if context.invoked_subcommand is not None:
        return
    if recbole:
        _list_recbole(as_json)
        return
    from bench.models import REGISTRY

    if as_json:
        print_json([vars(spec) for spec in REGISTRY.values()])
        return
    table = Table(
        title="Models",
        title_justify="left",
        caption="RecBole's: bench models --recbole. Your own: --models module:Class",
    )
    for column in ("model", "family", "inputs", "citation"):
        table.add_column(column)
    for spec in REGISTRY.values():
        table.add_row(spec.name, spec.family, spec.inputs, spec.citation)
    out.print(table)


def _list_recbole(as_json: bool) -> None:
    from baselines.recbole.catalogue import ENTRIES
    from baselines.recbole.installation import VERSION, RecBoleUnavailableError, package_folder
    from bench.models import RECBOLE_PREFIX

    try:
        package_folder()
        missing = ""
    except RecBoleUnavailableError as error:
        missing = str(error)
    rows = [(f"{RECBOLE_PREFIX}{entry.name}", entry.status, entry.remark) for entry in ENTRIES.values()]
    if as_json:
        models = [dict(zip(("name", "status", "remark"), row, strict=True)) for row in rows]
        print_json({"version": VERSION, "installed": not missing, "missing": missing, "models": models})
        return
    table = Table(title=f"General recommenders of RecBole {VERSION}", title_justify="left")
    for column in ("model", "status", "remark"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    if missing:
        note(missing)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A model's name, recbole:Class, or module:Class.")],
    dataset: Annotated[str | None, typer.Option(help="Also show the values tuned for this dataset.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's hyper-parameters: type, range, default and, for a dataset, the tuned value."""
    from bench.models import find_model, hyperparameters_of, load_class, load_presets

    spec = find_model(name)
    known = hyperparameters_of(load_class(spec))
    tuned = load_presets(dataset).get(spec.name, {}) if dataset else {}
    if as_json:
        print_json(
            {
                **vars(spec),
                "hyperparameters": {
                    p.name: {"type": p.type_text, "default": p.default, "tuned": tuned.get(p.name)}
                    for p in known.values()
                },
            }
        )
        return
    table = Table(title=f"{spec.name} ({spec.citation})", title_justify="left")
    for column in ("hyper-parameter", "type", "default", *([f"on {dataset}"] if dataset else [])):
        table.add_column(column)
    for parameter in known.values():
        row = [parameter.name, parameter.type_text, str(parameter.default)]
        if dataset:
            row.append(str(tuned[parameter.name]) if parameter.name in tuned else "default")
        table.add_row(*row)
    out.print(table)
