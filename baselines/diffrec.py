"""DiffRec: generate a user's interactions by denoising them step by step.

Reference: Wang, Xu, Feng, Lin, He, Chua, "Diffusion Recommender Model", SIGIR 2023, arXiv 2304.04971; where the
paper is silent, the authors' code. Steps count t = 1..T; tables hold step t at index t - 1.

    forward    q(x_t | x_0) = N(sqrt(ab_t) x_0, (1 - ab_t) Id)
    schedule   1 - ab_t = s [a_min + (t - 1) / (T - 1) (a_max - a_min)]
    reverse    x_{t-1} = c1_t f(x_t, t) + c2_t x_t, the mean of q(x_{t-1} | x_t, x_0) with f for x_0
               c1_t = beta_t sqrt(ab_{t-1}) / (1 - ab_t),  c2_t = (1 - ab_{t-1}) sqrt(1 - beta_t) / (1 - ab_t)
    loss       w_t / (T p_t) times the mean over items of (x_0 - f(x_t, t))^2
               w_t = SNR(t-1) - SNR(t),  w_1 = 1,  SNR(t) = ab_t / (1 - ab_t)

f is a tanh autoencoder that predicts x_0 from dropout(x_t) and a linear layer of the step's sinusoids. Steps are drawn
with probability p_t, which follows their last losses, taken after w_t and before the division.

Readings taken:

- The authors' code replaces beta_1 by 1e-5 and recomputes all ab_t, which the paper does not say. With the small s in
  use this shrinks the noise of all steps: on Amazon-book 1 - ab_t goes from 1.000e-5 to 1.045e-5.
  `fix_first_beta` keeps this; False gives the schedule as printed.
- The weights w_t then reach 1e3 to 1e5 for t >= 2 against 1 for t = 1, the step that gives the scores. Published all
  the same, so the default; `reweight="none"` (w_t = 1) trains all steps alike.
- The paper's factor 1/2 is left out, as in the code. The loss is a mean over items, so gradients get small on large
  catalogs, and eps of the optimizer is 1e-10 for that reason.
- The authors' code feeds t = 0..T-1 as [cos, sin] blocks, this one t = 1..T interleaved. The two differ by a
  permutation and a rotation of each pair, which the linear layer that follows absorbs; AdamW then takes another path,
  whose scores differ by less than those of two seeds.
- Every released setting starts inference from the clean row and walks all T reverse steps; so does this model.
  `reverse_steps` walks fewer: 1 is f(x_0, 1), the control that tells what the chain adds.
- Released settings are tuned per dataset (learning rate 1e-5 to 1e-3, s from 1e-4 to 0.5). The defaults here are the
  schedule released for Yelp, with what most settings share: T = 5, one hidden layer of 1000, dropout 0.5 and
  batches of 400.

Left out: predicting the noise instead of x_0, and the latent and temporal variants.

The reverse chain is exact but not walked in item space. With W the first layer's item part and h V + b the last
layer, both linear, x_{t-1} W = c1_t (h V W + b W) + c2_t x_t W. V W is one small matrix, so only the last step visits
all items, and x_0 W is a sum of rows of W. `fold_reverse_steps=False` walks the chain as published, at about T times
the cost: use it to compare running times with those of papers.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from annotated_types import Ge, Gt, Interval
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import dropout

from baselines.graph import sum_over_items
from ld4mrec.diffusion import StepSampler, corrupt, noise_variances, posterior_mean_weights, step_embedding
from ld4mrec.rows import UserRows

FIRST_BETA = 1e-5
LARGEST_BETA = 0.999
STEP_DIM = 10
ADAM_EPS = 1e-10


class Users(Protocol):
    """Whole users, int64 [B]."""

    @property
    def users(self) -> Tensor:
        """User indices."""
        ...


def diffrec_variances(
    diffusion_steps: int, noise_scale: float, noise_min: float, noise_max: float, fix_first_beta: bool
) -> Tensor:
    """Return 1 - ab_t for t = 1..T, [T] float64, by way of the betas as the authors' code does.

    beta_1 = v_1, beta_t = min(1 - ab_t / ab_{t-1}, 0.999), then beta_1 = 1e-5 if `fix_first_beta`.

    Args:
        diffusion_steps: T.
        noise_scale: s.
        noise_min: a_min.
        noise_max: a_max.
        fix_first_beta: whether beta_1 is replaced.
    """
    kept = 1.0 - noise_variances(diffusion_steps, noise_scale, noise_min, noise_max)
    betas = torch.cat((1.0 - kept[:1], 1.0 - kept[1:] / kept[:-1])).clamp_max(LARGEST_BETA)
    if fix_first_beta:
        betas[0] = FIRST_BETA
    return 1.0 - torch.cumprod(1.0 - betas, dim=0)


def snr_weights(variances: Tensor) -> Tensor:
    """Return the loss weights w_t for t = 1..T, [T] float64: SNR(t-1) - SNR(t), and 1 for t = 1.

    Args:
        variances: 1 - ab_t, [T].
    """
    snr = (1.0 - variances) / variances
    return torch.cat((torch.ones(1, dtype=snr.dtype), snr[:-1] - snr[1:]))


class DiffRec(nn.Module):
    """Denoise a user's interaction row with an autoencoder and rank by the result.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: ignored.
        hidden_dims: widths of the hidden layers from the middle outwards, mirrored in the encoder: (1000,) goes
            items-1000-items, (200, 600) goes items-600-200-600-items.
        diffusion_steps: T.
        noise_scale: s; scales all noise variances.
        noise_min: a_min, the first variance over s.
        noise_max: a_max, the last variance over s.
        fix_first_beta: replace beta_1 by 1e-5 as the authors' code does.
        reweight: "snr" weighs step t by SNR(t-1) - SNR(t); "none" weighs all steps alike.
        dropout: share of the noisy row's entries dropped in training.
        reverse_steps: reverse steps at inference, from t = reverse_steps down to 1; 0 means all T.
        fold_reverse_steps: walk the chain in the first hidden layer, which gives the same scores up to rounding.
        learning_rate: AdamW's step size.
        weight_decay: AdamW's decoupled weight decay.
        batch_size: users per step.

    Raises:
        ValueError: if noise_min exceeds noise_max, reverse_steps exceeds diffusion_steps, or hidden_dims is
            not a list of positive widths.
    """

    batching: ClassVar[Literal["users"]] = "users"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "hidden_dims": ((200,), (600,), (1000,), (200, 600)),
        "learning_rate": (1e-4, 3e-4, 1e-3),
        "diffusion_steps": (2, 5, 10),
        "noise_scale": (0.001, 0.01, 0.1),
        "reweight": ("snr", "none"),
    }
    variances: Tensor
    step_weights: Tensor
    sinusoids: Tensor

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        hidden_dims: tuple[int, ...] = (1000,),
        diffusion_steps: Annotated[int, Ge(1)] = 5,
        noise_scale: Annotated[float, Interval(gt=0, le=1)] = 0.01,
        noise_min: Annotated[float, Interval(gt=0, lt=1)] = 0.001,
        noise_max: Annotated[float, Interval(gt=0, lt=1)] = 0.01,
        fix_first_beta: bool = True,
        reweight: Literal["snr", "none"] = "snr",
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.5,
        reverse_steps: Annotated[int, Ge(0)] = 0,
        fold_reverse_steps: bool = True,
        learning_rate: Annotated[float, Gt(0)] = 1e-4,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
        batch_size: Annotated[int, Ge(1)] = 400,
    ) -> None:
        super().__init__()
        _check(hidden_dims, diffusion_steps, noise_min, noise_max, reverse_steps)
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.dropout, self.fold_reverse_steps = dropout, fold_reverse_steps
        self.reverse_steps = reverse_steps or diffusion_steps
        self.rows = UserRows(interactions)
        self.sampler = StepSampler(diffusion_steps)

        variances = diffrec_variances(diffusion_steps, noise_scale, noise_min, noise_max, fix_first_beta)
        weights = snr_weights(variances) if reweight == "snr" else torch.ones_like(variances)
        of_x_0, of_x_t = posterior_mean_weights(variances)
        self.posterior = list(zip(of_x_0.tolist(), of_x_t.tolist(), strict=True))
        self.register_buffer("variances", variances.float(), persistent=False)
        self.register_buffer("step_weights", weights.float(), persistent=False)
        self.register_buffer("sinusoids", step_embedding(diffusion_steps, STEP_DIM), persistent=False)

        n_items = interactions.shape[1]
        widths = (*reversed(hidden_dims), *hidden_dims[1:])
        self.step_layer = _linear(STEP_DIM, STEP_DIM)
        # The first layer is a table of items and one of steps, so that sparse rows can be summed from it.
        first = _linear(n_items + STEP_DIM, widths[0])
        self.item_weights = nn.Parameter(first.weight.data.T[:n_items].contiguous())
        self.step_input = nn.Parameter(first.weight.data.T[n_items:].contiguous())
        self.input_bias = nn.Parameter(first.bias.data)
        self.hidden = nn.ModuleList(_linear(width, after) for width, after in pairwise(widths))
        self.output = _linear(widths[-1], n_items)
        self._fold: Tensor | None = None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return AdamW, with an eps small enough for a loss that is a mean over items."""
        adam = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, eps=ADAM_EPS, fused=True
        )
        return [adam]

    def step_inputs(self) -> Tensor:
        """Return what each step adds to the first layer, bias included, [T, widths[0]]."""
        steps: Tensor = self.step_layer(self.sinusoids)
        return steps @ self.step_input + self.input_bias

    def last_hidden(self, projected: Tensor, step_input: Tensor) -> Tensor:
        """Return the last hidden layer, [B, hidden_dims[-1]].

        Args:
            projected: x_t W, the first layer's share of the items, [B, widths[0]].
            step_input: its share of the steps, [B, widths[0]] or [widths[0]].
        """
        hidden = torch.tanh(projected + step_input)
        for layer in self.hidden:
            hidden = torch.tanh(layer(hidden))
        return hidden

    def denoise(self, x_t: Tensor, steps: Tensor) -> Tensor:
        """Return f(x_t, t), the estimate of x_0, [B, n_items].

        Args:
            x_t: noisy rows, [B, n_items].
            steps: zero-based steps, int64 [B].
        """
        x_t = dropout(x_t, self.dropout, self.training)
        step_input = self.step_inputs().index_select(0, steps)
        prediction: Tensor = self.output(self.last_hidden(x_t @ self.item_weights, step_input))
        return prediction

    def loss(self, batch: Users) -> Tensor:
        """Return the importance-weighted denoising loss at one random step per user, a scalar."""
        self._fold = None
        x_0 = self.rows.dense(batch.users)
        steps, importance = self.sampler.sample(len(x_0))
        prediction = self.denoise(corrupt(x_0, self.variances[steps]), steps)
        losses = self.step_weights[steps] * (prediction - x_0).square().mean(dim=1)
        self.sampler.record(steps, losses.detach())
        return (losses * importance).mean()

    def begin_scoring(self) -> None:
        """Multiply the last layer by the first, once for all users that will be scored."""
        folds = self.fold_reverse_steps and self.reverse_steps > 1
        self._fold = self._folded_layers().detach() if folds else None

    def _folded_layers(self) -> Tensor:
        """Return V W with b W as its last row, [hidden_dims[-1] + 1, widths[0]]."""
        return torch.cat((self.output.weight.T, self.output.bias[None])) @ self.item_weights

    def score(self, users: Tensor) -> Tensor:
        """Return the estimate of x_0 after the reverse steps, [len(users), n_items]."""
        step_inputs = self.step_inputs()
        projected = sum_over_items(self.rows, users, self.item_weights)
        walk = self._walk_folded if self.fold_reverse_steps else self._walk_items
        if self.reverse_steps > 1:
            projected = walk(users, projected, step_inputs)
        scores: Tensor = self.output(self.last_hidden(projected, step_inputs[0]))
        return scores

    def _walk_folded(self, users: Tensor, projected: Tensor, step_inputs: Tensor) -> Tensor:
        """Return x_1 W from x_T W, [B, widths[0]], without leaving the hidden layer."""
        fold = self._folded_layers() if self._fold is None else self._fold
        for step in range(self.reverse_steps - 1, 0, -1):
            of_x_0, of_x_t = self.posterior[step]
            estimate = torch.addmm(fold[-1], self.last_hidden(projected, step_inputs[step]), fold[:-1])
            projected = of_x_0 * estimate + of_x_t * projected
        return projected

    def _walk_items(self, users: Tensor, projected: Tensor, step_inputs: Tensor) -> Tensor:
        """Return x_1 W from x_T W, [B, widths[0]], by way of every x_t, [B, n_items], as published."""
        x_t = self.rows.dense(users)
        for step in range(self.reverse_steps - 1, 0, -1):
            of_x_0, of_x_t = self.posterior[step]
            estimate = self.output(self.last_hidden(projected, step_inputs[step]))
            x_t = x_t.mul_(of_x_t).add_(estimate, alpha=of_x_0)
            projected = x_t @ self.item_weights
        return projected


def _linear(n_inputs: int, n_outputs: int) -> nn.Linear:
    """Build a linear layer with weights N(0, 2 / (inputs + outputs)) and biases N(0, 0.001^2)."""
    layer = nn.Linear(n_inputs, n_outputs)
    nn.init.xavier_normal_(layer.weight)
    nn.init.normal_(layer.bias, std=0.001)
    return layer


def _check(
    hidden_dims: tuple[int, ...], diffusion_steps: int, noise_min: float, noise_max: float, reverse_steps: int
) -> None:
    """Refuse hyper-parameters that contradict each other, naming both values."""
    if not hidden_dims or min(hidden_dims) < 1:
        raise ValueError(f"DiffRec expects at least one hidden width, each at least 1, found {hidden_dims}.")
    if noise_min > noise_max:
        raise ValueError(
            f"DiffRec expects noise_min <= noise_max, found {noise_min} > {noise_max}: noise must not shrink with t."
        )
    if reverse_steps > diffusion_steps:
        raise ValueError(
            f"DiffRec expects reverse_steps <= diffusion_steps, found {reverse_steps} > {diffusion_steps}. "
            "0 stands for all steps."
        )
