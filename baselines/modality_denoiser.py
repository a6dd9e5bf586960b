"""The denoisers of DiffMM: one autoencoder per modality that generates interactions the modality's features agree with.

Reference: Jiang et al., "DiffMM: Multi-Modal Diffusion Model for Recommendation", ACM MM 2024, arXiv 2406.11781. The
network and the schedule are DiffRec's (see diffrec.py) but for beta_1, which becomes 1e-4.

    loss       w_t mean_i (x_0 - f(x_t, t))^2 + lambda_0 mean_d (f(x_t, t) G - x_0 E_I)^2,  t uniform
    reverse    x_{t-1} = c1_t f(x_t, t) + c2_t x_t,  t = T..1
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from baselines.diffrec import STEP_DIM, diffrec_variances, snr_weights
from baselines.graph import sum_over_items
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

    def denoise(self, x_t: Tensor, steps: Tensor) -> Tensor:
        """Return f_m(x_t, t), [B, n_items].

        Args:
            x_t: noisy rows, [B, n_items].
            steps: zero-based steps, int64 [B].
        """
        x_t = drop(x_t, self.dropout, self.training)
        hidden = torch.tanh(x_t @ self.item_weights + self.step_inputs().index_select(0, steps))
        prediction: Tensor = self.output(hidden)
        return prediction

    def loss(self, x_0: Tensor, modality: Tensor, preference: Tensor, msi_weight: float) -> Tensor:
        """Return the denoising loss plus the weighted loss of the users' modality preference, a scalar.

        Args:
            x_0: users' rows, [B, n_items].
            modality: G^m, [n_items, D], constant.
            preference: x_0 E_I, [B, D], constant.
            msi_weight: lambda_0.
        """
        steps = torch.randint(len(self.variances), (len(x_0),), device=x_0.device)
        prediction = self.denoise(corrupt(x_0, self.variances[steps]), steps)
        errors = self.step_weights[steps] * (prediction - x_0).square().mean(dim=1)
        return errors.mean() + msi_weight * (prediction @ modality - preference).square().mean()

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
