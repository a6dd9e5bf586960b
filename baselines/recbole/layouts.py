"""Lay batches out as RecBole's loaders do: users and items counted from 1, negatives behind the positives.

With k negatives an interaction, RecBole repeats the whole batch k times, one negative of each in every repetition;
single points are the positives with label 1, then all negatives with label 0.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

USER, ITEM, NEGATIVE, LABEL = "user_id", "item_id", "neg_item_id", "label"


class Pairs(Protocol):
    """Training triples: users with one item of theirs and one drawn from the rest, int64 [B] each."""

    @property
    def users(self) -> Tensor:
        """User indices."""
        ...

    @property
    def positives(self) -> Tensor:
        """Items the users interacted with."""
        ...

    @property
    def negatives(self) -> Tensor:
        """Items they did not."""
        ...


class Negatives(nn.Module):
    """Items a user has no training interaction with, drawn uniformly from torch's global generator.

    Args:
        interactions: training matrix, [n_users, n_items].
    """

    keys: Tensor

    def __init__(self, interactions: csr_array) -> None:
        super().__init__()
        self.n_items = interactions.shape[1]
        users, items = interactions.tocoo().coords
        keys = torch.from_numpy(np.sort(users.astype(np.int64) * self.n_items + items))
        self.register_buffer("keys", keys, persistent=False)

    def draw(self, users: Tensor) -> Tensor:
        """Return one such item for each user, int64 [len(users)]; a user of all items has none and never ends."""
        drawn = torch.randint(self.n_items, users.shape, device=users.device)
        taken = self._taken(users, drawn).nonzero().squeeze(1)
        while len(taken):
            drawn[taken] = torch.randint(self.n_items, taken.shape, device=users.device)
            taken = taken[self._taken(users[taken], drawn[taken])]
        return drawn

    def _taken(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self.n_items + items
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        taken: Tensor = self.keys[place] == keys
        return taken


def triples(batch: Pairs, sample_num: int, more: Negatives) -> Mapping[str, Tensor]:
    """Return users, items and negatives, [sample_num B] each.

    Args:
        batch: B triples.
        sample_num: negatives an interaction; the batch brings the first.
        more: where the others come from.
    """
    users, items = batch.users.repeat(sample_num), batch.positives.repeat(sample_num)
    return {USER: users + 1, ITEM: items + 1, NEGATIVE: _negatives(batch, sample_num, more) + 1}


def points(batch: Pairs, sample_num: int, more: Negatives) -> Mapping[str, Tensor]:
    """Return users, items and labels, [(1 + sample_num) B] each.

    Args:
        batch: B triples.
        sample_num: negatives an interaction; the batch brings the first.
        more: where the others come from.
    """
    items = torch.cat((batch.positives, _negatives(batch, sample_num, more)))
    labels = torch.zeros(len(items), device=items.device)
    labels[: len(batch.positives)] = 1.0
    return {USER: batch.users.repeat(1 + sample_num) + 1, ITEM: items + 1, LABEL: labels}


def users_only(users: Tensor) -> Mapping[str, Tensor]:
    """Return whole users, [B]."""
    return {USER: users + 1}


def user_item_pairs(users: Tensor, items: Tensor) -> Mapping[str, Tensor]:
    """Return every user with every item, user by user, [len(users) len(items)] each."""
    return {USER: users.repeat_interleave(len(items)) + 1, ITEM: items.repeat(len(users)) + 1}


def _negatives(batch: Pairs, sample_num: int, more: Negatives) -> Tensor:
    if sample_num == 1:
        return batch.negatives
    return torch.cat((batch.negatives, more.draw(batch.users.repeat(sample_num - 1))))
