"""Sparse products over the user-item graph.

Nodes are numbered users first, then items: user u is node u, item i is node n_users + i.

Products run through `embedding_bag` with one weight per edge: on one CPU core 1.6 to 2 times faster than a CSR
tensor's. Where the matrix is symmetric, the backward pass multiplies the gradient by the very same matrix and nothing
is transposed; `SparseMatrix`, for all others, keeps its transpose beside it.
"""

from typing import Any

import numpy as np
import torch
from scipy.sparse import block_array, csr_array
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from ld4mrec.rows import UserRows


def bipartite_adjacency(interactions: csr_array) -> csr_array:
    """Return A = [[0, R], [R^T, 0]], [N, N] with N = n_users + n_items.

    Args:
        interactions: R, [n_users, n_items].
    """
    return csr_array(block_array([[None, interactions], [interactions.T, None]], format="csr"))


def normalize_symmetric(adjacency: csr_array) -> csr_array:
    """Return D^{-1/2} A D^{-1/2}, float32, with D the row sums of A; without edges a row stays zero.

    Args:
        adjacency: A, [N, N], symmetric and non-negative.
    """
    degrees = np.asarray(adjacency.sum(axis=1), dtype=np.float64).ravel()
    scale = np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    edges = adjacency.tocoo()
    rows, columns = edges.coords
    weights = (edges.data * (scale[rows] * scale[columns])).astype(np.float32)
    normalized = csr_array((weights, (rows, columns)), shape=adjacency.shape)
    normalized.sort_indices()
    return normalized


class _Rows(nn.Module):
    """The rows of a fixed sparse matrix as bags of weighted neighbors, [n_rows, n_columns].

    The buffers follow the module to its device and stay out of its state dict: they are data, not parameters.
    """

    starts: Tensor
    neighbors: Tensor
    weights: Tensor

    def __init__(self, matrix: csr_array) -> None:
        super().__init__()
        self.register_buffer("starts", torch.from_numpy(matrix.indptr.astype(np.int64)), persistent=False)
        self.register_buffer("neighbors", torch.from_numpy(matrix.indices.astype(np.int64)), persistent=False)
        self.register_buffer("weights", torch.from_numpy(matrix.data.astype(np.float32)), persistent=False)

    def multiply(self, table: Tensor) -> Tensor:
        """Return A T, [n_rows, D], without recording it for autograd.

        Args:
            table: T, [n_columns, D].
        """
        return embedding_bag(
            self.neighbors,
            table.detach(),
            self.starts,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )


class SparseMatrix(nn.Module):
    """A fixed sparse matrix A, [n_rows, n_columns], to multiply embeddings by, with its transpose for the gradient.

    Args:
        matrix: A.
    """

    def __init__(self, matrix: csr_array) -> None:
        super().__init__()
        self.shape = matrix.shape
        self.rows, self.columns = _Rows(csr_array(matrix)), _Rows(csr_array(matrix.T))

    def propagate(self, table: Tensor) -> Tensor:
        """Return A T for a table T, [n_columns, D] -> [n_rows, D]."""
        product: Tensor = _Product.apply(table, self.rows, self.columns)  # type: ignore[no-untyped-call]
        return product

    def propagate_back(self, table: Tensor) -> Tensor:
        """Return A^T T for a table T, [n_rows, D] -> [n_columns, D]."""
        product: Tensor = _Product.apply(table, self.columns, self.rows)  # type: ignore[no-untyped-call]
        return product


class SymmetricGraph(_Rows):
    """A fixed symmetric sparse matrix A, [N, N], to multiply node embeddings by.

    Args:
        matrix: A; for LightGCN `normalize_symmetric(bipartite_adjacency(interactions))`.

    Raises:
        ValueError: if the matrix is not symmetric, because gradients would be wrong without a word.
    """

    def __init__(self, matrix: csr_array) -> None:
        if matrix.shape[0] != matrix.shape[1] or abs(matrix - matrix.T).max() > 1e-6:
            raise ValueError(
                f"SymmetricGraph expects a symmetric matrix, found one of shape {matrix.shape} that differs from "
                "its transpose. Normalize both sides alike, as normalize_symmetric does."
            )
        super().__init__(matrix)

    def propagate(self, nodes: Tensor) -> Tensor:
        """Return A E for node embeddings E, [N, D]."""
        product: Tensor = _Propagate.apply(nodes, self)  # type: ignore[no-untyped-call]
        return product

    def mean_of_layers(self, nodes: Tensor, n_layers: int) -> Tensor:
        """Return (E + A E + ... + A^L E) / (L + 1), [N, D].

        Args:
            nodes: E, [N, D].
            n_layers: L, at least 0.
        """
        mean: Tensor = _MeanOfLayers.apply(nodes, self, n_layers)  # type: ignore[no-untyped-call]
        return mean


class _Propagate(torch.autograd.Function):
    """A E; the gradient is A^T G = A G."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, graph: SymmetricGraph) -> Tensor:
        ctx.graph = graph
        return graph.multiply(nodes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        product = _Propagate.apply(gradient.contiguous(), ctx.graph)  # type: ignore[no-untyped-call]
        return product, None


class _Product(torch.autograd.Function):
    """A T; the gradient is A^T G."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: _Rows, columns: _Rows) -> Tensor:
        ctx.rows, ctx.columns = rows, columns
        return rows.multiply(table)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        product = _Product.apply(gradient.contiguous(), ctx.columns, ctx.rows)  # type: ignore[no-untyped-call]
        return product, None, None


class _MeanOfLayers(torch.autograd.Function):
    """p(A) E with p(A) = (Id + A + ... + A^L) / (L + 1); the gradient is p(A) G.

    One function for all layers: a running sum replaces L + 1 stored layers and autograd's own sums.
    """

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, graph: SymmetricGraph, n_layers: int) -> Tensor:
        ctx.graph, ctx.n_layers = graph, n_layers
        layer, total = nodes, nodes.clone()
        for _ in range(n_layers):
            layer = graph.multiply(layer)
            total += layer
        return total.div_(n_layers + 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        mean = _MeanOfLayers.apply(gradient.contiguous(), ctx.graph, ctx.n_layers)  # type: ignore[no-untyped-call]
        return mean, None, None


def sum_over_items(rows: UserRows, users: Tensor, table: Tensor) -> Tensor:
    """Return X[users] T, the sum of the table's rows over each user's items, [len(users), D].

    The dense rows of X are never built: the work is D per interaction instead of D per item of the catalog.

    Args:
        rows: the interaction matrix X.
        users: int64 [B].
        table: T, [n_items, D].
    """
    _, items = rows.coordinates(users)
    counts = rows.starts[users + 1] - rows.starts[users]
    return embedding_bag(items, table, counts.cumsum(0) - counts, mode="sum")
