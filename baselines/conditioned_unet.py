"""The U-Net of MCDRec: small images of item embeddings, one channel noisy, the others conditions.

Reference: Ma, Yang, Meng, Xie, Meng, "Multimodal Conditioned Diffusion Model for Recommendation", WWW 2024 Companion;
layers as in Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, in the authors' small setting.

An embedding of D = S x S numbers is an image of side S; 64 numbers are 8 x 8. Four levels with 8, 16, 16 and 16
channels halve the side from 8 to 1; two residual blocks per level on the way down, three on the way up, each with the
matching map from the way down beside its input; attention between two blocks at the bottom. A side that cannot be
halved three times has fewer levels.

The authors' network returns as many channels as it takes in, of which only the first is used; this one returns that.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from baselines.dropout import drop

CHANNELS = (8, 16, 16, 16)
N_GROUPS = 8
STEP_DIM = 32


class ConditionedUNet(nn.Module):
    """Estimate clean embeddings from noisy ones and the conditions beside them.

    Args:
        side: S.
        n_conditions: maps beside the noisy one.
        diffusion_steps: T.
        dropout: share of the entries dropped inside a residual block in training.
    """

    sinusoids: Tensor

    def __init__(self, side: int, n_conditions: int, diffusion_steps: int, dropout: float) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("sinusoids", _sinusoids(diffusion_steps, CHANNELS[0]), persistent=False)
        self.steps = nn.Sequential(nn.Linear(CHANNELS[0], STEP_DIM), nn.SiLU(), nn.Linear(STEP_DIM, STEP_DIM))
        widths = CHANNELS[: 1 + min(len(CHANNELS) - 1, _halvings(side))]
        self.first = nn.Conv2d(1 + n_conditions, widths[0], 3, padding=1)

        def block(n_inputs: int, n_outputs: int) -> ResidualBlock:
            return ResidualBlock(n_inputs, n_outputs, dropout)

        down: list[nn.Module] = []
        kept = [widths[0]]
        for level, (before, width) in enumerate(pairwise((widths[0], *widths))):
            down += [block(before, width), block(width, width)]
            kept += [width, width]
            if level < len(widths) - 1:
                down.append(Halve(width))
                kept.append(width)
        self.down = nn.ModuleList(down)
        self.bottom = nn.ModuleList([block(width, width), Attention(width), block(width, width)])
        up: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            for _ in range(3):
                up.append(block(width + kept.pop(), widths[level]))
                width = widths[level]
            if level:
                up.append(Double(width))
        self.up = nn.ModuleList(up)
        self.norm, self.last = _norm(width), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, noisy: Tensor, conditions: list[Tensor], steps: Tensor) -> Tensor:
        """Return the estimate of the clean embeddings, [B, D].

        Args:
            noisy: [B, D].
            conditions: [B, D] each.
            steps: zero-based steps, int64 [B].
        """
        told = silu(self.steps(self.sinusoids))
        maps = self.first(torch.stack([noisy, *conditions], dim=1).view(len(noisy), -1, self.side, self.side))
        kept = [maps]
        for layer in self.down:
            maps = layer(maps, told, steps)
            kept.append(maps)
        for layer in self.bottom:
            maps = layer(maps, told, steps)
        for layer in self.up:
            maps = layer(maps if isinstance(layer, Double) else torch.cat((maps, kept.pop()), dim=1), told, steps)
        estimate: Tensor = self.last(silu(self.norm(maps)))
        return estimate.flatten(1)


class ResidualBlock(nn.Module):
    """Two convolutions that are told the step between them, added to their input.

    Args:
        n_inputs: channels in.
        n_outputs: channels out.
        dropout: share of the entries dropped before the second convolution in training.
    """

    def __init__(self, n_inputs: int, n_outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norms = nn.ModuleList([_norm(n_inputs), _norm(n_outputs)])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(n_inputs, n_outputs, 3, padding=1), nn.Conv2d(n_outputs, n_outputs, 3, padding=1)]
        )
        self.step_layer = nn.Linear(STEP_DIM, n_outputs)
        self.shortcut = nn.Conv2d(n_inputs, n_outputs, 1) if n_inputs != n_outputs else nn.Identity()

    def forward(self, maps: Tensor, told: Tensor, steps: Tensor) -> Tensor:
        """Return the maps plus their residual, [B, n_outputs, S, S].

        Args:
            maps: [B, n_inputs, S, S].
            told: what is known of each step, [T, STEP_DIM].
            steps: zero-based steps, int64 [B].
        """
        residual = self.convolutions[0](silu(self.norms[0](maps)))
        # T rows go through the layer, not B.
        residual = residual + self.step_layer(told).index_select(0, steps)[:, :, None, None]
        residual = drop(silu(self.norms[1](residual)), self.dropout, self.training)
        result: Tensor = self.shortcut(maps) + self.convolutions[1](residual)
        return result


class Attention(nn.Module):
    """Self-attention with one head between the places of a map, added to it.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.query_key_value, self.output = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, maps: Tensor, told: Tensor, steps: Tensor) -> Tensor:
        """Return the maps plus what they attend to, [B, width, S, S]; the step plays no part."""
        query, key, value = self.query_key_value(self.norm(maps)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(maps.shape)
        result: Tensor = maps + self.output(attended)
        return result


class Halve(nn.Module):
    """A convolution that halves the side; the maps are padded on the right and at the bottom only.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, maps: Tensor, told: Tensor, steps: Tensor) -> Tensor:
        """Return maps of half the side, [B, width, S / 2, S / 2]; the step plays no part."""
        result: Tensor = self.convolution(pad(maps, (0, 1, 0, 1)))
        return result


class Double(nn.Module):
    """Each place four times, then a convolution.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Tensor, told: Tensor, steps: Tensor) -> Tensor:
        """Return maps of twice the side, [B, width, 2 S, 2 S]; the step plays no part."""
        result: Tensor = self.convolution(interpolate(maps, scale_factor=2.0, mode="nearest"))
        return result


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(N_GROUPS, width, eps=1e-6)


def _halvings(side: int) -> int:
    """Return how often the side can be halved."""
    return (side & -side).bit_length() - 1


def _sinusoids(diffusion_steps: int, dim: int) -> Tensor:
    """Return dim / 2 sines and as many cosines of t = 0..T-1 with frequencies from 1 down to 1e-4, [T, dim]."""
    angles = torch.arange(diffusion_steps)[:, None] * torch.logspace(0, -4, dim // 2)
    return torch.cat((angles.sin(), angles.cos()), dim=1)
