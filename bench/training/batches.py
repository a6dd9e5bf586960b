"""Training batches, made whole on the training device: no loader, no Python loop over samples.

An epoch of pairs is one pass over all training interactions in a fresh order, each with one negative drawn anew,
uniformly from all items the user has no training interaction with. An epoch of users is one pass over all users that
have at least one training interaction.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from bench.errors import TrainingError
from bench.training.protocol import Batching, PairBatch, UserBatch


class Batches(Protocol):
    """An endless source of epochs."""

    def epoch(self) -> Iterator[PairBatch | UserBatch]:
        """Yield the batches of the next epoch."""
        ...

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        ...


class PairBatches:
    """(user, positive, negative) triples.

    Args:
        interactions: training matrix [n_users, n_items].
        batch_size: triples a batch; the last batch of an epoch may be shorter.
        shuffle: generator of the epoch's order.
        negatives: generator of the negatives.
    """

    def __init__(
        self,
        interactions: csr_array,
        batch_size: int,
        shuffle: torch.Generator,
        negatives: torch.Generator,
    ) -> None:
        device = shuffle.device
        n_users, self.n_items = interactions.shape
        per_user = np.diff(interactions.indptr)
        full = int((per_user >= self.n_items).sum())
        if full:
            raise TrainingError(
                f"{full} users have interacted with all {self.n_items} items in train, so no negative item exists "
                "for them. Raise the item count of the dataset or use a model that needs no negatives."
            )
        users = np.repeat(np.arange(n_users, dtype=np.int64), per_user)
        items = interactions.indices.astype(np.int64)
        self.users = torch.from_numpy(users).to(device)
        self.items = torch.from_numpy(items).to(device)
        self.keys = (self.users * self.n_items + self.items).sort().values
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.negatives = negatives

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.users) // self.batch_size)

    def epoch(self) -> Iterator[PairBatch]:
        """Yield the batches of the next epoch, in a fresh order with fresh negatives."""
        device = self.users.device
        order = torch.randperm(len(self.users), generator=self.shuffle, device=device)
        users, positives = self.users[order], self.items[order]
        negatives = self.draw_negatives(users)
        for start in range(0, len(users), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield PairBatch(users[part], positives[part], negatives[part])

    def draw_negatives(self, users: Tensor) -> Tensor:
        """Draw one item a row that its user has no training interaction with, int64 [len(users)].

        Candidates are uniform over all items; those that hit a training pair (found by a search in the sorted pair
        keys) are drawn again until none is left.
        """
        drawn = self._uniform(len(users))
        open_rows = self._is_positive(users, drawn).nonzero().squeeze(1)
        while len(open_rows):
            redrawn = self._uniform(len(open_rows))
            drawn[open_rows] = redrawn
            open_rows = open_rows[self._is_positive(users[open_rows], redrawn)]
        return drawn

    def _uniform(self, n: int) -> Tensor:
        return torch.randint(self.n_items, (n,), generator=self.negatives, device=self.users.device)

    def _is_positive(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self.n_items + items
        position = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        found: Tensor = self.keys[position] == keys
        return found


class UserBatches:
    """Whole users, those without a training interaction left out."""

    def __init__(self, interactions: csr_array, batch_size: int, shuffle: torch.Generator) -> None:
        active = np.flatnonzero(np.diff(interactions.indptr))
        self.users = torch.from_numpy(active.astype(np.int64)).to(shuffle.device)
        self.batch_size = batch_size
        self.shuffle = shuffle

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.users) // self.batch_size)

    def epoch(self) -> Iterator[UserBatch]:
        """Yield the batches of the next epoch, in a fresh order."""
        order = torch.randperm(len(self.users), generator=self.shuffle, device=self.users.device)
        for users in torch.split(self.users[order], self.batch_size):
            yield UserBatch(users)


def make_batches(
    batching: Batching,
    interactions: csr_array,
    batch_size: int,
    shuffle: torch.Generator,
    negatives: torch.Generator,
) -> Batches:
    """Return the batches a model asks for by its `batching`."""
    if batching == "pairs":
        return PairBatches(interactions, batch_size, shuffle, negatives)
    return UserBatches(interactions, batch_size, shuffle)
