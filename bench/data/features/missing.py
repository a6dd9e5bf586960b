"""What becomes of items that have nothing to encode: refused, dropped before, or filled in and reported."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.features.matrices import Matrix
from bench.data.recipes.modalities import Missing
from bench.errors import DataError

Report = Callable[[str], None]


def fill_with_mean(matrix: Matrix, present: NDArray[np.bool_]) -> Matrix:
    """Give the rows that are not `present` [n_items] the mean of those that are, taken in float64."""
    if present.all():
        return matrix
    filled = matrix.copy()
    filled[~present] = matrix[present].mean(axis=0, dtype=np.float64)
    return filled


def spread(matrix: Matrix, present: NDArray[np.bool_]) -> Matrix:
    """Put the rows where `present` [n_items] is true, and zeros elsewhere; float32 [n_items, width]."""
    if present.all():
        return matrix
    whole = np.zeros((len(present), matrix.shape[1]), dtype=np.float32)
    whole[present] = matrix
    return whole


def settle_missing(
    modality: str,
    policy: Missing,
    ids: "pd.Series[str]",
    present: NDArray[np.bool_],
    noun: str,
    report: Callable[[str], None],
    lack: str = "",
) -> None:
    """Refuse items that have nothing to encode where the policy says so; else report what they get instead.

    Args:
        modality: its name.
        policy: the recipe's.
        ids: of the items.
        present: bool [n_items], which of them have something.
        noun: what that is: "text", "label", "row", "record" or "picture".
        report: called with one line if any item has none.
        lack: the finding in words; unset: "have no NOUN".

    Raises:
        DataError: as `refuse_missing`.
    """
    refuse_missing(modality, policy, ids, present, noun, lack)
    n_missing = len(present) - np.count_nonzero(present)
    if n_missing:
        gets = "; they get the mean of the others" if policy == "mean" else "; their rows are zero"
        # That an item without words or labels has a row of zeros goes without saying.
        gets = "" if policy == "zero" and noun in ("text", "label") else gets
        report(f"features.{modality}: {n_missing:,} of {len(present):,} items {lack or f'have no {noun}'}{gets}")


def refuse_missing(
    modality: str, policy: Missing, ids: "pd.Series[str]", present: NDArray[np.bool_], noun: str, lack: str = ""
) -> None:
    """Refuse items that have nothing to encode where the policy does, and a modality that no item has.

    Raises:
        DataError: the policy is "refuse" or "drop" and an item has nothing, or none has anything.
    """
    absent = list(ids[~present])
    counts = f"features.{modality}: {len(absent):,} of {len(present):,} items {lack or f'have no {noun}'}"
    if absent and policy == "refuse":
        raise DataError(
            f"{counts}; for example item {some(absent)}. Add what is missing, or set 'missing' in the recipe to "
            f'"mean" or "zero", or to "drop" with a step of kind \'available\'.'
        )
    if absent and policy == "drop":
        raise DataError(
            f"{counts}, although the step of kind 'available' was to drop such items; for example item {some(absent)}. "
            f"If the raw files have changed meanwhile, prepare again."
        )
    if not present.any():
        table = "items table" if noun in ("text", "label") else "feature"
        raise DataError(f"features.{modality}: no item has any {noun}. Check the {table} in the recipe.")


def some(words: Sequence[str]) -> str:
    """Quote the first three words."""
    return ", ".join(f"'{word}'" for word in words[:3]) + (", ..." if len(words) > 3 else "")
