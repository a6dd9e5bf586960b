"""Describe a prepared dataset: what the steps left, how interactions spread, what is cold, what the features know.

Everything is counted from the prepared files; only what they no longer tell, such as the counts before each step, comes
from what the preparation wrote down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.features.matrices import check_features
from bench.data.neighbours import Lift, lift
from bench.data.prepared import PreparedDataset
from bench.data.split import SPLITS

QUANTILES = {"quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class StepCounts:
    """What was there after a step.

    Attributes:
        step: "read" for the raw rows, else the kind of the step.
        words: the step's rule in words; "" where none was written down.
        users: number of users U; None if not counted.
        items: number of items I; None if not counted.
        interactions: number of interactions.
        users_more_than: where counting the users was given up at so many.
        items_more_than: where counting the items was given up at so many.
        density: interactions / (U * I); None where one of them is unknown.
        per_user: interactions per user on average.
        per_item: interactions per item on average.
    """

    step: str
    words: str
    users: int | None
    items: int | None
    interactions: int
    users_more_than: int | None
    items_more_than: int | None
    density: float | None
    per_user: float | None
    per_item: float | None


@dataclass(frozen=True)
class Degrees:
    """How many interactions the users, or the items, have.

    Attributes:
        whose: "users" or "items".
        part: "all" or "train".
        count: how many users or items there are, those without interactions included.
        least: fewest interactions; `quarter` to `p99` are quantiles (linear interpolation), `most` the largest number.
        mean: on average.
        gini: 0 where all have equally many, towards 1 where few have almost everything.
        histogram: how many have 0 interactions, 1, 2 to 3, 4 to 7, and so on in powers of two.
    """

    whose: str
    part: str
    count: int
    least: int
    quarter: float
    median: float
    three_quarters: float
    p90: float
    p95: float
    p99: float
    most: int
    mean: float
    gini: float
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One part of the split.

    Attributes:
        part: "train", "valid" or "test".
        interactions: its size.
        share: of all interactions.
        users: with interactions in it.
        items: with interactions in it.
        with_cold_item: interactions with an item that is never in train.
        with_cold_user: interactions of a user who has no train row.
        first: earliest timestamp, seconds since 1970 (or a rank, see `Description.time`); None without times.
        last: latest timestamp.
    """

    part: str
    interactions: int
    share: float
    users: int
    items: int
    with_cold_item: int
    with_cold_user: int
    first: int | None
    last: int | None


@dataclass(frozen=True)
class Coverage:
    """What a modality holds.

    Attributes:
        modality: its name.
        encoder: that made it; "" where not written down.
        width: number of columns.
        items: number of items I.
        own: items with features of their own: the row is not zero, nor the mean of the others' in place of a missing
            one.
        zero_rows: items whose features are all zero.
        duplicate_rows: items with the same non-zero features as an item before them.
        missing_rows: items that had nothing to encode; None where not written down.
        lift: how much more strongly neighbours by these features are consumed together than random pairs.
    """

    modality: str
    encoder: str
    width: int
    items: int
    own: int
    zero_rows: int
    duplicate_rows: int
    missing_rows: int | None
    lift: Lift


@dataclass(frozen=True)
class Description:
    """All there is to see of a prepared dataset without training anything.

    Attributes:
        steps: counts of the raw rows and after each step.
        degrees: of users and items, over all interactions and over train.
        users_without_train: users who have no train row.
        items_never_in_train: items without a train row.
        parts: of the split.
        time: what timestamps are: "seconds" since 1970, "order" for ranks, "none".
        modalities: in the order of their names.
        comparison: our counts, then published ones: name, users, items, interactions.
        closest: which setting comes closest to the published counts, in a sentence; "" where not written down.
    """

    steps: tuple[StepCounts, ...]
    degrees: tuple[Degrees, ...]
    users_without_train: int
    items_never_in_train: int
    parts: tuple[Part, ...]
    time: str
    modalities: tuple[Coverage, ...]
    comparison: tuple[dict[str, Any], ...]
    closest: str


def describe(dataset: PreparedDataset) -> Description:
    """Describe a prepared dataset; `dataclasses.asdict` of the result is plain JSON.

    The features are read in full, for the neighbours of up to 2,000 items per modality.

    Raises:
        DataError: a feature matrix holds values that are NaN or infinite.
    """
    frame, metadata = dataset.interactions, dataset.metadata
    train = frame[frame["split"] == "train"]
    counted = [
        (whose, part, np.bincount(rows[column], minlength=count))
        for part, rows in (("all", frame), ("train", train))
        for whose, column, count in (("users", "user", dataset.n_users), ("items", "item", dataset.n_items))
    ]
    no_user, no_item = (numbers == 0 for _, part, numbers in counted if part == "train")
    time = metadata.get("time", "seconds") if "timestamp" in frame.columns else "none"
    return Description(
        steps=step_counts(metadata.get("summary", {})),
        degrees=tuple(degrees(whose, part, numbers) for whose, part, numbers in counted),
        users_without_train=int(no_user.sum()),
        items_never_in_train=int(no_item.sum()),
        parts=tuple(_part(frame, name, no_user, no_item) for name in SPLITS),
        time=str(time),
        modalities=_modalities(dataset),
        comparison=tuple(metadata.get("comparison", ())),
        closest=str(metadata.get("closest") or ""),
    )


def step_counts(summary: Mapping[str, Any]) -> tuple[StepCounts, ...]:
    """Return the counts of the raw rows and after each step, from the summary that the preparation wrote.

    Datasets of older versions tell of the raw and the prepared rows only.
    """
    known: Sequence[Mapping[str, Any]] = summary.get("steps") or [
        {"step": name, "words": words, **summary[key]}
        for key, name, words in (("raw", "read", ""), ("prepared", "prepared", "after all steps"))
        if key in summary
    ]
    return tuple(_step(row) for row in known)


def _step(row: Mapping[str, Any]) -> StepCounts:
    users, items, interactions = row.get("users"), row.get("items"), row["interactions"]
    return StepCounts(
        step=row["step"],
        words=row.get("words", ""),
        users=users,
        items=items,
        interactions=interactions,
        users_more_than=row.get("users_more_than"),
        items_more_than=row.get("items_more_than"),
        density=interactions / (users * items) if users and items else None,
        per_user=interactions / users if users else None,
        per_item=interactions / items if items else None,
    )


def degrees(whose: str, part: str, numbers: NDArray[np.int64]) -> Degrees:
    """Describe how interactions spread over users or items.

    Args:
        whose: "users" or "items".
        part: "all" or "train".
        numbers: interactions of each, [U] or [I], at least one entry.
    """
    ordered = np.sort(numbers)
    total, count = int(ordered.sum()), len(ordered)
    # Twice the area between the Lorenz curve and the diagonal, in the form that needs one pass over the sorted numbers.
    ranks = 2 * np.arange(1, count + 1) - count - 1
    bins = np.where(ordered > 0, np.frexp(ordered)[1], 0)
    return Degrees(
        whose=whose,
        part=part,
        count=count,
        least=int(ordered[0]),
        **{name: float(np.quantile(ordered, share)) for name, share in QUANTILES.items()},
        most=int(ordered[-1]),
        mean=total / count,
        gini=float((ranks * ordered).sum() / (count * total)) if total else 0.0,
        histogram=tuple(int(size) for size in np.bincount(bins)),
    )


def _part(frame: pd.DataFrame, name: str, no_user: NDArray[np.bool_], no_item: NDArray[np.bool_]) -> Part:
    rows = frame[frame["split"] == name]
    timed = "timestamp" in rows.columns and len(rows) > 0
    return Part(
        part=name,
        interactions=len(rows),
        share=len(rows) / max(1, len(frame)),
        users=rows["user"].nunique(),
        items=rows["item"].nunique(),
        with_cold_item=int(no_item[rows["item"]].sum()),
        with_cold_user=int(no_user[rows["user"]].sum()),
        first=int(rows["timestamp"].min()) if timed else None,
        last=int(rows["timestamp"].max()) if timed else None,
    )


def _modalities(dataset: PreparedDataset) -> tuple[Coverage, ...]:
    train = dataset.matrix("train")
    known = dataset.metadata.get("modalities", {})
    return tuple(
        _coverage(name, matrix, known.get(name, {}), str(dataset.folder), lift(train, matrix))
        for name, matrix in sorted(dataset.features.items())
    )


def _coverage(name: str, matrix: NDArray[np.float32], about: Mapping[str, Any], where: str, signal: Lift) -> Coverage:
    zero, duplicate = about.get("zero_rows"), about.get("duplicate_rows")
    if zero is None or duplicate is None:
        found = check_features(name, matrix, len(matrix), where)
        zero, duplicate = found.n_zero_rows, found.n_duplicate_rows
    missing = about.get("missing_rows")
    # Rows of zeros for missing items are counted among the zero rows already.
    filled = (missing or 0) if about.get("missing") == "mean" else 0
    return Coverage(
        modality=name,
        encoder=str(about.get("encoder", "")),
        width=matrix.shape[1],
        items=len(matrix),
        own=len(matrix) - zero - filled,
        zero_rows=zero,
        duplicate_rows=duplicate,
        missing_rows=missing,
        lift=signal,
    )
