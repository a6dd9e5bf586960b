"""ItemKNN-CBF: an item scores by how much it looks and reads like the user's own items.

Reference: the content-based neighborhood baseline of Ferrari Dacrema, Cremonesi, Jannach, "Are We Really Making Much
Progress? A Worrying Analysis of Recent Neural Recommendation Approaches", RecSys 2019, arXiv 1907.06902; after Lops,
de Gemmis, Semeraro, "Content-based Recommender Systems: State of the Art and Trends", Recommender Systems Handbook,
2011.

    x_i = [x_i,1 / |x_i,1| ; ... ; x_i,M / |x_i,M|]      all modalities of item i side by side
    sim(i, j) = cos(x_i, x_j),  sim(i, i) = 0
    s_ui = sum of sim(i, j) over the user's items j that are among the k most similar to i

Nothing is learned: it measures what the features alone are worth, beside a model that also learns from other users.

Readings taken:

- Each modality is scaled to unit length first, so that none counts more for its scale or width. An item that lacks a
  modality, a row of zeros, is then compared by those it has.
- `fusion="mean"` finds the k nearest in each modality apart and averages the M graphs, a neighbor missing in one
  counting 0 there: an item that is close in one modality alone is kept, which the joint cosine may pass over.
- The neighbors kept are those of the candidate i, as in ItemKNN. Neighbors with equal cosines come by rising index.
- The reference also offers a shrink term in the denominator. All rows have nearly the same length here, so it would
  divide all scores by nearly the same number; left out.
- An item without any feature is similar to none and scores 0, as does every item for a user without interactions.

Similarities are computed for a block of items at a time and reduced to k at once. Scores are products of sparse
matrices on the CPU, which then travel to the users' device.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import normalize

from baselines.item_graph import nearest_items, neighbor_matrix


class ItemKNNCBF(nn.Module):
    """Cosine neighborhoods between items' features; complete once constructed, so its state dict is empty.

    Args:
        interactions: training matrix X, [n_users, n_items], binary.
        features: one matrix per modality, [n_items, width].
        n_neighbors: similar items k kept for each item; with fusion="mean" in each modality.
        fusion: "concat" compares all modalities at once; "mean" averages one graph per modality.

    Raises:
        ValueError: there is no modality, or one does not have a row for every item.
    """

    batching: ClassVar[Literal["none"]] = "none"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "n_neighbors": (5, 10, 20, 50, 100, 200, 500),
        "fusion": ("concat", "mean"),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        n_neighbors: Annotated[int, Ge(1)] = 100,
        fusion: Literal["concat", "mean"] = "concat",
    ) -> None:
        super().__init__()
        _check(features, interactions.shape[1])
        units = [normalize(features[name].float(), dim=1, eps=1e-12) for name in sorted(features)]
        blocks = [torch.cat(units, dim=1)] if fusion == "concat" else units
        graphs = [nearest_neighbors(block, n_neighbors) for block in blocks]
        neighbors = sum(graphs[1:], start=graphs[0])
        self.interactions = interactions
        # Division of a sparse matrix by an integer would widen it to float64.
        self.similarity = csr_array(neighbors.T) * np.float32(1 / len(graphs))

    def score(self, users: Tensor) -> Tensor:
        """Return X[users] S, [len(users), n_items]."""
        scores = (self.interactions[users.cpu().numpy()] @ self.similarity).toarray()
        return torch.from_numpy(scores).to(users.device)


def nearest_neighbors(features: Tensor, n_neighbors: int) -> csr_array:
    """Return the cosines of each item with its k nearest others, [I, I] float32; row i holds the neighbors of i.

    Args:
        features: [I, width].
        n_neighbors: k; similarities of 0 are not stored.
    """
    n_items = len(features)
    # One more is asked for, because an item is among its own nearest.
    indices, cosines = nearest_items(features, n_neighbors + 1)
    own = indices == torch.arange(n_items, device=indices.device)[:, None]
    # Many items with the same features can push an item out of its own list: the last neighbor goes instead.
    own[:, -1] |= (indices.shape[1] > n_neighbors) & ~own.any(dim=1)
    matrix = neighbor_matrix(indices, cosines.masked_fill(own, 0.0), n_items)
    matrix.eliminate_zeros()
    return matrix


def _check(features: Mapping[str, Tensor], n_items: int) -> None:
    """Refuse features that no neighborhood can be built of."""
    if not features:
        raise ValueError(
            "ItemKNN-CBF compares items by their features and needs at least one modality, found none. Use a dataset "
            "with features, or ItemKNN, which compares items by their users."
        )
    for name, matrix in features.items():
        if matrix.dim() != 2 or len(matrix) != n_items:
            raise ValueError(
                f"ItemKNN-CBF expects the features of modality '{name}' to have shape [{n_items}, width], one row per "
                f"item of the interactions; found {list(matrix.shape)}."
            )
