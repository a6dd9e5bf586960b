"""Nearest items in feature space, and the item-item graphs that multimedia models build of them.

No matrix of all pairs is ever held: similarities are computed for a block of items at a time and reduced to the k
nearest at once, so memory is I x k beside one block.
"""

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import normalize

# Entries of one block of similarities: 64 MiB of float32.
BLOCK_ENTRIES = 1 << 24
# Cosines are whole multiples of 1e-6 when they are compared.
STEPS = 1e6


@torch.no_grad()
def nearest_items(features: Tensor, n_neighbors: int) -> tuple[Tensor, Tensor]:
    """Return the nearest items of each item by cosine, itself among them, as (indices, cosines), both [I, k].

    Neighbors come by falling cosine, equal cosines by rising index. Cosines are compared after rounding to 1e-6, so
    that items with the same features are a tie on every machine. A row of zeros has the cosine 0 with every item.

    Args:
        features: [I, width].
        n_neighbors: k; at most I are returned.
    """
    rows = normalize(features.float(), dim=1, eps=1e-12)
    n_items, k = len(rows), min(n_neighbors, len(rows))
    block = max(1, BLOCK_ENTRIES // n_items)
    indices = torch.empty(n_items, k, dtype=torch.int64, device=rows.device)
    cosines = torch.empty(n_items, k, device=rows.device)
    for start in range(0, n_items, block):
        similar = (rows[start : start + block] @ rows.T).mul_(STEPS).round_()
        found, values = _largest(similar, k)
        indices[start : start + block], cosines[start : start + block] = found, values / STEPS
    return indices, cosines


def _largest(similar: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return places and values of the k largest entries of each row, equal ones by rising place, both [rows, k]."""
    values, places = similar.topk(min(k + 1, similar.shape[1]), dim=1)
    cut = values[:, k - 1 : k]
    # Which of several equal entries get the last places is left open by topk: those rows are counted out.
    open_ended = (values[:, k:] == cut).any(dim=1).nonzero()[:, 0]
    places = places[:, :k].clone()
    if len(open_ended):
        rows, last = similar[open_ended], cut[open_ended]
        above, level = rows > last, rows == last
        room = k - above.sum(dim=1, keepdim=True)
        chosen = above | (level & (level.cumsum(dim=1) <= room))
        places[open_ended] = chosen.nonzero()[:, 1].view(-1, k)
    places = places.sort(dim=1).values
    values = similar.gather(1, places)
    order = values.argsort(dim=1, descending=True, stable=True)
    return places.gather(1, order), values.gather(1, order)


def neighbor_matrix(indices: Tensor, weights: Tensor, n_items: int) -> csr_array:
    """Return the sparse matrix with `weights` at (i, indices[i, j]), [I, I] float32; repeated places add.

    Args:
        indices: int64 [I, k].
        weights: [I, k].
        n_items: I.
    """
    n_rows, k = indices.shape
    rows = np.repeat(np.arange(n_rows), k)
    edges = (weights.detach().cpu().numpy().ravel().astype(np.float32), (rows, indices.cpu().numpy().ravel()))
    matrix = csr_array(edges, shape=(n_items, n_items))
    matrix.sum_duplicates()
    return matrix


def normalize_by_rows(matrix: csr_array) -> csr_array:
    """Return D^{-1/2} S D^{-1/2} with D the row sums of S on both sides, although S may be directed.

    Row sums are at least 1e-12 for this, so that negative similarities give no NaN.

    Args:
        matrix: S, [I, I].
    """
    sums = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    scale = 1.0 / np.sqrt(np.maximum(sums, 1e-12))
    scale[sums <= 0] = 0.0
    edges = matrix.tocoo()
    rows, columns = edges.coords
    weights = (edges.data * scale[rows] * scale[columns]).astype(np.float32)
    return csr_array((weights, (rows, columns)), shape=matrix.shape)
