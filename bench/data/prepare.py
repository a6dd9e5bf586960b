"""From a recipe to a prepared dataset: fetch, read, filter, number, split, describe, check, write."""

import hashlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.data.apply import Steps
from bench.data.collect import StepCounts
from bench.data.comparison import beside_published, check_prepared
from bench.data.features.align import build_features, describe_items, order_ids
from bench.data.filters import count
from bench.data.prepared import PreparedDataset, write_prepared
from bench.data.raw.fetch import Located, locate, needed_files
from bench.data.recipes.modalities import NEURAL
from bench.data.recipes.recipe import Recipe
from bench.data.replace import clean_partials
from bench.data.split import SPLITS, assign_split
from bench.errors import DataError
from bench.workspace import Workspace

Report = Callable[[str], None]
LIBRARIES = ("numpy", "pandas", "pyarrow", "scikit-learn", "scipy")
# A checksum of what is larger would take longer than reading it; its size is kept.
LARGEST_HASHED = 8 * 2**30


def prepare(
    recipe: Recipe,
    workspace: Workspace,
    *,
    source: str | None = None,
    folder: Path | None = None,
    base: str | None = None,
    device: str = "auto",
    force: bool = False,
    report: Report,
) -> PreparedDataset:
    """Prepare the dataset of a recipe, or return it if it is there already.

    Users and items are numbered by their ids (by value where all are whole numbers, else as text) and the interactions
    are sorted by those numbers, so the order of the raw rows has no part in the result. Nothing is visible under the
    dataset's name before all of it is written; until then an older one stays in place.

    Args:
        recipe: what to prepare.
        workspace: where raw files, recipes and prepared data lie.
        source: name of the source to use; None takes the first one available.
        folder: with the raw files; None looks where the sources say, and downloads.
        base: web address in place of the source's own.
        device: for encoders that are neural networks: "auto", "cpu", "cuda" or "cuda:N".
        force: prepare again, even if the dataset is there.
        report: called with one line of progress at a time.

    Raises:
        DataError: no source is available, the data is not what the recipe says, or the dataset is there but was made
            from another recipe or source.
        UsageError: the recipe has no source of that name.
    """
    target = workspace.prepared(recipe.name)
    clean_partials(target)
    if target.exists() and not force:
        return _already_there(recipe, target, source, report)
    _require_encoders(recipe, source)
    located = locate(recipe, workspace, source=source, folder=folder, base=base, report=report)
    work = Steps(located, workspace, device, report)
    frame = work.apply()
    at = located.recipe
    check_prepared(at, count(frame), report)
    frame["split"] = assign_split(frame, at.split.method, at.split.split_seed, at.split.labels)
    users, items = order_ids(frame["user"]), order_ids(frame["item"])
    interactions = _numbered(frame, users, items)
    raw = work.raw(items)
    described = describe_items(items, raw.items, report)
    features, modalities = build_features(raw, described, report)
    comparison, closest = beside_published(at, count(frame))
    metadata = {
        "recipe": {"name": recipe.name, "title": recipe.title, "hash": recipe.hash, "licence": recipe.licence}
        | {"homepage": recipe.homepage, "citation": recipe.citation},
        "source": {"name": located.source.name, "kind": located.source.kind, "files": _files(located)},
        "steps": [step.model_dump(mode="json") for step in at.steps],
        "split": at.split.model_dump(mode="json"),
        "modalities": modalities,
        "summary": _summary(work.counts, interactions, len(users), len(items), modalities),
        "time": "order" if getattr(located.source.interactions, "timestamp_unit", "") == "order" else "seconds",
        "comparison": comparison,
        "closest": closest,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }
    dataset = write_prepared(
        target,
        name=recipe.name,
        interactions=interactions,
        users=pd.DataFrame({"id": users}),
        items=described,
        features=features,
        metadata=metadata,
    )
    report(f"{recipe.name} is ready: {target}")
    return dataset


def _require_encoders(recipe: Recipe, source: str | None) -> None:
    """Refuse to fetch gigabytes for encoders whose libraries are not installed."""
    for candidate in recipe.sources:
        if source in (None, candidate.name):
            features = list(recipe.at(candidate).features.values())
            if any(feature.encoder in NEURAL for feature in features):
                from bench.data.features.neural import require

                require(features)
            return


def _already_there(recipe: Recipe, folder: Path, source: str | None, report: Report) -> PreparedDataset:
    dataset = PreparedDataset.load(folder)
    again = f"Use --force to prepare {recipe.name} anew; results on the old data stay apart by its fingerprint."
    if dataset.metadata.get("recipe", {}).get("hash") != recipe.hash:
        raise DataError(f"{folder} was prepared from other content of the recipe {recipe.path}. {again}")
    used = dataset.metadata["source"]["name"]
    if source not in (None, used):
        raise DataError(f"{folder} was prepared from the source '{used}', not from '{source}'. {again}")
    report(f"{recipe.name} is already prepared: {folder}")
    return dataset


def _numbered(frame: pd.DataFrame, users: "pd.Series[str]", items: "pd.Series[str]") -> pd.DataFrame:
    """Replace ids by row numbers (int32), keep split and time, and sort by user and item."""
    numbers = {}
    for column, ids in (("user", users), ("item", items)):
        of_category = pd.Index(ids).get_indexer(frame[column].cat.categories).astype(np.int32)
        numbers[column] = of_category[frame[column].cat.codes]
    others = [column for column in ("split", "timestamp") if column in frame.columns]
    numbered = pd.DataFrame({**numbers, **{column: frame[column].array for column in others}})
    order = np.lexsort((numbers["item"], numbers["user"]))
    return numbered.iloc[order].reset_index(drop=True)


def _summary(
    counts: list[StepCounts],
    interactions: pd.DataFrame,
    n_users: int,
    n_items: int,
    modalities: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Collect the numbers a reader wants to see of a dataset; counts, and density as a fraction of all pairs."""
    train = interactions[interactions["split"] == "train"]
    shown = ("width", "zero_rows", "duplicate_rows")
    return {
        "raw": counts[0].known,
        "prepared": {"users": n_users, "items": n_items, "interactions": len(interactions)},
        "steps": [each.as_dict() for each in counts],
        "density": len(interactions) / (n_users * n_items),
        "split": {part: int((interactions["split"] == part).sum()) for part in SPLITS},
        "users_without_train": n_users - train["user"].nunique(),
        "items_never_in_train": n_items - train["item"].nunique(),
        "modalities": {name: {key: about[key] for key in shown} for name, about in modalities.items()},
    }


def _files(located: Located) -> list[dict[str, Any]]:
    """Return name, size and checksum of every raw file that was read, packed as it lies there."""
    files, seen = [], set()
    for name in needed_files(located.recipe, located.source):
        path = located.files.find(name).path
        if path in seen:
            continue
        seen.add(path)
        size = path.stat().st_size
        digest = None
        if size <= LARGEST_HASHED:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append({"file": path.name, "bytes": size, "sha256": digest})
    return files
