"""Sums and inner products over the items of a batch's users, forwards and backwards without gathered rows.

A table's rows summed over each user's items are what `embedding_bag` gives. Its own gradient for the table copies a
row for every entry; here it is another such sum, over each item's users. Inner products of an entry's user with its
item are what the weights of such a sum get as their gradient, for which PyTorch has a kernel that copies nothing.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from ld4mrec.rows import UserRows


class Seen(NamedTuple):
    """The items of some users, and the same entries in the order of the items.

    Attributes:
        rows: place of the user of each entry, int64 [n].
        items: item of each entry, int64 [n].
        starts: first entry of each user, int64 [B].
        by_item: the entries by rising item, int64 [n].
        item_starts: first of them of each item, int64 [I].
    """

    rows: Tensor
    items: Tensor
    starts: Tensor
    by_item: Tensor
    item_starts: Tensor

    @classmethod
    def of(cls, interactions: UserRows, users: Tensor) -> "Seen":
        """Return the items of these users, int64 [B]."""
        rows, items = interactions.coordinates(users)
        counts = interactions.starts[users + 1] - interactions.starts[users]
        of_items = torch.bincount(items, minlength=interactions.n_items)
        by_item = items.argsort(stable=True)
        return cls(rows, items, counts.cumsum(0) - counts, by_item, of_items.cumsum(0) - of_items)

    def counts(self) -> Tensor:
        """Return the number of entries of each user, int64 [B]."""
        return torch.bincount(self.rows, minlength=len(self.starts))

    def totals(self, values: Tensor) -> Tensor:
        """Return the sums of the values of each user's entries, [B, M].

        Args:
            values: M for each entry, [n, M].
        """
        return values.new_zeros(len(self.starts), values.shape[1]).index_add(0, self.rows, values)

    def sums_of_rows(self, table: Tensor, weights: Tensor) -> Tensor:
        """Return M weighted sums of the table's rows over each user's items, [B, M, H], not for autograd.

        Args:
            table: [I, H].
            weights: M for each entry, [n, M].
        """
        return _bags(self.items[:, None].expand_as(weights), self.starts, table, weights).transpose(0, 1)

    def gradient_of_table(self, gradient: Tensor, weights: Tensor) -> Tensor:
        """Return the gradient of `sums_of_rows` for its table, [I, H].

        Args:
            gradient: of the sums, [B, M, H].
            weights: as in the sums.
        """
        # The M sums of one item are one bag.
        places = _places(self.rows[self.by_item], weights.shape[1]).flatten()[:, None]
        entries = weights[self.by_item].flatten()[:, None]
        return _bags(places, weights.shape[1] * self.item_starts, gradient.reshape(-1, gradient.shape[2]), entries)[0]

    def gradient_of_weights(self, gradient: Tensor, table: Tensor) -> Tensor:
        """Return the gradient of `sums_of_rows` for its weights, [n, M].

        Args:
            gradient: of the sums, [B, M, H].
            table: as in the sums.
        """
        places = self.items[:, None].expand(-1, gradient.shape[1])
        return _dots(places, self.starts, table, gradient.transpose(0, 1).contiguous())

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the inner products of each entry's user and item, [n, M].

        Args:
            users: [B, M, D].
            items: [I, M, D].
        """
        products: Tensor = _Scores.apply(users, items, self)  # type: ignore[no-untyped-call]
        return products


def _bags(places: Tensor, starts: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """Return M weighted sums of a table's rows for each bag, [M, bags, H].

    Args:
        places: row of the table for each of M sums of each entry, int64 [n, M].
        starts: first entry of each bag, int64.
        table: [rows, H].
        weights: [n, M].
    """
    n_entries, n_sums = weights.shape
    shifts = n_entries * torch.arange(n_sums, device=starts.device)[:, None]
    places, offsets, weights = places.T.flatten(), (starts + shifts).flatten(), weights.T.flatten()
    return embedding_bag(places, table, offsets, mode="sum", per_sample_weights=weights).view(n_sums, len(starts), -1)


def _dots(places: Tensor, starts: Tensor, table: Tensor, others: Tensor) -> Tensor:
    """Return the inner products of each entry's row of a table with the row of its bag, [n, M].

    Args:
        places: as for `_bags`.
        starts: likewise.
        table: [rows, H].
        others: row of each bag, [M, bags, H].
    """
    with torch.enable_grad():
        weights = torch.zeros(places.shape, dtype=table.dtype, device=table.device, requires_grad=True)
        sums = _bags(places, starts, table, weights)
    return torch.autograd.grad(sums, weights, others)[0]


def _places(rows: Tensor, n_kinds: int) -> Tensor:
    """Return the rows of [N, M, D] in its view as [N M, D], int64 [n, M]."""
    return n_kinds * rows[:, None] + torch.arange(n_kinds, device=rows.device)


class _Scores(torch.autograd.Function):
    """Inner products of each entry's user and item, one for each of M kinds of embeddings."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, seen: Seen) -> Tensor:
        ctx.seen = seen
        ctx.save_for_backward(users, items)
        places = _places(seen.items, items.shape[1])
        return _dots(places, seen.starts, items.detach().flatten(0, 1), users.detach().transpose(0, 1).contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (users, items), seen = ctx.saved_tensors, ctx.seen
        n_kinds = items.shape[1]
        of_users = _bags(_places(seen.items, n_kinds), seen.starts, items.flatten(0, 1), gradient)
        places = _places(seen.rows[seen.by_item], n_kinds)
        of_items = _bags(places, seen.item_starts, users.flatten(0, 1), gradient[seen.by_item])
        return of_users.transpose(0, 1), of_items.transpose(0, 1), None
