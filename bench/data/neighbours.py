"""Do items with similar features share users? A cheap measure of what a modality knows about taste.

For an item q, its k nearest other items by the cosine of their feature rows are its neighbours. How strongly two items
are consumed together is the cosine of their columns of the train matrix, the number of users they share over the
geometric mean of their numbers of users, so that popular items do not count as near to everything. The lift is the mean
of that over pairs of a query and a neighbour, divided by its mean over pairs of a query and any other item. Features
that know nothing of taste have a lift of 1.

No model is trained, and only train rows are used: the number says something about the data alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from bench.errors import DataError

VALUES_AT_ONCE = 16_000_000
N_RESAMPLES = 1000
# Cosines of equal rows differ by the last bits of float32, depending on where a row lies in a block.
TIE = 1e-5

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Lift:
    """How many times more strongly neighbours by features are consumed together than random pairs.

    Attributes:
        ratio: neighbour_rate / random_rate; None if no two items share a user, or there are fewer than two items.
        low: lower end of the 95 % interval of the ratio, by bootstrap over queries; None where the ratio is.
        high: its upper end.
        neighbour_rate: mean co-consumption of a query and its neighbours, from 0 to 1.
        random_rate: mean co-consumption of a query and all other items, exact.
        k: neighbours per query.
        n_queries: items whose neighbours were looked up.
        n_items: items with train rows and features, among which they were looked up.
    """

    ratio: float | None
    low: float | None
    high: float | None
    neighbour_rate: float
    random_rate: float
    k: int
    n_queries: int
    n_items: int


def lift(train: csr_array, features: NDArray[np.float32], *, k: int = 10, n_queries: int = 2000, seed: int = 0) -> Lift:
    """Measure how much more strongly nearest neighbours by features are consumed together than random pairs.

    Items without train rows and items whose features are all zero take no part. The search is exact; where several
    items are equally near and not all of them fit into k, they share the remaining places, so that the order of items
    has no influence. Memory stays near the size of one block of similarities (64 MB), whatever the number of items.

    The interval resamples queries, with all their neighbours at once. It covers the choice of queries and the spread
    between items, not the choice of users. Where most items are looked up, it is somewhat too narrow, because two
    items that are each other's neighbours count twice: in simulations without any signal it held 1 in 93 of 100 cases
    with a tenth of the items looked up, and in 85 to 89 with all of them.

    Args:
        train: interactions of the training part [U, I], 1 where there is one.
        features: of the items [I, D].
        k: neighbours per query; fewer if there are not as many other items.
        n_queries: at most so many items are looked up, drawn without replacement; all if there are fewer.
        seed: of the draw and of the bootstrap.

    Raises:
        DataError: the rows of `features` are not the columns of `train`.
        ValueError: k or n_queries is below 1.
    """
    if k < 1 or n_queries < 1:
        raise ValueError(f"k and n_queries must be at least 1, not {k} and {n_queries}")
    if len(features) != train.shape[1]:
        raise DataError(f"The features have {len(features):,} rows, but there are {train.shape[1]:,} items.")
    rng = np.random.default_rng(seed)
    counts = np.bincount(train.indices, minlength=train.shape[1])
    lengths = np.sqrt(np.einsum("ij,ij->i", features, features, dtype=np.float64))
    taking_part = (counts > 0) & (lengths > 0)
    items = np.flatnonzero(taking_part)
    k = min(k, len(items) - 1)
    if k < 1:
        return Lift(None, None, None, 0.0, 0.0, 0, 0, len(items))
    queries = np.sort(rng.choice(items, min(n_queries, len(items)), replace=False))
    columns = _normalised(train, counts, taking_part)
    # The sum over all items, without the items one by one; an item's co-consumption with itself is 1.
    random = ((columns.sum(axis=1) @ columns)[queries] - 1) / (len(items) - 1)
    near = np.empty(len(queries))
    # The length of an item without part is infinite, and so its cosine is zero before it is struck out.
    lengths[~taking_part] = np.inf
    size = max(1, VALUES_AT_ONCE // len(features))
    for start in range(0, len(queries), size):
        block = slice(start, start + size)
        near[block] = _near(columns, features, lengths, queries[block], k)
    ratio, low, high = _ratio(near, random, rng)
    return Lift(ratio, low, high, float(near.mean()), float(max(0.0, random.mean())), k, len(queries), len(items))


def _normalised(train: csr_array, counts: Numbers, taking_part: NDArray[np.bool_]) -> csc_array:
    """Return the train matrix [U, I] by columns, each of length 1, those of items without part empty."""
    scale = np.where(taking_part, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)
    columns = csc_array((scale[train.indices], train.nonzero()), shape=train.shape)
    columns.eliminate_zeros()
    return columns


def _near(columns: csc_array, features: NDArray[np.float32], lengths: Floats, queries: Numbers, k: int) -> Floats:
    """Return the mean co-consumption of each query and its k nearest other items, [queries]."""
    cosines = (features[queries] / lengths[queries, None]).astype(np.float32) @ features.T
    cosines /= lengths.astype(np.float32)
    cosines[:, np.isinf(lengths)] = -np.inf
    rows = np.arange(len(queries))
    cosines[rows, queries] = -np.inf
    last = np.partition(cosines, cosines.shape[1] - k, axis=1)[:, -k]
    n_nearer = np.count_nonzero(cosines > (last + TIE)[:, None], axis=1)
    n_tied = np.count_nonzero(cosines >= (last - TIE)[:, None], axis=1) - n_nearer
    share = (k - n_nearer) / n_tied

    together = (columns[:, queries].T @ columns).tocoo()
    row, column = together.coords
    cosine = cosines[row, column]
    weight = np.where(cosine > last[row] + TIE, 1.0, np.where(cosine >= last[row] - TIE, share[row], 0.0))
    return np.asarray(np.bincount(row, weights=weight * together.data, minlength=len(queries))) / k


def _ratio(near: Floats, random: Floats, rng: np.random.Generator) -> tuple[float | None, float | None, float | None]:
    """Return the ratio of the means over queries with its 95 % percentile interval, or None three times."""
    if random.sum() <= 1e-12:
        return None, None, None
    weights = rng.multinomial(len(near), np.full(len(near), 1 / len(near)), size=N_RESAMPLES)
    below = weights @ random
    ratios = (weights @ near)[below > 0] / below[below > 0]
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(near.sum() / random.sum()), float(low), float(high)
