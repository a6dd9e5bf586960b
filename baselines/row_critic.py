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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import leaky_relu

from baselines.dropout import drop
from baselines.seen_items import Seen

# What is left of a squared length after subtraction, relative to it, below which it is taken for rounding error.
ROUNDING = 1e-6
# Shares of the two hidden layers dropped, as in the authors' code.
DROPOUTS = (0.31, 0.5)
OUTPUT_SCALE = 100.0
# Weight of the model's own scores in the rows that count as real.
REAL_SCORES = 100.0


class Predicted(NamedTuple):
    """N, the rows of (P Y^T) * (1 - R) divided by their length, for M kinds of embeddings.

    Attributes:
        users: P, [B, M, D].
        items: Y, [I, M, D].
        seen: R of these users.
        at_seen: P Y^T where R is one, [n, M].
        inverse: one over the length of each row, 0 for a row without length, [B, M].
    """

    users: Tensor
    items: Tensor
    seen: Seen
    at_seen: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, users: Tensor, items: Tensor, seen: Seen) -> "Predicted":
        """Return the rows of these users, [B, M, D], and items, [I, M, D]."""
        at_seen = seen.scores(users, items)
        by_kind = items.transpose(0, 1)
        all_squares = torch.einsum("bmd,mde,bme->bm", users, by_kind.mT @ by_kind, users)
        squares = all_squares - seen.totals(at_seen.square())
        something = squares > ROUNDING * all_squares
        return cls(users, items, seen, at_seen, torch.where(something, squares, 1.0).rsqrt() * something)

    def beside(self, own: "Predicted") -> "Predicted":
        """Return these kinds and then those of `own`, for the same users, as constants."""
        users, items, at_seen, inverse = (
            torch.cat((getattr(self, name).detach(), getattr(own, name).detach()), dim=1)
            for name in ("users", "items", "at_seen", "inverse")
        )
        return Predicted(users, items, self.seen, at_seen, inverse)

    def totals(self) -> Tensor:
        """Return N 1, [B, M]."""
        everywhere = torch.einsum("bmd,md->bm", self.users, self.items.sum(dim=0))
        return (everywhere - self.seen.totals(self.at_seen)) * self.inverse

    def through(self, weight: Tensor) -> Tensor:
        """Return N W for a constant W, [I, H]: [B, M, H]."""
        return self.join(*_Constant.apply(self.items, self.at_seen, weight, self.seen))  # type: ignore[no-untyped-call]

    def join(self, products: Tensor, sums: Tensor) -> Tensor:
        """Return N W, [B, M, H].

        Args:
            products: Y^T W, [M, D, H].
            sums: rows of W at each user's items summed with the weights `at_seen`, [B, M, H].
        """
        return (torch.einsum("bmd,mdh->bmh", self.users, products) - sums) * self.inverse[:, :, None]


class Learned(NamedTuple):
    """What a trained W contributes to rows and to lengths of gradients.

    Attributes:
        products: Y^T W, [M, D, H].
        sums: as in `Predicted.join`, [B, M, H].
        own: rows of W summed over each user's items, [B, H].
        total: sum of all rows of W, [H].
        squares: W^T W, [H, H].
    """

    products: Tensor
    sums: Tensor
    own: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, weight: Tensor, rows: Predicted) -> "Learned":
        """Return the contributions of W, [I, H], whose gradient reaches W alone."""
        weights = torch.cat((rows.at_seen, torch.ones_like(rows.at_seen[:, :1])), dim=1)
        products, sums, total, squares = _Trained.apply(  # type: ignore[no-untyped-call]
            weight, rows.items, weights, rows.seen
        )
        return cls(products, sums[:, :-1], sums[:, -1], total, squares)


class _Trained(torch.autograd.Function):
    """Y^T W, the sums of W at the users' items, 1^T W and W^T W; all their gradients for W add up in one table."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, items: Tensor, weights: Tensor, seen: Seen) -> tuple[Tensor, ...]:
        ctx.seen = seen
        ctx.save_for_backward(weight, items, weights)
        products = (items.flatten(1).T @ weight).view(*items.shape[1:], -1)
        return products, seen.sums_of_rows(weight.detach(), weights), weight.sum(dim=0), weight.T @ weight

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, products: Tensor, sums: Tensor, total: Tensor, squares: Tensor
    ) -> tuple[Tensor, None, None, None]:
        weight, items, weights = ctx.saved_tensors
        gradient = items.flatten(1) @ products.flatten(0, 1)
        gradient.addmm_(weight, squares + squares.T).add_(total)
        return gradient.add_(ctx.seen.gradient_of_table(sums, weights)), None, None, None


class _Constant(torch.autograd.Function):
    """Y^T W and the sums of W at the users' items, with gradients for Y and the scores there."""

    @staticmethod
    def forward(ctx: Any, items: Tensor, at_seen: Tensor, weight: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        ctx.seen, ctx.shape = seen, items.shape
        ctx.save_for_backward(weight)
        products = (items.flatten(1).T @ weight).view(*items.shape[1:], -1)
        return products, seen.sums_of_rows(weight, at_seen.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, products: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        of_items = (weight @ products.flatten(0, 1).T).view(ctx.shape)
        return of_items, ctx.seen.gradient_of_weights(sums, weight), None, None


def observed_rows(rows: Tensor, totals: Tensor, scale: float, counts: Tensor, learned: Learned, n_items: int) -> Tensor:
    """Return r W for r, the rows of softmax(R) + scale N divided by their length, [B, H].

    Args:
        rows: N W, [B, H].
        totals: N 1, [B].
        scale: weight of the predicted scores.
        counts: items of each user, [B].
        learned: what W contributes.
        n_items: I.
    """
    denominator = n_items + (math.e - 1.0) * counts
    constant = (learned.total + (math.e - 1.0) * learned.own) / denominator[:, None]
    own = (n_items - counts + math.e**2 * counts) / denominator.square()
    # N is zero where R is one, so that it meets the softmax in its constant part alone.
    squares = own + 2.0 * scale * totals / denominator + scale**2 * (totals != 0)
    return (constant + scale * rows) * squares.clamp_min(1e-12).rsqrt()[:, None]


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
        second = self.hidden(drop(first, DROPOUTS[0], self.training))
        second = self.norms[1](leaky_relu(second, self.slope))
        logits: Tensor = self.output(drop(second, DROPOUTS[1], self.training))
        return OUTPUT_SCALE * logits.sigmoid().squeeze(1)

    def judge(self, features: Predicted) -> Tensor:
        """Return mean D of the predicted rows, a scalar whose gradient reaches the embeddings alone.

        Args:
            features: rows of the features.
        """
        # What is recorded while the weights are frozen leaves them out of the backward pass.
        self.requires_grad_(False)
        judged: Tensor = self(features.through(self.weight).flatten(0, 1)).mean()
        self.requires_grad_(True)
        return judged

    def loss(self, own: Predicted, features: Predicted, penalty_weight: float) -> Tensor:
        """Return loss_D of the rows of a batch's users, a scalar whose gradient reaches the critic alone.

        Args:
            own: rows of the final embeddings, M = 1.
            features: rows of the features of the same users.
            penalty_weight: weight of the gradient penalty.
        """
        predicted = features.beside(own)
        learned = Learned.of(self.weight, predicted)
        rows, totals = predicted.join(learned.products, learned.sums), predicted.totals()[:, -1]
        counts = predicted.seen.counts()
        real = observed_rows(rows[:, -1], totals, REAL_SCORES, counts, learned, len(self.weight))
        fake = rows[:, :-1]
        real = real.repeat_interleave(fake.shape[1], dim=0)
        return self.compare(real, fake.flatten(0, 1), learned.squares, penalty_weight)

    def compare(self, real: Tensor, fake: Tensor, squares: Tensor, penalty_weight: float) -> Tensor:
        """Return mean D(fake) - mean D(real) + penalty_weight mean (|grad of D at a mixture| - 1)^2, a scalar.

        Args:
            real: real rows through the first layer's weights, [n, H].
            fake: predicted rows likewise, [n, H]; row r is mixed with real row r.
            squares: W^T W, [H, H].
            penalty_weight: weight of the gradient penalty.
        """
        share = torch.rand(len(real), 1, device=real.device)
        mixed = share * real + (1.0 - share) * fake
        (gradient,) = torch.autograd.grad(self(mixed).sum(), mixed, create_graph=True)
        lengths = ((gradient @ squares) * gradient).sum(dim=1).clamp_min(1e-12).sqrt()
        penalty = (lengths - 1.0).square().mean()
        loss: Tensor = self(fake).mean() - self(real).mean() + penalty_weight * penalty
        return loss
