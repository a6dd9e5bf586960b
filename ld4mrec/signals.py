"""Condition signals of C-Net, computed once from the training matrix (Eq. 14-16).

Reference: Zhu et al., arXiv 2309.15363v2, section 5.1. Where the paper leaves a choice:

- Eq. 14 decomposes R. The normalized matrix R~ = D_U^-1/2 R D_I^-1/2 of Eq. 15 is the default here, as it
  ranked better wherever both were tried; `svd_matrix="raw"` is the printed equation. With R~ in both places
  C = [U ; U Lambda], because R~ I = U Lambda.
- Columns of U have unit length, so an entry is of size 1 / sqrt(|U|) and C would hardly move a network. C is
  multiplied by sqrt(|U|), which keeps the spectrum: strong components stay stronger in the second half.
- Item features come in any scale. They are standardized by column before Eq. 16, and the users' sums after.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

SvdMatrix = Literal["normalized", "raw"]
SvdScale = Literal["sqrt_users", "standardized", "none"]


def normalize(interactions: csr_array) -> csr_array:
    """Return R~ = D_U^-1/2 R D_I^-1/2, [n_users, n_items]; empty rows and columns stay zero."""
    user_degrees = np.asarray(interactions.sum(axis=1), dtype=np.float64).ravel()
    item_degrees = np.asarray(interactions.sum(axis=0), dtype=np.float64).ravel()
    by_user = diags_array(np.maximum(user_degrees, 1.0) ** -0.5)
    by_item = diags_array(np.maximum(item_degrees, 1.0) ** -0.5)
    return csr_array(by_user @ interactions @ by_item, dtype=np.float32)


def collaborative_signals(
    interactions: csr_array, rank: int, matrix: SvdMatrix = "normalized", scale: SvdScale = "sqrt_users"
) -> Tensor:
    """Return C, the collaborative signals of all users, [n_users, 2 k] float32 (Eq. 14-15).

    The decomposition is randomized (Halko et al., 2011; 10 oversamples, 4 power iterations) with fixed random
    numbers and signs, so it repeats.

    Args:
        interactions: R, the binary training matrix [n_users, n_items].
        rank: d_svd. k is `rank`, or min(n_users, n_items) - 1 where the matrix is too small for it.
        matrix: decompose R~ ("normalized") or R as Eq. 14 prints it ("raw").
        scale: multiply C by sqrt(n_users) ("sqrt_users"), give each column mean 0 and deviation 1
            ("standardized"), or leave Eq. 15 as it is ("none").
    """
    normalized = normalize(interactions)
    k = min(rank, min(interactions.shape) - 1)
    user_vectors, _, item_vectors = randomized_svd(
        normalized if matrix == "normalized" else interactions,
        n_components=k,
        n_oversamples=10,
        n_iter=4,
        random_state=0,
    )  # Eq. 14: U, Lambda, I^T; Lambda is not used again
    signals = np.hstack((user_vectors, normalized @ item_vectors.T))  # Eq. 15
    if scale == "sqrt_users":
        signals *= np.sqrt(len(signals))
    elif scale == "standardized":
        signals = _standardize(signals)
    return torch.from_numpy(signals.astype(np.float32))


def modality_preference(interactions: csr_array, features: Tensor) -> Tensor:
    """Return m_u, what each user's items look like in one modality, [n_users, width] float32 (Eq. 16).

    m_u = sum over i in N_u of m_i / sqrt(|N_u| |N_i|) = R~[u] F. Users without interactions get zeros.

    Args:
        interactions: R, the binary training matrix [n_users, n_items].
        features: F, one row m_i per item, [n_items, width].

    Raises:
        ValueError: if `features` does not have one row per item.
    """
    if features.dim() != 2 or len(features) != interactions.shape[1]:
        raise ValueError(
            f"Expected item features of shape [{interactions.shape[1]}, width], one row per item of the "
            f"interactions; found {list(features.shape)}."
        )
    item_features = _standardize(features.detach().cpu().numpy().astype(np.float32))
    preference = normalize(interactions) @ item_features
    active = np.diff(interactions.indptr) > 0
    preference[active] = _standardize(preference[active])
    return torch.from_numpy(preference.astype(np.float32))


def _standardize(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give each column mean 0 and deviation 1; a constant column becomes 0."""
    centered = columns - columns.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = centered.std(axis=0, dtype=np.float64)
    constant = deviation <= 1e-6 * np.abs(columns).max(axis=0, initial=0.0)
    factors = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation)).astype(np.float32)
    standardized: NDArray[np.float32] = centered * factors
    return standardized
