"""Sparse matrices whose rows are divided by a power of their own sum, and by nothing on the other side."""

import numpy as np
from scipy.sparse import csr_array


def normalize_one_side(links: csr_array, exponent: float) -> csr_array:
    """Return D^{-exponent} A, float32, with D the row sums of A; a row without entries stays zero.

    With exponent 1 a product with it is the mean over a node's neighbors. With exponent 1/2, where the other side has
    no share in it, a product grows with the square root of the degree.

    Args:
        links: A, [rows, columns], non-negative.
        exponent: 1 or 1/2 in the models here.
    """
    degrees = np.asarray(links.sum(axis=1), dtype=np.float64).ravel()
    scale = np.power(degrees, -exponent, out=np.zeros_like(degrees), where=degrees > 0)
    weights = (links.data * np.repeat(scale, np.diff(links.indptr))).astype(np.float32)
    return csr_array((weights, links.indices, links.indptr), shape=links.shape)
