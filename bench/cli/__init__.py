"""The command line: one file a command. A command parses, calls, prints.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 a check or a run failed, 2 the user's
input cannot be worked with, 130 interrupted.
"""

import sys
from collections.abc import Sequence

import typer

from bench.cli import check, datasets, doctor, models, prepare, quickstart, report, run, speed, tune
from bench.cli.console import note, print_error
from bench.errors import BenchError

INTERRUPTED = 130

app = typer.Typer(
    name="bench",
    help="Is a recommender model really better? LD4MRec and its baselines under one protocol, one clock and honest "
    "statistics.",
    epilog="Begin with: bench quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for module in (quickstart, prepare, tune, run, report, check):
    app.command(module.NAME, epilog=module.EXAMPLES)(module.command)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
app.add_typer(speed.app, name="speed")
app.command(doctor.NAME, epilog=doctor.EXAMPLES)(doctor.command)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True),
) -> None:
    """Compare recommender models fairly, honestly and fast."""
    if version:
        from bench import __version__

        typer.echo(f"ld4mrec-bench {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors meant for people are one paragraph on stderr, anything else is a bug."""
    try:
        app(args=arguments)
    except BenchError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except SystemExit as end:
        # The library turns an interrupt into this exit code without a word.
        if end.code == INTERRUPTED:
            note("Interrupted. Finished runs are kept; the same command goes on from there.")
        raise
