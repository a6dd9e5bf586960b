"""What the lists hold, whether or not it hits: how much of the catalogue they reach and how popular it is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


def coverage(lists: NDArray[np.int64], k: int, n_items: int) -> float:
    """Return Coverage@K: the share of the catalogue that is in the top K of at least one user.

    The denominator is all `n_items`, items without a training interaction included.

    Args:
        lists: top lists, best first, [n_eval, >= k]; -1 marks an empty place.
        k: cut-off.
        n_items: size of the catalogue.
    """
    top = _top(lists, k)
    return len(np.unique(top[top >= 0])) / n_items


def mean_popularity(lists: NDArray[np.int64], k: int, counts: NDArray[np.int64]) -> float:
    """Return Popularity@K: the mean training count of a user's top K, averaged over users (Yin et al., 2012).

    The denominator is the length of the user's list, which is below K where candidates ran out. Users with an
    empty list are left out; without any list at all it is 0.

    Args:
        lists: top lists, best first, [n_eval, >= k]; -1 marks an empty place.
        k: cut-off.
        counts: training interactions of each item, [n_items].
    """
    top = _top(lists, k)
    filled = top >= 0
    lengths = filled.sum(axis=1)
    totals = np.where(filled, counts[top], 0).sum(axis=1)
    shown = lengths > 0
    return float((totals[shown] / lengths[shown]).mean()) if shown.any() else 0.0


def beyond_accuracy(lists: NDArray[np.int64], train: csr_array, ks: Sequence[int]) -> dict[str, float]:
    """Return coverage and mean popularity at each cut-off, under keys like `coverage@20` and `popularity@20`.

    Args:
        lists: top lists, best first, [n_eval, >= max(ks)]; -1 marks an empty place.
        train: training positives [n_users, n_items].
        ks: cut-offs.
    """
    n_items = train.shape[1]
    counts = np.bincount(train.indices, minlength=n_items)
    return {f"coverage@{k}": coverage(lists, k, n_items) for k in ks} | {
        f"popularity@{k}": mean_popularity(lists, k, counts) for k in ks
    }


def _top(lists: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the first k columns, refusing lists that are too short to tell."""
    if lists.shape[1] < k:
        raise ValueError(f"lists of length {lists.shape[1]} cannot be cut at {k}")
    return lists[:, :k]
