"""What a listing says of a prepared dataset: its counts and its size on disk, without reading its tables."""

import json
from dataclasses import dataclass
from pathlib import Path

from bench.data.prepared import SCHEMA_VERSION


@dataclass(frozen=True)
class Glance:
    """A prepared dataset from outside.

    Attributes:
        name: of its folder.
        folder: where it lies.
        users: number of users; None where `problem` says why.
        items: number of items.
        interactions: number of interactions.
        size_bytes: of all its files.
        problem: why it cannot be used; "" if nothing speaks against it.
    """

    name: str
    folder: Path
    users: int | None
    items: int | None
    interactions: int | None
    size_bytes: int
    problem: str


def glance(folder: Path) -> Glance:
    """Look at the prepared dataset in `folder`; one that is damaged or of another version is told as such, not raised.

    Only `dataset.json` is read. `PreparedDataset.load` checks much more.
    """
    size = 0
    try:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        version = about["schema_version"]
        counts = (int(about["n_users"]), int(about["n_items"]), sum(map(int, about["n_interactions"].values())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Glance(folder.name, folder, None, None, None, size, "damaged")
    problem = "" if version == SCHEMA_VERSION else f"of schema version {version}"
    return Glance(folder.name, folder, *counts, size, problem)
