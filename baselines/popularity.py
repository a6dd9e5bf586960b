"""Popularity: every user is shown the items most often interacted with in training.

The yardstick without personalization. s_ui = |N_i|, the number of training users of item i; ties are left to
the evaluator's rule.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn


class Popularity(nn.Module):
    """Rank items by their number of training interactions; there is nothing to tune.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: ignored.
    """

    batching: ClassVar[Literal["none"]] = "none"
    counts: Tensor

    def __init__(self, interactions: csr_array, features: Mapping[str, Tensor]) -> None:
        super().__init__()
        counts = np.asarray(interactions.sum(axis=0), dtype=np.float32).ravel()
        self.register_buffer("counts", torch.from_numpy(counts), persistent=False)

    def score(self, users: Tensor) -> Tensor:
        """Return the same counts for every user, [len(users), n_items]."""
        return self.counts.repeat(len(users), 1)
