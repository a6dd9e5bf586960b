"""A sparse user-item matrix on the training device, read by whole user rows.

Autoencoder-like models see a user as the row x_u of the interaction matrix. The matrix stays in CSR form; only the
rows of a batch are ever made dense, so memory grows with the interactions and not with |U| x |I|.
"""

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn


class UserRows(nn.Module):
    """Rows of a binary interaction matrix, [n_users, n_items], gathered by user on the module's device.

    The buffers follow the module to its device and stay out of its state dict: they are data, not parameters.
    """

    starts: Tensor
    items: Tensor

    def __init__(self, interactions: csr_array) -> None:
        super().__init__()
        self.n_users, self.n_items = interactions.shape
        starts = np.asarray(interactions.indptr, dtype=np.int64)
        items = np.asarray(interactions.indices, dtype=np.int64)
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)
        self.register_buffer("items", torch.from_numpy(items), persistent=False)

    def coordinates(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return (row, item), each [n]: row r of the batch is user users[r]."""
        starts = self.starts[users]
        counts = self.starts[users + 1] - starts
        rows = torch.repeat_interleave(torch.arange(len(users), device=users.device), counts)
        ends = counts.cumsum(0)
        position = torch.arange(len(rows), device=users.device) - (ends - counts)[rows]
        return rows, self.items[starts[rows] + position]

    def dense(self, users: Tensor) -> Tensor:
        """Return x_in of the users, [len(users), n_items], float32 in {0, 1}."""
        rows, items = self.coordinates(users)
        dense = torch.zeros(len(users), self.n_items, device=self.items.device)
        dense[rows, items] = 1.0
        return dense
