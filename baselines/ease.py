"""EASE: a linear autoencoder over items, solved in closed form.

Reference: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019.

min_B ||X - X B||_F^2 + lambda ||B||_F^2 with diag(B) = 0 has the solution (Eq. 8)

    P = (X^T X + lambda Id)^{-1},    B_ij = -P_ij / P_jj for i != j,    B_jj = 0,

and s_u = x_u B.

Reading taken: the paper tunes lambda per dataset and names no default. 200 is a starting point; small sparse data
want less, data of many millions of interactions more.

Memory: the item-item matrix is dense by nature. 4 n_items^2 bytes stay: 0.2 GB for 7,000 items, 1.2 GB for 17,000,
10 GB for 50,000. The solve briefly needs about 4.4 times as much in float64, 2.4 times in float32. Its time grows with
n_items^3: some seconds for 7,000 items on one core.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.graph import sum_over_items
from ld4mrec.rows import UserRows

BLOCK_ENTRIES = 1 << 23


class EASE(nn.Module):
    """Ridge regression of every item on all others; complete once constructed, so its state dict is empty.

    Args:
        interactions: training matrix X, [n_users, n_items], binary.
        features: ignored.
        reg_weight: lambda, the ridge penalty.
        precision: floating-point width of the solve; float32 halves its memory and time.

    Raises:
        ValueError: if the regularized Gram matrix cannot be factorized in the chosen precision.
    """

    batching: ClassVar[Literal["none"]] = "none"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "reg_weight": (20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 600.0, 1000.0),
    }
    item_weights: Tensor

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        reg_weight: Annotated[float, Gt(0)] = 200.0,
        precision: Literal["float32", "float64"] = "float64",
    ) -> None:
        super().__init__()
        self.rows = UserRows(interactions)
        weights = solve(gram_matrix(interactions, precision), reg_weight)
        self.register_buffer("item_weights", weights, persistent=False)

    @classmethod
    def memory_bytes(
        cls,
        n_users: int,
        n_items: int,
        n_interactions: int,
        *,
        precision: Literal["float32", "float64"] = "float64",
        **others: object,
    ) -> int:
        """Return the peak memory of the solve in bytes; what a dense item-item matrix costs cannot be avoided."""
        return int((4.4 if precision == "float64" else 2.4) * 4 * n_items**2)

    def score(self, users: Tensor) -> Tensor:
        """Return x_u B for these users, [len(users), n_items]."""
        return sum_over_items(self.rows, users, self.item_weights)


def gram_matrix(interactions: csr_array, precision: Literal["float32", "float64"]) -> Tensor:
    """Return X^T X dense, [n_items, n_items], computed sparse by blocks of rows.

    Args:
        interactions: X, [n_users, n_items].
        precision: dtype of the result.
    """
    n_items = interactions.shape[1]
    gram = np.empty((n_items, n_items), dtype=precision)
    users_of_item = csr_array(interactions.T)
    size = max(1, BLOCK_ENTRIES // n_items)
    for start in range(0, n_items, size):
        gram[start : start + size] = (users_of_item[start : start + size] @ interactions).toarray()
    return torch.from_numpy(gram)


def solve(gram: Tensor, reg_weight: float) -> Tensor:
    """Return B of Eq. 8, [n_items, n_items] float32 with a zero diagonal.

    Args:
        gram: X^T X, [n_items, n_items]; its diagonal is overwritten.
        reg_weight: lambda.

    Raises:
        ValueError: if X^T X + lambda Id is not positive definite in the matrix's precision.
    """
    gram.diagonal().add_(reg_weight)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed.item():
        raise ValueError(
            f"EASE expects X^T X + reg_weight Id to be positive definite; with reg_weight={reg_weight} it is not "
            f"in {gram.dtype}. Use precision float64 or a larger reg_weight."
        )
    del gram
    inverse = torch.cholesky_inverse(factor)
    del factor
    # The inverse comes back column by column; sums of rows, which scoring is made of, want them in one piece.
    weights = inverse.div_(-inverse.diagonal()).to(torch.float32).contiguous()
    weights.fill_diagonal_(0.0)
    return weights
