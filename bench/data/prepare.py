"""From a recipe to a prepared dataset: fetch, read, filter, number, split, describe, check, write."""

import hashlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.data.align import build_features, describe_items, order_ids
from bench.data.fetch import Located, locate, needed_files
from bench.data.filters import deduplicate, k_core, keep_positive
from bench.data.prepared import PreparedDataset, write_prepared
from bench.data.read import read_interactions, read_items
from bench.data.recipe import CoreStep, Counts, DedupeStep, PositiveStep, Recipe
from bench.data.replace import clean_partials
from bench.data.split import SPLITS, assign_split
from bench.errors import DataError
from bench.workspace import Workspace

Report = Callable[[str], None]
LIBRARIES = ("numpy", "pandas", "pyarrow", "scikit-learn", "scipy")


def prepare(
    recipe: Recipe, workspace: Workspace, *, source: str | None = None, force: bool = False, report: Report
) -> PreparedDataset:
    """Prepare the dataset of a recipe, or return it if it is there already.

    Users and items are numbered by their ids (by value where all are whole numbers, else as text) and the interactions
    are sorted by those numbers, so the order of the raw rows has no part in the result. Nothing is visible under the
    dataset's name before all of it is written; until then an older one stays in place.

    Args:
        recipe: what to prepare.
        workspace: where raw files, recipes and prepared data lie.
        source: name of the source to use; None takes the first one available.
        force: prepare again, even if the dataset is there.
        report: called with one line of progress at a time.

    Raises:
        DataError: no source is available, the data is not what the recipe says, or the dataset is there but was made
            from another recipe or source.
        UsageError: the recipe has no source of that name.
    """
    folder = workspace.prepared(recipe.name)
    clean_partials(folder)
    if folder.exists() and not force:
        return _already_there(recipe, folder, source, report)
    located = locate(recipe, workspace, source=source, report=report)
    frame, descriptions = _read(recipe, located, report)
    raw = _counts(frame)
    _compare("raw files", recipe.expected.raw, raw, report)
    frame = _apply_steps(recipe, frame, report)
    _compare("prepared data", recipe.expected.prepared, _counts(frame), report)
    frame["split"] = assign_split(frame, recipe.split.method, recipe.split.split_seed, recipe.split.labels)
    users, items = order_ids(frame["user"]), order_ids(frame["item"])
    interactions = _number(frame, users, items)
    described = describe_items(items, descriptions, report)
    features, modalities = build_features(recipe, located.folder, described, descriptions, report)
    metadata = {
        "recipe": {"name": recipe.name, "title": recipe.title, "hash": recipe.hash, "licence": recipe.licence}
        | {"homepage": recipe.homepage, "citation": recipe.citation},
        "source": {"name": located.source.name, "kind": located.source.kind, "files": _files(recipe, located)},
        "steps": [step.model_dump(mode="json") for step in recipe.steps],
        "split": recipe.split.model_dump(mode="json"),
        "modalities": modalities,
        "summary": _summary(raw, interactions, len(users), len(items), modalities),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }
    dataset = write_prepared(
        folder,
        name=recipe.name,
        interactions=interactions,
        users=pd.DataFrame({"id": users}),
        items=described,
        features=features,
        metadata=metadata,
    )
    report(f"{recipe.name} is ready: {folder}")
    return dataset


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


def _read(recipe: Recipe, located: Located, report: Report) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    source = located.source
    frame = read_interactions(located.folder, source.interactions)
    report(f"read {source.interactions.file}: {_words(_counts(frame))}")
    if source.interactions.rating is not None and not any(isinstance(step, PositiveStep) for step in recipe.steps):
        report("every rating counts as a positive interaction: the recipe has no step of kind 'positive'")
    if source.items is None:
        return frame, None
    descriptions = read_items(located.folder, source.items)
    fields = ", ".join(descriptions.columns[1:]) or "none"
    report(f"read {source.items.file}: {len(descriptions):,} items, fields {fields}")
    return frame, descriptions


def _apply_steps(recipe: Recipe, frame: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Apply the filters in their declared order and report the counts after each."""
    for step in recipe.steps:
        before = _counts(frame)
        match step:
            case PositiveStep():
                frame, words = keep_positive(frame, step.minimum, step.column), f"{step.column} >= {step.minimum:g}"
            case DedupeStep():
                frame, words = deduplicate(frame, step.keep), f"{step.keep} of each user and item"
            case CoreStep():
                frame = k_core(frame, *step.cores, report)
                words = f"users >= {step.cores[0]}, items >= {step.cores[1]}"
        changes = ", ".join(f"{before[what]:,} -> {count:,} {what}" for what, count in _counts(frame).items())
        report(f"step {step.kind} ({words}): {changes}")
        if frame.empty:
            raise DataError(f"Nothing is left after the step '{step.kind}' ({words}) of {recipe.path}. Loosen it.")
    repeated = int(frame.duplicated(["user", "item"]).sum())
    if repeated:
        first = frame[frame.duplicated(["user", "item"])].iloc[0]
        raise DataError(
            f"{repeated:,} interactions repeat an earlier user and item, for example user '{first['user']}' and item "
            f"'{first['item']}'. Add a step of kind 'dedupe' to {recipe.path}, before any step of kind 'core'."
        )
    return frame


def _number(frame: pd.DataFrame, users: "pd.Series[str]", items: "pd.Series[str]") -> pd.DataFrame:
    """Replace ids by row numbers (int32), keep split and time, and sort by user and item."""
    numbered = pd.DataFrame(
        {
            "user": pd.Index(users).get_indexer(pd.Index(frame["user"])).astype(np.int32),
            "item": pd.Index(items).get_indexer(pd.Index(frame["item"])).astype(np.int32),
            "split": frame["split"],
        }
    )
    if "timestamp" in frame.columns:
        numbered["timestamp"] = frame["timestamp"]
    return numbered.sort_values(["user", "item"], ignore_index=True)


def _summary(
    raw: dict[str, int], interactions: pd.DataFrame, n_users: int, n_items: int, modalities: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Collect the numbers a reader wants to see of a dataset; counts, and density as a fraction of all pairs."""
    train = interactions[interactions["split"] == "train"]
    shown = ("width", "zero_rows", "duplicate_rows")
    return {
        "raw": raw,
        "prepared": {"users": n_users, "items": n_items, "interactions": len(interactions)},
        "density": len(interactions) / (n_users * n_items),
        "split": {part: int((interactions["split"] == part).sum()) for part in SPLITS},
        "users_without_train": n_users - train["user"].nunique(),
        "items_never_in_train": n_items - train["item"].nunique(),
        "modalities": {name: {key: about[key] for key in shown} for name, about in modalities.items()},
    }


def _counts(frame: pd.DataFrame) -> dict[str, int]:
    return {"users": frame["user"].nunique(), "items": frame["item"].nunique(), "interactions": len(frame)}


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _compare(what: str, expected: Counts | None, found: dict[str, int], report: Report) -> None:
    """Hold counts against those the recipe knows."""
    known = {} if expected is None else expected.model_dump(exclude={"target"}, exclude_none=True)
    wrong = {key: count for key, count in known.items() if count != found[key]}
    if not wrong:
        return
    words = f"the {what} should have {_words(wrong)}, but have {_words({key: found[key] for key in wrong})}"
    if expected is None or not expected.target:
        raise DataError(
            f"By the recipe, {words}. Either the files are not the ones it means, or its table `expected` is wrong."
        )
    report(f"warning: {words}")


def _files(recipe: Recipe, located: Located) -> list[dict[str, Any]]:
    """Return name, size and checksum of every raw file that was read."""
    files = []
    for name in needed_files(located.source, recipe):
        with (located.folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            files.append({"file": name, "bytes": file.tell(), "sha256": digest})
    return files
