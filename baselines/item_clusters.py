"""Clusters of items that the same users choose, by k-means on a truncated singular value decomposition."""

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import normalize

from ld4mrec.signals import collaborative_signals

RANK = 64
ROUNDS = 100


def item_clusters(interactions: csr_array, n_clusters: int) -> Tensor:
    """Return the cluster of each item, int64 [I]; every cluster has an item. The same for every seed.

    Items are compared by the directions of V S, with U S V^T the truncated decomposition of D_U^{-1/2} X D_I^{-1/2}.

    Args:
        interactions: X, [n_users, n_items].
        n_clusters: at most n_items.
    """
    if n_clusters == 1 or min(interactions.shape) < 2:
        return torch.arange(interactions.shape[1]) % n_clusters
    both = collaborative_signals(csr_array(interactions.T), RANK, scale="none")
    return k_means(normalize(both[:, both.shape[1] // 2 :], dim=1), n_clusters)


def k_means(points: Tensor, n_clusters: int, n_starts: int = 4) -> Tensor:
    """Return the cluster of each point by Lloyd's rounds from k-means++ centers, int64 [n]; the best of some starts.

    Reference: Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007. Random numbers come
    from a generator of its own with a fixed seed: the shapes of a model must not depend on the seed it trains with.

    Args:
        points: [n, D], n at least n_clusters.
        n_clusters: C; none stays empty.
        n_starts: the one with the least sum of squared distances wins.
    """
    generator = torch.Generator().manual_seed(0)
    best, least = torch.zeros(len(points), dtype=torch.int64), float("inf")
    for _ in range(n_starts):
        labels, error = _lloyd(points, _spread_centers(points, n_clusters, generator))
        if error < least:
            best, least = labels, error
    return best


def _spread_centers(points: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Draw centers among the points, each with a probability that grows with its distance from those drawn, [C, D]."""
    centers = points[torch.randint(len(points), (1,), generator=generator)]
    while len(centers) < n_clusters:
        gaps = torch.cdist(points, centers).square().amin(dim=1)
        # All points may lie on centers already; then any will do.
        gaps = gaps if bool(gaps.sum() > 0) else torch.ones_like(gaps)
        centers = torch.cat((centers, points[torch.multinomial(gaps, 1, generator=generator)]))
    return centers


def _lloyd(points: Tensor, centers: Tensor) -> tuple[Tensor, float]:
    """Return the points' clusters, [n], and the sum of squared distances to their centers."""
    previous = torch.full((len(points),), -1)
    for _ in range(ROUNDS):
        distances, labels = torch.cdist(points, centers).square().min(dim=1)
        _fill_empty(labels, distances, len(centers))
        if torch.equal(labels, previous):
            break
        previous = labels
        sums = torch.zeros_like(centers).index_add_(0, labels, points)
        centers = sums / torch.bincount(labels, minlength=len(centers))[:, None]
    return labels, float(distances.sum())


def _fill_empty(labels: Tensor, distances: Tensor, n_clusters: int) -> None:
    """Give each empty cluster the point farthest from its center whose cluster has others, in place."""
    counts = torch.bincount(labels, minlength=n_clusters)
    for empty in (counts == 0).nonzero()[:, 0].tolist():
        far = int(torch.where(counts[labels] > 1, distances, -1.0).argmax())
        counts[labels[far]] -= 1
        counts[empty], labels[far], distances[far] = 1, empty, 0.0
