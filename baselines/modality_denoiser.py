"""The denoisers of DiffMM: one autoencoder per modality that generates interactions the modality's features agree with.

Reference: Jiang et al., "DiffMM: Multi-Modal Diffusion Model for Recommendation", ACM MM 2024, arXiv 2406.11781. The
network and the schedule are DiffRec's (see diffrec.py) but for beta_1, which becomes 1e-4.

    loss       w_t mean_i (x_0 - f(x_t, t))^2 + lambda_0 mean_d (f(x_t, t) G - x_0 E_I)^2,  t uniform
    reverse    x_{t-1} = c1_t f(x_t, t) + c2_t x_t,  t = T..1
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines.diffrec import STEP_DIM, diffrec_variances, snr_weights
from baselines.dropout import drop_in_place
from baselines.graph import sum_over_items
from baselines.seen_items import Seen
from ld4mrec.diffusion import corrupt, posterior_mean_weights, step_embedding
from ld4mrec.rows import UserRows

FIRST_BETA = 1e-4


def diffmm_variances(diffusion_steps: int, noise_scale: float, noise_min: float, noise_max: float) -> Tensor:
    """Return 1 - ab_t for t = 1..T, [T] float64: DiffRec's printed schedule with beta_1 replaced by 1e-4.

    Args:
        diffusion_steps: T.
        noise_scale: s.
        noise_min: a_min.
        noise_max: a_max.
    """
    kept = 1.0 - diffrec_variances(diffusion_steps, noise_scale, noise_min, noise_max, fix_first_beta=False)
    return 1.0 - kept * ((1.0 - FIRST_BETA) / kept[0])


class InnerProducts(NamedTuple):
    """All that the losses ask of the last layer, p = W h + c, so that no prediction p has to be made.

        |p - x|^2 = h (W^T W) h + 2 h . (W^T c) + c . c - 2 sum over x's items of (W_i . h + c_i) + |x|^2
        p G       = h (W^T G) + c G

    Attributes:
        squares: W^T W, [hidden_dim, hidden_dim].
        with_bias: W^T c, [hidden_dim].
        bias_squares: c . c, a scalar.
        with_modality: W^T G, [hidden_dim, D].
        bias_with_modality: c G, [D].
        at_seen: rows of W summed over each user's items, [B, hidden_dim].
        bias_at_seen: entries of c likewise, [B].
    """

    squares: Tensor
    with_bias: Tensor
    bias_squares: Tensor
    with_modality: Tensor
    bias_with_modality: Tensor
    at_seen: Tensor
    bias_at_seen: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, modality: Tensor, seen: Seen) -> "InnerProducts":
        """Return the products of W, [n_items, hidden_dim], and c, [n_items], with gradients for both.

        Args:
            weight: W.
            bias: c.
            modality: G, [n_items, D], constant.
            seen: the users' items.
        """
        of_weight = _OfWeight.apply(weight, bias, modality, seen)  # type: ignore[no-untyped-call]
        squares, with_bias, with_modality, at_seen = of_weight
        bias_at_seen = seen.totals(bias.index_select(0, seen.items)[:, None]).squeeze(1)
        return cls(squares, with_bias, bias.dot(bias), with_modality, bias @ modality, at_seen, bias_at_seen)

    def squared_errors(self, hidden: Tensor, counts: Tensor) -> Tensor:
        """Return |p - x|^2 of each user, [B].

        Args:
            hidden: h, [B, hidden_dim].
            counts: |x|^2, the number of each user's items, [B].
        """
        quadratic = ((hidden @ self.squares + 2.0 * (self.with_bias - self.at_seen)) * hidden).sum(dim=1)
        return quadratic + self.bias_squares - 2.0 * self.bias_at_seen + counts


class _OfWeight(torch.autograd.Function):
    """W^T W, W^T c, W^T G and the sums of W's rows at users' items; their gradients for W add up in one table."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, modality: Tensor, seen: Seen) -> tuple[Tensor, ...]:
        ctx.seen = seen
        ctx.save_for_backward(weight, bias, modality)
        ones = torch.ones(len(seen.items), 1, device=weight.device)
        at_seen = seen.sums_of_rows(weight.detach(), ones).squeeze(1)
        return weight.T @ weight, weight.T @ bias, weight.T @ modality, at_seen

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, squares: Tensor, with_bias: Tensor, with_modality: Tensor, at_seen: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        weight, bias, modality = ctx.saved_tensors
        gradient = (weight @ (squares + squares.T)).addmm_(modality, with_modality.T).addr_(bias, with_bias)
        ones = torch.ones(len(ctx.seen.items), 1, device=weight.device)
        return gradient.add_(ctx.seen.gradient_of_table(at_seen[:, None], ones)), weight @ with_bias, None, None


class ModalityDenoiser(nn.Module):
    """f_m, an autoencoder items-hidden-items that is told the step, and its reverse process.

    Args:
        n_items: width of a user's row.
        hidden_dim: width of the one hidden layer.
        variances: 1 - ab_t, [T] float64.
        dropout: share of the noisy row's entries dropped in training.
        reweight: "snr" weighs step t by SNR(t-1) - SNR(t); "none" weighs all steps alike.
    """

    variances: Tensor
    step_weights: Tensor
    sinusoids: Tensor

    def __init__(
        self, n_items: int, hidden_dim: int, variances: Tensor, dropout: float, reweight: Literal["snr", "none"]
    ) -> None:
        super().__init__()
        self.dropout = dropout
        weights = snr_weights(variances) if reweight == "snr" else torch.ones_like(variances)
        of_x_0, of_x_t = posterior_mean_weights(variances)
        self.posterior = list(zip(of_x_0.tolist(), of_x_t.tolist(), strict=True))
        self.register_buffer("variances", variances.float(), persistent=False)
        self.register_buffer("step_weights", weights.float(), persistent=False)
        self.register_buffer("sinusoids", step_embedding(len(variances), STEP_DIM), persistent=False)
        self.step_layer, self.output = nn.Linear(STEP_DIM, STEP_DIM), nn.Linear(hidden_dim, n_items)
        first = nn.Linear(n_items + STEP_DIM, hidden_dim)
        for layer in (self.step_layer, first, self.output):
            nn.init.xavier_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.001)
        # The first layer is a table of items and one of steps, so that sparse rows can be summed from it.
        self.item_weights = nn.Parameter(first.weight.data.T[:n_items].contiguous())
        self.step_input = nn.Parameter(first.weight.data.T[n_items:].contiguous())
        self.input_bias = nn.Parameter(first.bias.data)

    def step_inputs(self) -> Tensor:
        """Return what each step adds to the hidden layer, bias included, [T, hidden_dim]."""
        steps: Tensor = self.step_layer(self.sinusoids)
        return steps @ self.step_input + self.input_bias

    @torch.no_grad()
    def noisy_rows(self, seen: Seen, steps: Tensor) -> Tensor:
        """Return the users' rows x_t with a share of the entries dropped, [B, n_items].

        Args:
            seen: the users' items.
            steps: zero-based steps, int64 [B].
        """
        variances = self.variances[steps]
        # The one table as wide as the catalog: all that is done to it is done in place.
        x_t = torch.randn(len(steps), len(self.item_weights), device=steps.device).mul_(variances.sqrt()[:, None])
        x_t[seen.rows, seen.items] += (1.0 - variances).sqrt()[seen.rows]
        if self.training:
            drop_in_place(x_t, self.dropout)
        return x_t

    def loss(self, seen: Seen, modality: Tensor, preference: Tensor, msi_weight: float) -> Tensor:
        """Return the denoising loss plus the weighted loss of the users' modality preference, a scalar.

        Args:
            seen: items of some users, x_0.
            modality: G^m, [n_items, D], constant.
            preference: x_0 E_I, [B, D], constant.
            msi_weight: lambda_0.
        """
        steps = torch.randint(len(self.variances), (len(seen.starts),), device=seen.starts.device)
        told = self.step_inputs().index_select(0, steps)
        hidden = torch.tanh(torch.addmm(told, self.noisy_rows(seen, steps), self.item_weights))
        inner = InnerProducts.of(self.output.weight, self.output.bias, modality, seen)
        errors = self.step_weights[steps] * inner.squared_errors(hidden, seen.counts()) / len(modality)
        misfits = hidden @ inner.with_modality + inner.bias_with_modality - preference
        return errors.mean() + msi_weight * misfits.square().mean()

    @torch.no_grad()
    def folded_layers(self) -> Tensor:
        """Return the last layer times the first, its bias as the last row, [hidden_dim + 1, hidden_dim]."""
        return torch.cat((self.output.weight.T, self.output.bias[None])) @ self.item_weights

    @torch.no_grad()
    def generate(self, rows: UserRows, users: Tensor, forward_steps: int, fold: Tensor) -> Tensor:
        """Return the users' rows after T reverse steps, [B, n_items].

        Args:
            rows: the interaction matrix.
            users: int64 [B].
            forward_steps: T', after which the reverse steps start; 0 leaves the rows clean.
            fold: of `folded_layers`.
        """
        if forward_steps:
            noisy = corrupt(rows.dense(users), self.variances[forward_steps - 1])
            projected = noisy @ self.item_weights
        else:
            projected = sum_over_items(rows, users, self.item_weights)
        step_inputs = self.step_inputs()
        for step in range(len(self.posterior) - 1, 0, -1):
            of_x_0, of_x_t = self.posterior[step]
            hidden = torch.tanh(projected + step_inputs[step])
            projected = of_x_0 * torch.addmm(fold[-1], hidden, fold[:-1]) + of_x_t * projected
        estimate: Tensor = self.output(torch.tanh(projected + step_inputs[0]))
        return estimate
