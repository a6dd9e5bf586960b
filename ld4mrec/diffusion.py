"""Corrupt interaction rows step by step, and choose the steps worth training on (Eq. 1-3, 8, 17).

Reference: Zhu et al., "LD4MRec: Simplifying and Powering Diffusion Model for Multimedia Recommendation",
arXiv 2309.15363v2. Steps count t = 1..T in the paper; tables here hold step t at index t - 1.
"""

import torch
from torch import Tensor, nn


def noise_variances(diffusion_steps: int, noise_scale: float, noise_min: float, noise_max: float = 1.0) -> Tensor:
    """Return the noise variances 1 - alpha_bar_t for t = 1..T, [T] float64 (Eq. 3).

    1 - alpha_bar_t = s [alpha_min + (t - 1) / (T - 1) (alpha_max - alpha_min)]. The paper fixes
    alpha_max = 1; DiffRec leaves it free. The formula divides by zero at T = 1: the only step then has the
    largest variance. Double precision keeps the digits of variances near 1e-5.

    Args:
        diffusion_steps: number of steps T, at least 1.
        noise_scale: s in [0, 1].
        noise_min: alpha_min.
        noise_max: alpha_max.
    """
    if diffusion_steps == 1:
        return torch.tensor([noise_scale * noise_max], dtype=torch.float64)
    return noise_scale * torch.linspace(noise_min, noise_max, diffusion_steps, dtype=torch.float64)


def step_embedding(diffusion_steps: int, dim: int) -> Tensor:
    """Return the sinusoids z_t for t = 1..T, [T, dim] float32 (Eq. 17).

    z_t(2j) = sin(t / 10000^(2j / dim)) and z_t(2j + 1) = cos(t / 10000^(2j / dim)).

    Raises:
        ValueError: if `dim` is not an even positive number.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"A step embedding pairs sines with cosines: expected an even width, found {dim}.")
    steps = torch.arange(1, diffusion_steps + 1, dtype=torch.float64)
    periods = 10000.0 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = steps[:, None] / periods
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).float()


def corrupt(x: Tensor, variance: Tensor) -> Tensor:
    """Draw x_t ~ q(x_t | x_in) = N(sqrt(alpha_bar_t) x_in, (1 - alpha_bar_t) I) (Eq. 2).

    The T small steps of Eq. 1 add up to this one draw.

    Args:
        x: rows x_in, [B, n_items]; left as they are.
        variance: 1 - alpha_bar_t of each row, [B] or [B, 1], or one scalar for all.
    """
    if variance.dim() == 1:
        variance = variance[:, None]
    keep = (1.0 - variance).sqrt().to(x.dtype)
    noise = torch.randn_like(x).mul_(variance.sqrt().to(x.dtype))
    return noise.addcmul_(x, keep)


def posterior_mean_weights(variances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights (of x_0, of x_t) in the mean of q(x_{t-1} | x_t, x_0), each [T] float64, t = 1..T.

    A classic reverse process walks these means from x_t down to x_0. Forward-free inference (Algorithm 2)
    skips them; they serve the comparison of the two. At t = 1 the weights are (1, 0): the mean is x_0 itself.

    Args:
        variances: 1 - alpha_bar_t as `noise_variances` gives them, [T].
    """
    kept = 1.0 - variances.double()
    kept_before = torch.cat((torch.ones(1, dtype=torch.float64), kept[:-1]))
    alpha = kept / kept_before
    of_x_0 = (1.0 - alpha) * kept_before.sqrt() / (1.0 - kept)
    of_x_t = (1.0 - kept_before) * alpha.sqrt() / (1.0 - kept)
    return of_x_0, of_x_t


class StepSampler(nn.Module):
    """Draw diffusion steps in proportion to how badly they are still solved (Eq. 8).

    n_t is proportional to the root mean square of the last losses recorded at t. Eq. 8 prints sqrt(E[L]); the
    work it cites, Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, derives
    sqrt(E[L^2]), which is used here. Until every step has `history` records all steps are equally likely.

    Args:
        diffusion_steps: number of steps T.
        history: losses remembered per step.
        floor: share of the probability spread evenly over all steps, so that none is ever forgotten.
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, diffusion_steps: int, history: int = 10, floor: float = 0.001) -> None:
        super().__init__()
        self.diffusion_steps, self.history, self.floor = diffusion_steps, history, floor
        self.register_buffer("losses", torch.zeros(diffusion_steps, history), persistent=False)
        self.register_buffer("seen", torch.zeros(diffusion_steps, dtype=torch.int64), persistent=False)

    def probabilities(self) -> Tensor:
        """Return n_t for t = 1..T, [T], summing to 1."""
        uniform = torch.full_like(self.losses[:, 0], 1.0 / self.diffusion_steps)
        rms = self.losses.square().mean(dim=1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        learned = torch.lerp(rms / rms.sum(), uniform, self.floor)
        return torch.where((self.seen >= self.history).all(), learned, uniform)

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw n steps.

        Returns:
            (steps, weights), each [n]: steps are zero-based int64, weights 1 / (T n_t) float32. The weights
            average 1 under n_t, so the weighted loss keeps the scale of uniform sampling.
        """
        probabilities = self.probabilities()
        steps = torch.multinomial(probabilities, n, replacement=True)
        return steps, 1.0 / (self.diffusion_steps * probabilities[steps])

    @torch.no_grad()
    def record(self, steps: Tensor, losses: Tensor) -> None:
        """Remember one loss per drawn step, the latest `history` of each step.

        Args:
            steps: zero-based steps, [n] int64, oldest first.
            losses: their losses before the weight of `sample`, [n].
        """
        order = steps.argsort(stable=True)
        steps, losses = steps[order], losses[order].to(self.losses.dtype)
        counts = torch.bincount(steps, minlength=self.diffusion_steps)
        # Place of each loss among the losses of its own step in this call.
        place = torch.arange(len(steps), device=steps.device) - (counts.cumsum(0) - counts)[steps]
        latest = place >= counts[steps] - self.history
        slot = (self.seen[steps] + place) % self.history
        self.losses[steps[latest], slot[latest]] = losses[latest]
        self.seen += counts

    @torch.no_grad()
    def record_means(self, steps: Tensor, losses: Tensor) -> None:
        """Remember the mean loss of each step that occurs, one record per step.

        Ten single rows differ more by their users' activity than by their step; means over a batch do not.

        Args:
            steps: zero-based steps, [n] int64.
            losses: their losses before the weight of `sample`, [n].
        """
        counts = torch.bincount(steps, minlength=self.diffusion_steps)
        sums = torch.zeros_like(self.losses[:, 0]).index_add_(0, steps, losses.to(self.losses.dtype))
        drawn = counts.nonzero().squeeze(1)
        self.record(drawn, sums[drawn] / counts[drawn])
