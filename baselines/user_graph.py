"""A graph of users with items in common: which k of them each user has most in common with, and by which weights.

Reference: Wang, Wei, Yin, Wu, Song, Nie, "DualGNN: Dual Graph Neural Network for Multimedia Recommendation", IEEE
Transactions on Multimedia 2021.

R R^T is never dense, and is made in blocks of users of which the k largest counts stay. Where users share few items,
equal counts are the rule at the cut: all users stand in a random circle, the same in every run, and each takes those
that come next after them. Taken by rising index, those with low indices would hold most links.
"""

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

# Products of R R^T in one block of users: 24 MiB of counts and indices before equal ones are added. Larger blocks spend
# their time on fresh memory.
BLOCK_PRODUCTS = 1 << 21
# Draws the circle.
SEED = 0
# Steps in which counts, and then users, are told apart before what is left is sorted.
DIGITS = 256


def common_items(interactions: csr_array, n_neighbors: int) -> csr_array:
    """Return (R R^T)_uv at the k users v with the most items in common with u, [U, U] float32; u itself is left out.

    Of equal counts at the cut those stay that come next after u in the circle.

    Args:
        interactions: R, binary, [U, I].
        n_neighbors: k.
    """
    n_users = interactions.shape[0]
    circle = np.random.default_rng(SEED).permutation(n_users)
    ones = np.ones(interactions.nnz, dtype=np.int32)
    # Users by their place in the circle.
    binary = csr_array((ones, interactions.indices, interactions.indptr), interactions.shape)[circle]
    transposed = csr_array(binary.T)
    products = np.concatenate(([0], np.cumsum(binary @ np.diff(transposed.indptr).astype(np.int64))))
    blocks = []
    first = 0
    while first < n_users:
        last = int(np.searchsorted(products, products[first] + BLOCK_PRODUCTS, side="right")) - 1
        last = min(max(last, first + 1), n_users)
        blocks.append(_most_in_common(csr_array(binary[first:last] @ transposed), first, n_neighbors))
        first = last
    rows, columns, counts = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return csr_array((counts.astype(np.float32), (circle[rows], circle[columns])), shape=(n_users, n_users))


def _most_in_common(counts: csr_array, first: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, column, count) of the k largest entries of each row, the diagonal left out.

    Args:
        counts: rows first, first + 1, ... of R R^T.
        first: the user of row 0.
        k: entries kept per row; of equal ones those that come next after the diagonal, the first column after the last.
    """
    n_rows, n_columns = counts.shape
    rows = np.repeat(np.arange(n_rows), np.diff(counts.indptr))
    # Columns as steps from the diagonal, which is 0.
    steps = counts.indices - rows - first
    steps += n_columns * (steps < 0)
    others = steps > 0
    rows, steps, values = _among_the_largest(rows[others], steps[others], counts.data[others], counts.shape, k)
    # One sort of one number: row, then falling count, then step.
    most = int(values.max(initial=0))
    keys = (rows * (most + 1) + most - values) * n_columns + steps
    keys.sort()
    levels, steps = np.divmod(keys, n_columns)
    rows, falling = np.divmod(levels, most + 1)
    starts = np.searchsorted(rows, np.arange(n_rows))
    kept = np.arange(len(rows)) - starts[rows] < k
    rows = rows[kept] + first
    return rows, (rows + steps[kept]) % n_columns, most - falling[kept]


def _among_the_largest(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int], k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, column, value) of entries that hold the k largest of each row, int64, and few others.

    Most users that meet at all share a single popular item: sorting them all would take longer than counting.

    Args:
        rows: of the entries.
        columns: of the entries.
        values: of the entries, positive.
        shape: number of rows and of columns.
        k: entries wanted per row; of equal ones those with lower columns.
    """
    n_rows, n_columns = shape
    falling = DIGITS - np.minimum(values, DIGITS)
    last, room = _digit_reached(rows, falling, n_rows, np.full(n_rows, k))
    kept = np.flatnonzero(falling <= last[rows])
    rows, columns, values, falling = rows[kept], columns[kept], values[kept], falling[kept]
    # Equal counts at the cut, unless they are so large that they share a digit without being equal.
    level = (falling == last[rows]) & (falling > 0)
    places = columns[level].astype(np.int64) * DIGITS // n_columns
    reached, _ = _digit_reached(rows[level], places, n_rows, room)
    kept = np.ones(len(rows), dtype=bool)
    kept[level] = places <= reached[rows[level]]
    return rows[kept], columns[kept].astype(np.int64), values[kept].astype(np.int64)


def _digit_reached(
    groups: np.ndarray, digits: np.ndarray, n_groups: int, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the digit at which each group has as many entries as wanted, and how many of that digit it takes.

    Args:
        groups: group of each entry.
        digits: of each entry, from 0 below DIGITS.
        n_groups: number of groups.
        wanted: entries wanted of each group; one with fewer gets a digit above all.
    """
    amounts = np.bincount(groups * DIGITS + digits, minlength=n_groups * DIGITS).reshape(n_groups, DIGITS)
    cumulative = amounts.cumsum(axis=1)
    reached = (cumulative < wanted[:, None]).sum(axis=1)
    before = np.concatenate((np.zeros((n_groups, 1), dtype=np.int64), cumulative), axis=1)
    return reached, wanted - before[np.arange(n_groups), reached]


class UserGraph(nn.Module):
    """Softmax of the number of common items over each user's neighbors, with random repeats up to k or without.

    Args:
        counts: common items of each user with their neighbors, [U, U], as `common_items` gives them.
        n_neighbors: k.
    """

    starts: Tensor
    neighbors: Tensor
    exponentials: Tensor
    single: Tensor
    weights: Tensor

    def __init__(self, counts: csr_array, n_neighbors: int) -> None:
        super().__init__()
        self.n_neighbors = n_neighbors
        users = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        largest = np.zeros(counts.shape[0], dtype=np.float32)
        np.maximum.at(largest, users, counts.data)
        self.register_buffer("starts", torch.from_numpy(counts.indptr.astype(np.int64)), persistent=False)
        self.register_buffer("neighbors", torch.from_numpy(counts.indices.astype(np.int64)), persistent=False)
        exponentials = torch.from_numpy(np.exp(counts.data - largest[users]))
        self.register_buffer("exponentials", exponentials, persistent=False)
        self.register_buffer("single", self._softmax(torch.ones_like(exponentials)), persistent=False)
        self.register_buffer("weights", self.single.clone(), persistent=False)

    def _softmax(self, repeats: Tensor) -> Tensor:
        """Return a with every neighbor taken `repeats` times, [entries]."""
        weighted = self.exponentials * repeats
        users = torch.repeat_interleave(self.starts.diff(), output_size=len(weighted))
        totals = torch.zeros(len(self.starts) - 1, device=weighted.device).index_add_(0, users, weighted)
        return weighted / totals[users]

    def pad(self) -> None:
        """Draw repeats for every user with fewer than k neighbors, and use the weights that result.

        Each repeat is drawn from the neighbors and the repeats before it. Such draws are those by shares that are
        uniform over all that add up to 1 (Polya's urn), which exponential variables divided by their sum are.
        """
        lengths = self.starts.diff()
        users = torch.repeat_interleave(torch.where(lengths > 0, self.n_neighbors - lengths, 0))
        shares = torch.empty_like(self.exponentials, dtype=torch.float64).exponential_()
        ends = torch.cat((shares.new_zeros(1), shares.cumsum(0)))
        first, last = self.starts[users], self.starts[users + 1]
        targets = torch.lerp(ends[first], ends[last], torch.rand(len(users), dtype=ends.dtype, device=ends.device))
        places = torch.searchsorted(ends, targets, right=True) - 1
        # Rounding may reach the end of a user's range.
        places = torch.minimum(places, last - 1)
        repeats = torch.ones_like(self.exponentials).index_add_(0, places, torch.ones_like(places, dtype=torch.float32))
        self.weights.copy_(self._softmax(repeats))

    def propagate(self, users: Tensor, tastes: Tensor) -> Tensor:
        """Return sum_v a_uv t_v of these users with the weights in use, [len(users), D].

        Args:
            users: int64 [n].
            tastes: t, [U, D].
        """
        starts = self.starts[users]
        counts = self.starts[users + 1] - starts
        offsets = counts.cumsum(0) - counts
        edges = torch.repeat_interleave(starts - offsets, counts)
        edges += torch.arange(len(edges), device=edges.device)
        return embedding_bag(self.neighbors[edges], tastes, offsets, mode="sum", per_sample_weights=self.weights[edges])

    def propagate_all(self, tastes: Tensor) -> Tensor:
        """Return sum_v a_uv t_v for all users, each neighbor taken once and without gradients, [U, D].

        Args:
            tastes: t, [U, D].
        """
        return embedding_bag(
            self.neighbors,
            tastes.detach(),
            self.starts,
            mode="sum",
            per_sample_weights=self.single,
            include_last_offset=True,
        )
