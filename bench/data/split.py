"""Assign every interaction to training, validation or test.

The counts per user follow the rule of the MMRec toolbox: of n interactions, n < 10 gives n - 2 / 1 / 1;
otherwise h = floor(0.2 n) are held out, floor(h / 2) of them for validation and the rest for test. For odd h
the extra one goes to test.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.filters import id_codes
from bench.errors import DataError

SPLITS = ("train", "valid", "test")
FEWEST_INTERACTIONS = 3
DEFAULT_LABELS: Mapping[str, str] = {
    "0": "train",
    "1": "valid",
    "2": "test",
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
}


def assign_split(
    frame: pd.DataFrame,
    method: Literal["random", "chronological", "given"],
    split_seed: int,
    labels: Mapping[str, str] | None,
) -> pd.Categorical:
    """Return "train", "valid" or "test" for every row of `frame`, [n_rows].

    The result belongs to the interactions, not to their order: permuted rows get the same labels, permuted.

    Args:
        frame: interactions, one per user and item; the chronological method needs `timestamp`, the given
            method `split`.
        method: "random" draws each user's held-out interactions uniformly; "chronological" holds out each
            user's latest, the very last for test (equal times go by item id); "given" maps `split`.
        split_seed: seed of the random method; the others do not use it.
        labels: for the given method, raw label -> "train", "valid" or "test"; None takes `DEFAULT_LABELS`.

    Raises:
        DataError: a column is missing, a user has too few interactions, a raw label is unknown, or a part
            is empty.
    """
    if frame.empty:
        raise DataError("There are no interactions to split. Check the filters in the recipe.")
    if method == "given":
        return _given(frame, DEFAULT_LABELS if labels is None else labels)
    users, items = id_codes(frame, "user"), id_codes(frame, "item")
    _check_counts(frame, users, method)
    if method == "chronological":
        order = np.lexsort((items, _timestamps(frame), users))
    else:
        # Draws are handed out in the order of ids, so that the order of the rows has no part in the split.
        by_id = np.lexsort((items, users))
        draws = np.random.default_rng(split_seed).random(len(frame))
        order = by_id[np.lexsort((draws, users[by_id]))]
    codes = np.empty(len(frame), dtype=np.int8)
    codes[order] = _codes_in_order(users[order])
    return pd.Categorical.from_codes(codes, categories=list(SPLITS))


def _codes_in_order(users: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return indices into SPLITS for rows sorted by user and, within a user, from first to last."""
    n = np.bincount(users)
    held_out = np.where(n < 10, 2, n // 5)
    first_valid = n - held_out
    first_test = first_valid + held_out // 2
    position = np.arange(len(users)) - (np.cumsum(n) - n)[users]
    codes = np.zeros(len(users), dtype=np.int8)
    codes += position >= first_valid[users]
    codes += position >= first_test[users]
    return codes


def _check_counts(frame: pd.DataFrame, users: NDArray[np.int64], method: str) -> None:
    counts = np.bincount(users)
    too_few = counts < FEWEST_INTERACTIONS
    if too_few.any():
        worst = int(counts.argmin())
        example = frame["user"].iloc[int((users == worst).argmax())]
        raise DataError(
            f"{too_few.sum():,} of {len(counts):,} users have fewer than {FEWEST_INTERACTIONS} interactions "
            f"(for example user '{example}' with {counts[worst]}), but a {method} split needs at least one "
            f"each for training, validation and test. Raise user_core to {FEWEST_INTERACTIONS} or more in "
            f"the recipe, or bring a split of your own with the method 'given'."
        )


def _timestamps(frame: pd.DataFrame) -> NDArray[np.int64]:
    if "timestamp" not in frame.columns:
        raise DataError(
            f"A chronological split needs a column 'timestamp', but the interactions have only: "
            f"{', '.join(map(str, frame.columns))}. Name the time column in the recipe, or use the random "
            f"method."
        )
    missing = frame["timestamp"].isna()
    if missing.any():
        raise DataError(
            f"A chronological split needs a time for every interaction, but {missing.sum():,} of "
            f"{len(frame):,} have none. Repair the source file, or use the random method."
        )
    return np.asarray(frame["timestamp"], dtype=np.int64)


def _given(frame: pd.DataFrame, labels: Mapping[str, str]) -> pd.Categorical:
    if "split" not in frame.columns:
        raise DataError(
            f"The split method 'given' needs a column 'split', but the interactions have only: "
            f"{', '.join(map(str, frame.columns))}. Name the split column in the recipe, or use the random "
            f"method."
        )
    wrong = sorted(set(labels.values()) - set(SPLITS))
    if wrong:
        raise DataError(
            f"The split labels of the recipe lead to {', '.join(map(repr, wrong))}; the only parts are "
            f"{', '.join(map(repr, SPLITS))}."
        )
    raw = frame["split"].astype(object).where(frame["split"].notna(), "").astype(str)
    unknown = ~raw.isin(list(labels)).to_numpy()
    if unknown.any():
        found = raw[unknown].value_counts()
        listed = ", ".join(f"{label!r} ({count:,} rows)" for label, count in found.head(10).items())
        more = f" and {len(found) - 10:,} more" if len(found) > 10 else ""
        raise DataError(
            f"The column 'split' has labels that lead to no part: {listed}{more}. Known labels: "
            f"{', '.join(map(repr, labels))}. Map the others in the recipe to 'train', 'valid' or 'test'."
        )
    parts = np.asarray(raw.map(dict(labels)), dtype=np.str_)
    empty = [part for part in SPLITS if not (parts == part).any()]
    if empty:
        raise DataError(
            f"The given split has no {' and no '.join(empty)} interactions: {len(parts):,} rows, labels "
            f"{', '.join(map(repr, sorted(raw.unique())))}. Every part needs some; check the labels in the "
            f"recipe, or use the random method."
        )
    return pd.Categorical(parts, categories=list(SPLITS))
