"""Shipped recipes for tests that bring small synthetic files of the real format."""

import re
from pathlib import Path

from bench.data import load_recipe
from bench.workspace import Workspace, builtin_recipes

FACTS = re.compile(r"^\[+(sources\.)?(expected|checksums)\b")


def without_facts(name: str, workspace: Workspace) -> Path:
    """Copy a shipped recipe into the workspace, without the sizes, checksums and counts of the real files.

    What says how files are laid out, and what is done with them, stays as it is shipped.
    """
    kept, skipping = [], False
    for line in (builtin_recipes() / f"{name}.toml").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            skipping = FACTS.match(line) is not None
        if not skipping and not line.startswith("expected = "):
            kept.append(re.sub(r",? *\b(size = \d+|(sha256|md5) = \"[0-9a-f]+\")", "", line))
    path = workspace.datasets / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    load_recipe(path)
    return path
