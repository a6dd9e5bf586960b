"""Decide which interactions stay: positive ones, recent ones, one per user and item, inside a k-core.

All functions take and return frames with at least the columns `user` and `item`, as text or categorical; the rows that
stay keep their order and get a fresh index.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.recipes.steps import WindowStep
from bench.errors import DataError

DAY_S = 86_400


def keep_positive(frame: pd.DataFrame, minimum: float, column: str = "rating") -> pd.DataFrame:
    """Keep the interactions whose `column` is at least `minimum`.

    Raises:
        DataError: the column is missing, holds something other than numbers, or has empty values.
    """
    if column not in frame.columns:
        raise DataError(
            f"The positive rule needs a column '{column}', but the interactions have only: "
            f"{', '.join(map(str, frame.columns))}. Name the column in the recipe, or remove the rule."
        )
    values = frame[column]
    if not pd.api.types.is_numeric_dtype(values):
        raise DataError(
            f"The positive rule compares column '{column}' with {minimum:g}, but the column holds "
            f"{values.dtype} values, not numbers. Check the separator and the column names in the recipe."
        )
    missing = values.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"Column '{column}' is empty in {missing.sum():,} of {len(frame):,} interactions, first in row "
            f"{int(missing.argmax()):,} (counted from 0), so the positive rule (at least {minimum:g}) cannot "
            f"decide on them. Repair the source file, or remove the rule from the recipe."
        )
    return frame[values >= minimum].reset_index(drop=True)


def keep_actions(frame: pd.DataFrame, actions: Sequence[str]) -> pd.DataFrame:
    """Keep the interactions whose column `action` is one of `actions`."""
    return frame[frame["action"].isin(list(actions))].reset_index(drop=True)


def keep_days(frame: pd.DataFrame, step: WindowStep, offset_s: int) -> pd.DataFrame:
    """Keep the interactions inside a window of whole days.

    Args:
        frame: interactions with the column `timestamp`, seconds since 1970.
        step: the window.
        offset_s: seconds that local time, whose days count, is ahead of UTC.
    """
    if frame.empty:
        return frame
    local = frame["timestamp"].to_numpy() + offset_s
    first, after = step.bounds_s
    if step.last_days is not None:
        after = (int(local.max()) // DAY_S + 1) * DAY_S
        first = after - step.last_days * DAY_S
    return frame[(local >= first) & (local < after)].reset_index(drop=True)


def deduplicate(frame: pd.DataFrame, keep: Literal["first", "last"] = "first") -> pd.DataFrame:
    """Keep one interaction per user and item.

    Args:
        frame: interactions; with a column `timestamp` the earliest or latest is kept, and equal times go by
            row order; without one, row order alone decides.
        keep: which one of several to keep.
    """
    if frame.empty:
        return frame
    pairs = pair_codes(frame)
    if "timestamp" in frame.columns and not frame["timestamp"].is_monotonic_increasing:
        order = np.lexsort((frame["timestamp"].to_numpy(), pairs))
    else:
        order = np.argsort(pairs, kind="stable")
    new = np.diff(pairs[order]) != 0
    ends = np.concatenate(([True], new) if keep == "first" else (new, [True]))
    kept = np.zeros(len(frame), dtype=np.bool_)
    kept[order[ends]] = True
    return frame[kept].reset_index(drop=True)


def k_core(frame: pd.DataFrame, user_core: int, item_core: int, report: Callable[[str], None]) -> pd.DataFrame:
    """Keep the largest set of interactions in which every user and every item still has enough of them.

    Users with fewer than `user_core` and items with fewer than `item_core` interactions are dropped together,
    again and again, until a round finds nothing to drop. The result does not depend on the order of rows or
    of removals. Repeated (user, item) rows count as often as they occur, so deduplicate first.

    Args:
        frame: interactions.
        user_core: fewest interactions per user; 0 or 1 does not filter users.
        item_core: fewest interactions per item; 0 or 1 does not filter items.
        report: called with one line per round.

    Raises:
        DataError: nothing is left, or an id is missing.
    """
    if frame.empty:
        raise DataError(
            "There are no interactions left to take a k-core of. Check the earlier steps of the recipe: the "
            "positive rule, the time window and the sample."
        )
    users, items = id_codes(frame, "user"), id_codes(frame, "item")
    kept = _core(users, items, user_core, item_core, report)
    if not kept.any():
        raise DataError(_empty_core(users, items, user_core, item_core))
    return frame[kept].reset_index(drop=True)


def id_codes(frame: pd.DataFrame, column: str) -> NDArray[np.int64]:
    """Number the ids of `column` that occur from 0 in their sorted order, int64 [n_rows].

    Raises:
        DataError: an id is missing.
    """
    ids = frame[column]
    if isinstance(ids.dtype, pd.CategoricalDtype):
        codes = np.asarray(ids.cat.codes, dtype=np.int64)
        if not ids.cat.categories.is_monotonic_increasing:
            rank = np.argsort(np.argsort(np.asarray(ids.cat.categories, dtype=object)))
            codes = np.where(codes < 0, codes, rank[codes]).astype(np.int64)
    else:
        codes = np.asarray(pd.factorize(ids, sort=True)[0], dtype=np.int64)
    missing = codes < 0
    if missing.any():
        raise DataError(
            f"{missing.sum():,} of {len(frame):,} interactions have no {column} id, first in row "
            f"{int(missing.argmax()):,} (counted from 0). Check the separator and the column names in the "
            f"recipe."
        )
    # Categories that no row has left any more get no number.
    occurs = np.bincount(codes) > 0
    return codes if occurs.all() else np.asarray((np.cumsum(occurs) - 1)[codes], dtype=np.int64)


def pair_codes(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Number the pairs of user and item so that equal pairs, and no others, have equal numbers, int64 [n_rows].

    Raises:
        DataError: an id is missing.
    """
    items = id_codes(frame, "item")
    return id_codes(frame, "user") * (int(items.max(initial=0)) + 1) + items


def count(frame: pd.DataFrame) -> dict[str, int]:
    """Return the numbers of users, items and interactions."""
    return {"users": _n_ids(frame["user"]), "items": _n_ids(frame["item"]), "interactions": len(frame)}


def _n_ids(ids: "pd.Series[str]") -> int:
    if isinstance(ids.dtype, pd.CategoricalDtype):
        return int(np.count_nonzero(np.bincount(ids.cat.codes))) if len(ids) else 0
    return int(ids.nunique())


def _core(
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    user_core: int,
    item_core: int,
    report: Callable[[str], None],
) -> NDArray[np.bool_]:
    """Return which rows belong to the core, bool [n_rows]."""
    rows = np.arange(len(users))
    user_counts, item_counts = np.bincount(users), np.bincount(items)
    for round_number in range(1, len(users) + 2):
        stay = (user_counts[users[rows]] >= user_core) & (item_counts[items[rows]] >= item_core)
        settled = bool(stay.all())
        rows = rows[stay]
        user_counts, item_counts = np.bincount(users[rows]), np.bincount(items[rows])
        report(
            f"k-core (users >= {user_core}, items >= {item_core}), round {round_number}: "
            f"{np.count_nonzero(user_counts):,} users, {np.count_nonzero(item_counts):,} items, "
            f"{len(rows):,} interactions left" + (" (nothing to drop)" if settled else "")
        )
        if settled or not len(rows):
            break
    kept = np.zeros(len(users), dtype=np.bool_)
    kept[rows] = True
    return kept


def _empty_core(users: NDArray[np.int64], items: NDArray[np.int64], user_core: int, item_core: int) -> str:
    """Explain that the core is empty and name the highest one, capped at the asked for, that is not."""
    # Cores are nested, and the 1-core is everything: bisect for the last core with rows in it.
    filled, empty = 1, max(user_core, item_core)
    while empty - filled > 1:
        middle = (filled + empty) // 2
        kept = _core(users, items, min(user_core, middle), min(item_core, middle), lambda line: None)
        filled, empty = (middle, empty) if kept.any() else (filled, middle)
    return (
        f"Nothing is left after the k-core filter: the {users.max() + 1:,} users, {items.max() + 1:,} items "
        f"and {len(users):,} interactions before it hold no part in which every user has at least "
        f"{user_core} and every item at least {item_core} interactions. The highest core with something "
        f"left is user_core = {min(user_core, filled)}, item_core = {min(item_core, filled)}; ask for that or "
        f"less in the recipe."
    )
