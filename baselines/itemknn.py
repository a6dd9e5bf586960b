"""ItemKNN: an item scores by its similarity to the user's own items.

Reference: Deshpande and Karypis, "Item-based top-N recommendation algorithms", ACM TOIS 22(1), 2004.

    sim(i, j) = |N_i & N_j| / (sqrt(|N_i| |N_j|) + shrink),  sim(i, i) = 0
    s_ui = sum of sim(i, j) over the user's items j that are among the k most similar to i

N_i is the set of training users of item i, k is `n_neighbors`.

Readings taken:

- The neighbors kept are those of the candidate i, as in the paper and in RecBole. Keeping those of the user's items
  j gives another model, because being a neighbor is not mutual.
- Similarities are not normalized to sum to 1 per item, which the paper offers as an option.
- Among equal similarities the lower item index is kept, so that the choice does not depend on the machine.

Similarities are computed for a block of items at a time; [block, n_items] floats are the most that is ever dense.
Fit and scores run on the CPU, as sparse times sparse; scores then travel to the users' device.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from scipy.sparse import csr_array
from torch import Tensor, nn

BLOCK_ENTRIES = 1 << 23


class ItemKNN(nn.Module):
    """Cosine neighborhoods between items; complete once constructed, so its state dict is empty.

    Args:
        interactions: training matrix X, [n_users, n_items], binary.
        features: ignored.
        n_neighbors: similar items kept for each item.
        shrink: added to the cosine's denominator; damps similarities that rest on few users.
    """

    batching: ClassVar[Literal["none"]] = "none"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "n_neighbors": (20, 50, 100, 200),
        "shrink": (0.0, 10.0, 50.0, 100.0),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        n_neighbors: Annotated[int, Ge(1)] = 100,
        shrink: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__()
        self.interactions = interactions
        self.similarity = nearest_neighbors(interactions, n_neighbors, shrink)

    def score(self, users: Tensor) -> Tensor:
        """Return X[users] S, [len(users), n_items]."""
        scores = (self.interactions[users.cpu().numpy()] @ self.similarity).toarray()
        return torch.from_numpy(scores).to(users.device)


def nearest_neighbors(interactions: csr_array, n_neighbors: int, shrink: float) -> csr_array:
    """Return the similarities S, [n_items, n_items] float32; column i holds the neighbors of item i.

    Args:
        interactions: X, [n_users, n_items], binary.
        n_neighbors: entries kept per column; those with similarity 0 are not stored.
        shrink: added to the denominator.
    """
    n_items = interactions.shape[1]
    counts = np.asarray(interactions.sum(axis=0), dtype=np.float32).ravel()
    users_of_item = csr_array(interactions.T)
    size = max(1, BLOCK_ENTRIES // n_items)
    kept = []
    for start in range(0, n_items, size):
        block = (users_of_item[start : start + size] @ interactions).toarray()
        denominator = np.sqrt(np.outer(counts[start : start + size], counts)) + np.float32(shrink)
        np.divide(block, denominator, out=block, where=denominator > 0)
        block[np.arange(len(block)), np.arange(start, start + len(block))] = 0.0
        rows, columns = _largest_per_row(block, min(n_neighbors, n_items))
        kept.append((rows + start, columns, block[rows, columns]))
    rows, columns, values = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return csr_array((values, (columns, rows)), shape=(n_items, n_items))


def _largest_per_row(block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, columns) of the k largest entries above 0 of each row; the lower column wins a tie."""
    threshold = np.partition(block, -k, axis=1)[:, -k][:, None]
    keep = (block >= threshold) & (block > 0)
    # Only rows with several entries at the threshold keep too many: counting those out over all rows takes longest.
    crowded = np.flatnonzero(keep.sum(axis=1) > k)
    level, tied = threshold[crowded], block[crowded]
    above, tied = tied > level, tied == level
    keep[crowded] = above | (tied & (tied.cumsum(axis=1, dtype=np.int32) <= k - above.sum(axis=1, keepdims=True)))
    rows, columns = np.nonzero(keep)
    return rows, columns
