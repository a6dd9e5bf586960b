"""The conditioned diffusion of MCDRec: item embeddings estimated under features, generated, and used to choose edges.

Reference: Ma, Yang, Meng, Xie, Meng, "Multimodal Conditioned Diffusion Model for Recommendation", WWW 2024 Companion.
The equations and the readings taken are those of mcdrec.py.
"""

from itertools import pairwise
from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, mse_loss
from torch.utils.checkpoint import checkpoint

from baselines.conditioned_unet import ConditionedUNet
from baselines.freedom import SampledGraph
from ld4mrec.diffusion import corrupt, posterior_mean_weights

# Items denoised at a time: with a gradient, the activations of each take 230 kB at D = 64.
BLOCK = 8192
# Edges whose ends are gathered at a time.
EDGES = 1 << 18

EdgeOrder = Literal["drop_first", "weigh_first"]
Denoised = Literal["all", "batch"]


class ItemDiffusion(nn.Module):
    """The conditioned diffusion over item embeddings and the fusion of what it gives, without the base model.

    Args:
        embedding_dim: D, the square of an even number.
        n_conditions: M.
        diffusion_steps: T.
        noise_min: beta_1.
        noise_max: beta_T.
        share: w.
        dropout: of the U-Net and of the MLP.
        denoised: whether "all" items are denoised at a step or those of the "batch".
        center: whether I loses its mean over all items.
        detach_target: whether Q is a constant in L_dm.

    Raises:
        ValueError: if embedding_dim is not the square of an even number or noise_min exceeds noise_max.
    """

    variances: Tensor
    deviations: Tensor
    generation_seed: Tensor

    def __init__(
        self,
        embedding_dim: int,
        n_conditions: int,
        *,
        diffusion_steps: int,
        noise_min: float,
        noise_max: float,
        share: float,
        dropout: float,
        denoised: Denoised,
        center: bool,
        detach_target: bool,
    ) -> None:
        super().__init__()
        side = isqrt(embedding_dim)
        # Of an odd side nothing is left that is told the step: its maps are normalized channel by channel.
        if side * side != embedding_dim or side % 2:
            raise ValueError(
                "MCDRec sees an embedding as a square image of even side: embedding_dim should be 4, 16, 36, 64 or "
                f"another square of an even number, found {embedding_dim}."
            )
        if noise_min > noise_max:
            raise ValueError(f"MCDRec expects noise_min <= noise_max, found {noise_min} > {noise_max}.")
        self.share, self.denoised, self.center, self.detach_target = share, denoised, center, detach_target
        betas = torch.linspace(noise_min, noise_max, diffusion_steps, dtype=torch.float64)
        kept = torch.cumprod(1.0 - betas, dim=0)
        before = torch.cat((kept.new_ones(1), kept[:-1]))
        self.posterior = list(zip(*(weights.tolist() for weights in posterior_mean_weights(1.0 - kept)), strict=True))
        self.register_buffer("variances", (1.0 - kept).float(), persistent=False)
        self.register_buffer("deviations", (betas * (1 - before) / (1 - kept)).sqrt().float(), persistent=False)
        self.unet = ConditionedUNet(side, n_conditions, diffusion_steps, dropout)
        widths = ((1 + n_conditions) * embedding_dim, 2 * embedding_dim, embedding_dim, embedding_dim)
        layers = [nn.Linear(n_inputs, n_outputs) for n_inputs, n_outputs in pairwise(widths)]
        for layer in layers:
            nn.init.xavier_normal_(layer.weight)
        first, second, last = layers
        self.mlp = nn.Sequential(
            first, nn.ReLU(), nn.Dropout(dropout), second, nn.ReLU(), nn.Dropout(dropout), last
        )  # fmt: skip
        self.register_buffer("generation_seed", torch.randint(1 << 62, ()))
        self._estimates: Tensor | None = None
        self._generated: Tensor | None = None
        self.register_load_state_dict_post_hook(_forget_after_load)  # type: ignore[no-untyped-call]

    def forget(self) -> None:
        """Drop what was generated, because the parameters change."""
        self._generated = None

    def draw_steps(self, n_items: int) -> Tensor:
        """Return zero-based steps for the items, int64 [n_items]: half of them drawn, the others their mirror image."""
        n_steps = len(self.variances)
        drawn = torch.randint(n_steps, (n_items // 2 + 1,), device=self.variances.device)
        return torch.cat((drawn, n_steps - 1 - drawn))[:n_items]

    def estimate(self, items: Tensor, conditions: list[Tensor]) -> Tensor:
        """Return Q^ of these items after noise of a random step, [B, D].

        Args:
            items: their Q, [B, D].
            conditions: their x_m, [B, D] each.
        """
        steps = self.draw_steps(len(items))
        noisy = corrupt(items, self.variances[steps])
        if len(items) <= BLOCK:
            estimate: Tensor = self.unet(noisy, conditions, steps)
            return estimate
        blocks = zip(*(torch.split(table, BLOCK) for table in (noisy, steps, *conditions)), strict=True)
        return torch.cat([self._recomputed(block, list(others), of_block) for block, of_block, *others in blocks])

    def _recomputed(self, noisy: Tensor, conditions: list[Tensor], steps: Tensor) -> Tensor:
        """Return Q^ of a block, [B, D], whose activations are not kept but computed once more for the gradient."""
        estimate: Tensor = checkpoint(self.unet, noisy, conditions, steps, use_reentrant=False)
        return estimate

    def begin_epoch(self, items: Tensor, conditions: list[Tensor]) -> None:
        """Estimate all items once where steps will only denoise those of their batch.

        Args:
            items: Q, [n_items, D].
            conditions: x_m, [n_items, D] each.
        """
        self._estimates = None
        if self.denoised == "batch":
            with torch.no_grad():
                self._estimates = self.estimate(items, conditions)

    def forward(self, items: Tensor, conditions: list[Tensor], drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return I of all items, [n_items, D], and L_dm, a scalar.

        Args:
            items: Q, [n_items, D].
            conditions: x_m, [n_items, D] each.
            drawn: the batch's items, int64, with repetitions.
        """
        self.forget()
        if self.denoised == "all":
            estimates = estimate = self.estimate(items, conditions)
            target = items
        else:
            if self._estimates is None:
                self.begin_epoch(items, conditions)
            assert self._estimates is not None
            drawn = torch.unique(drawn)
            target = items.index_select(0, drawn)
            estimate = self.estimate(target, [table.index_select(0, drawn) for table in conditions])
            estimates = self._estimates.index_copy(0, drawn, estimate)
            self._estimates = estimates.detach()
        return self.fuse(items, estimates, conditions), mse_loss(
            estimate, target.detach() if self.detach_target else target
        )

    def fuse(self, items: Tensor, estimates: Tensor, conditions: list[Tensor]) -> Tensor:
        """Return I, [n_items, D].

        Args:
            items: Q, [n_items, D].
            estimates: Q^ or Q*, [n_items, D].
            conditions: x_m, [n_items, D] each.
        """
        fused: Tensor = self.mlp(torch.cat((torch.lerp(items, estimates, self.share), *conditions), dim=1))
        return fused - fused.mean(dim=0) if self.center else fused

    @torch.no_grad()
    def generate(self, items: Tensor, conditions: list[Tensor]) -> Tensor:
        """Return Q*, [n_items, D], the same until the parameters change.

        Args:
            items: Q, [n_items, D].
            conditions: x_m, [n_items, D] each.
        """
        if self._generated is None:
            noise = torch.Generator(device=items.device).manual_seed(int(self.generation_seed))
            was_training = self.unet.training
            self.unet.eval()
            blocks = zip(torch.split(items, BLOCK), *(torch.split(table, BLOCK) for table in conditions), strict=True)
            self._generated = torch.cat([self._walk(block, list(others), noise) for block, *others in blocks])
            self.unet.train(was_training)
        return self._generated

    def _walk(self, items: Tensor, conditions: list[Tensor], noise: torch.Generator) -> Tensor:
        """Return Q* of these items, [B, D]."""

        def draw() -> Tensor:
            return torch.randn(items.shape, generator=noise, device=items.device)

        last = self.variances[-1]
        walked = (1.0 - last).sqrt() * items + last.sqrt() * draw()
        for step in range(len(self.posterior) - 1, -1, -1):
            of_q_0, of_q_t = self.posterior[step]
            steps = torch.full((len(items),), step, device=items.device)
            walked = of_q_0 * self.unet(walked, conditions, steps) + of_q_t * walked
            if step:
                walked += self.deviations[step] * draw()
        return walked


def _forget_after_load(diffusion: ItemDiffusion, _: object) -> None:
    """Drop what other parameters generated."""
    diffusion.forget()


def choose_edges(
    graph: SampledGraph, users: Tensor, items: Tensor, n_edges: int, similarity_weight: float, order: EdgeOrder
) -> None:
    """Make `graph` the one of the edges kept for an epoch.

    Args:
        graph: of all edges, to be changed.
        users: P, [n_users, D].
        items: Q*, [n_items, D].
        n_edges: how many edges are kept.
        similarity_weight: tau.
        order: "drop_first" or "weigh_first".
    """
    blocks = zip(torch.split(graph.users, EDGES), torch.split(graph.items, EDGES), strict=True)
    similar = torch.cat([cosine_similarity(users[u], items[i], dim=1) for u, i in blocks])
    shares = 1.0 + similarity_weight * similar.double()
    if order == "drop_first":
        chosen = graph.draw(n_edges)
    else:
        degrees = torch.bincount(graph.users, shares), torch.bincount(graph.items, shares)
        # Exponential keys: the smallest are a draw without replacement (Efraimidis, Spirakis, 2006).
        keys = torch.empty_like(shares).exponential_().mul_((degrees[0][graph.users] * degrees[1][graph.items]).sqrt())
        chosen = torch.zeros_like(graph.users, dtype=torch.bool)
        chosen[keys.topk(n_edges, largest=False, sorted=False).indices] = True
    graph.keep(chosen, shares)
