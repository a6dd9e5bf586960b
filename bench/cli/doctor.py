"""`bench doctor`: versions, devices and what is optional on this machine."""

from rich.table import Table

from bench.cli.console import AsJson, out, print_json

NAME = "doctor"
EXAMPLES = "Example: bench doctor --json"


def command(as_json: AsJson = False) -> None:
    """Print what a run on this machine would record, and what is missing."""
    import torch

    from baselines.recbole.installation import INSTALL
    from bench.experiments.execute import choose_device
    from bench.experiments.provenance import environment, git_state, package_version

    device = choose_device("auto")
    found = environment(str(device), torch.get_num_threads())
    found["git"] = git_state()
    found["recbole"] = package_version("recbole") or (
        f"absent: ml-100k is then downloaded, and RecBole's models cannot run. To install it: {INSTALL}"
    )
    if as_json:
        print_json(found)
        return
    table = Table(title="This machine", title_justify="left", show_header=False)
    table.add_column()
    table.add_column()
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        table.add_row(name, "none" if value is None else str(value))
    out.print(table)
