"""A critic that tells rows of real interactions from rows of predicted ones, without ever holding such a row.

The rows are as wide as the catalog, but they are all built of few numbers: scores P Y^T with a user's own items set to
zero, and constants at those items and elsewhere. A critic starts with a linear layer W, [I, H], and that layer can
take them in parts. With S = (P Y^T) * (1 - R):

    S W    = P (Y^T W) - sum over i in R_u of s_ui W_i
    |S_u|^2 = P_u^T (Y^T Y) P_u - sum over i in R_u of s_ui^2
    |grad of D at a row|^2 = v^T (W^T W) v               v: gradient of D behind the first layer

so that a step costs as much as D + H dense columns of the catalog instead of one dense row per user.

Reference: Wei, Huang, Xia, Zhang, "Multi-Modal Self-Supervised Learning for Recommendation", WWW 2023, for rows and
critic; Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved Training of Wasserstein GANs", NeurIPS 2017, for its
loss. The rearrangement is this project's own.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding_bag, leaky_relu

from ld4mrec.rows import UserRows

# What is left of a squared length after subtraction, relative to it, below which it is taken for rounding error.
ROUNDING = 1e-6
# Shares of the two hidden layers dropped, as in the authors' code.
DROPOUTS = (0.31, 0.5)
OUTPUT_SCALE = 100.0
# Weight of the model's own scores in the rows that count as real.
REAL_SCORES = 100.0

# Embeddings of a batch's users, [B, ...], and of all items, [I, ...].
Embeddings = tuple[Tensor, Tensor]


class Seen(NamedTuple):
    """The items of some users.

    Attributes:
        rows: place of the user of each entry, int64 [n].
        items: item of each entry, int64 [n].
        starts: first entry of each user, int64 [B].
    """

    rows: Tensor
    items: Tensor
    starts: Tensor

    @classmethod
    def of(cls, interactions: UserRows, users: Tensor) -> "Seen":
        """Return the items of these users, int64 [B]."""
        rows, items = interactions.coordinates(users)
        counts = interactions.starts[users + 1] - interactions.starts[users]
        return cls(rows, items, counts.cumsum(0) - counts)

    def totals(self, values: Tensor) -> Tensor:
        """Return the sums of the values of each user's entries, [B, M].

        Args:
            values: M for each entry, [n, M].
        """
        return torch.zeros(len(self.starts), values.shape[1], device=values.device).index_add(0, self.rows, values)

    def sum_rows(self, table: Tensor, weights: Tensor) -> Tensor:
        """Return M weighted sums of the table's rows over each user's items, [B, M, H].

        Args:
            table: [I, H].
            weights: M for each entry, [n, M].
        """
        n_entries, n_sums = weights.shape
        shifts = n_entries * torch.arange(n_sums, device=weights.device)[:, None]
        sums = embedding_bag(
            self.items.repeat(n_sums),
            table,
            (self.starts + shifts).flatten(),
            mode="sum",
            per_sample_weights=weights.T.flatten(),
        )
        return sums.view(n_sums, len(self.starts), -1).transpose(0, 1)


def predicted_rows(users: Tensor, items: Tensor, seen: Seen, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return N W and N 1 for N, the rows of (P Y^T) * (1 - R) divided by their length, [B, M, H] and [B, M].

    Args:
        users: P for each of M kinds of embeddings, [B, M, D].
        items: Y likewise, [I, M, D].
        seen: R of these users.
        weight: W, [I, H].
    """
    n_items, n_kinds, width = items.shape
    at_seen = (users.index_select(0, seen.rows) * items.index_select(0, seen.items)).sum(dim=2)
    by_kind = items.transpose(0, 1)
    all_squares = torch.einsum("bmd,mde,bme->bm", users, by_kind.mT @ by_kind, users)
    squares = all_squares - seen.totals(at_seen.square())
    something = squares > ROUNDING * all_squares
    inverse = torch.where(something, squares, 1.0).rsqrt() * something
    # One product with W for all kinds: each product's gradient is a table of its own.
    products = (items.reshape(n_items, n_kinds * width).T @ weight).view(n_kinds, width, -1)
    rows = torch.einsum("bmd,mdh->bmh", users, products) - seen.sum_rows(weight, at_seen)
    totals = torch.einsum("bmd,md->bm", users, items.sum(dim=0)) - seen.totals(at_seen)
    return rows * inverse[:, :, None], totals * inverse


def observed_rows(predicted: Tensor, totals: Tensor, scale: float, seen: Seen, weight: Tensor) -> Tensor:
    """Return r W for r, the rows of softmax(R) + scale N divided by their length, [B, H].

    Args:
        predicted: N W, [B, H], and
        totals: N 1, [B], as `predicted_rows` gives them.
        scale: weight of the predicted scores.
        seen: R of these users.
        weight: W, [I, H].
    """
    ones = torch.ones(len(seen.rows), 1, device=weight.device)
    counts, sums = seen.totals(ones).squeeze(1), seen.sum_rows(weight, ones).squeeze(1)
    n_items = len(weight)
    denominator = n_items + (math.e - 1.0) * counts
    rows = (weight.sum(dim=0) + (math.e - 1.0) * sums) / denominator[:, None] + scale * predicted
    own = (n_items - counts + math.e**2 * counts) / denominator.square()
    # N is zero where R is one, so that it meets the softmax in its constant part alone.
    squares = own + 2.0 * scale * totals / denominator + scale**2 * (totals != 0)
    return rows * squares.clamp_min(1e-12).rsqrt()[:, None]


class RowCritic(nn.Module):
    """D: two hidden layers with batch normalization over rows as wide as the catalog, output in (0, 100).

    Args:
        n_items: I.
        widths: H, the width of the first hidden layer, and that of the second.
        slope: of the activation for negative values; 1 makes it the identity.
    """

    def __init__(self, n_items: int, widths: tuple[int, int], slope: float) -> None:
        super().__init__()
        self.slope = slope
        # Stored as a table of items, as embeddings are, so that rows of it can be summed.
        self.weight = nn.Parameter(torch.empty(n_items, widths[0]).normal_(std=math.sqrt(2.0 / n_items)))
        self.bias = nn.Parameter(torch.zeros(widths[0]))
        self.hidden, self.output = nn.Linear(widths[0], widths[1]), nn.Linear(widths[1], 1)
        for layer in (self.hidden, self.output):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        # Statistics of the batch at hand always: the critic judges in training only.
        self.norms = nn.ModuleList(nn.BatchNorm1d(width, track_running_stats=False) for width in widths)

    def forward(self, rows: Tensor) -> Tensor:
        """Return D of rows that went through the first layer's weights, [n].

        Args:
            rows: x W without bias, [n, H], at least two of them for the batch normalization.
        """
        first = self.norms[0](leaky_relu(rows + self.bias, self.slope))
        second = self.hidden(dropout(first, DROPOUTS[0], self.training))
        second = self.norms[1](leaky_relu(second, self.slope))
        logits: Tensor = self.output(dropout(second, DROPOUTS[1], self.training))
        return OUTPUT_SCALE * logits.sigmoid().squeeze(1)

    def judge(self, users: Tensor, items: Tensor, seen: Seen) -> Tensor:
        """Return mean D of the predicted rows, a scalar whose gradient reaches the embeddings alone.

        Args:
            users: fu of the batch's users, [B, M, D].
            items: fi, [I, M, D].
            seen: R of these users.
        """
        # What is recorded while the weights are frozen leaves them out of the backward pass.
        self.requires_grad_(False)
        rows, _ = predicted_rows(users, items, seen, self.weight)
        judged: Tensor = self(rows.flatten(0, 1)).mean()
        self.requires_grad_(True)
        return judged

    def loss(self, own: Embeddings, features: Embeddings, seen: Seen, penalty_weight: float) -> Tensor:
        """Return loss_D of the rows of a batch's users, a scalar whose gradient reaches the critic alone.

        Args:
            own: final embeddings, [B, D] and [I, D].
            features: fu and fi, [B, M, D] and [I, M, D].
            seen: R of these users.
            penalty_weight: weight of the gradient penalty.
        """
        # The model's own embeddings are one more kind beside those of the modalities.
        users, items = (torch.cat((f, e[:, None]), dim=1).detach() for f, e in zip(features, own, strict=True))
        rows, totals = predicted_rows(users, items, seen, self.weight)
        real = observed_rows(rows[:, -1], totals[:, -1], REAL_SCORES, seen, self.weight)
        fake = rows[:, :-1]
        return self.compare(real.repeat_interleave(fake.shape[1], dim=0), fake.flatten(0, 1), penalty_weight)

    def compare(self, real: Tensor, fake: Tensor, penalty_weight: float) -> Tensor:
        """Return mean D(fake) - mean D(real) + penalty_weight mean (|grad of D at a mixture| - 1)^2, a scalar.

        Args:
            real: real rows through the first layer's weights, [n, H].
            fake: predicted rows likewise, [n, H]; row r is mixed with real row r.
            penalty_weight: weight of the gradient penalty.
        """
        share = torch.rand(len(real), 1, device=real.device)
        mixed = share * real + (1.0 - share) * fake
        (gradient,) = torch.autograd.grad(self(mixed).sum(), mixed, create_graph=True)
        lengths = ((gradient @ self._products()) * gradient).sum(dim=1).clamp_min(1e-12).sqrt()
        penalty = (lengths - 1.0).square().mean()
        loss: Tensor = self(fake).mean() - self(real).mean() + penalty_weight * penalty
        return loss

    def _products(self) -> Tensor:
        """Return W^T W, [H, H], for use in a quadratic form.

        Its gradient there is symmetric, so that both factors contribute the same: one of them is taken for a constant
        and counted twice, which saves a product as large as this one.
        """
        products = self.weight.detach().T @ self.weight
        return 2.0 * products - products.detach()
