"""LD4MRec: a light diffusion model for multimedia recommendation (Eq. 5-8, Algorithms 1 and 2).

Reference: Zhu, Hou, Yu, Tan and Bao, "LD4MRec: Simplifying and Powering Diffusion Model for Multimedia
Recommendation", arXiv 2309.15363v2. No code was published. `diffusion`, `signals` and `cnet` hold the rest of
the equations and the choices that belong to them. Choices that belong here:

- t_u, the step a user's noisy clicks have already taken, is learned as a free embedding z_in of each user
  (sections 4.1, 5.2). Training adds the sinusoid z_t to it; inference uses z_in alone.
- f_s (Eq. 7) changes only the labels drawn into S+ and S-, each label with probability p, anew for each
  batch; all others stay. In expectation every label moves by p gamma, so only the product of the two matters.
- Each user draws their own t. The history behind n_t holds one mean loss per t and batch. Losses are divided
  by T n_t, not n_t, so that their scale does not depend on T.
- The loss sums over items, as a squared norm does, and averages over users. Weight decay acts against that
  sum: the value that suits it would suit a mean over items only if divided by |I|.
- Not stated in the paper: T, learning rate, weight decay, dropout. T = 5 is what DiffRec and DiffMM use on
  sparse data. On small, dense data weight decay matters more than anything else here: 0.3 is near the best on
  MovieLens-100k. On sparse data it is best left near 0.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from annotated_types import Ge, Gt, Interval, MultipleOf
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional

from ld4mrec.cnet import CGBlock, CNet
from ld4mrec.diffusion import StepSampler, corrupt, noise_variances, posterior_mean_weights, step_embedding
from ld4mrec.rows import UserRows
from ld4mrec.signals import SvdMatrix, SvdScale, collaborative_signals, modality_preference

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Interval(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Interval(gt=0.0, lt=1.0)]


class Users(Protocol):
    """A batch of whole users."""

    @property
    def users(self) -> Tensor:
        """User indices, [B] int64."""
        ...


class LD4MRec(nn.Module):
    """Predict a user's future behavior in one pass from the noisy behavior observed.

    Args:
        interactions: binary training matrix R, [n_users, n_items].
        features: item features of each modality, [n_items, width]; the PG blocks apply them in this order.
        hidden_dim: width d of the hidden layers. Paper: 1000.
        svd_rank: rank d_svd of the collaborative signals; capped below the smaller side of R. Paper: 100.
        step_dim: width d_forward of the step embedding. Paper: 10.
        mlp_dim: hidden width of the MLPs in the PG blocks. Not stated; 256 stays below the FC layers' cost.
        diffusion_steps: number of steps T in training. Not stated; 5 and 40 rank alike.
        noise_scale: s of Eq. 3, the noise variance at step T. Paper: 0.1.
        noise_min: alpha_min of Eq. 3; the variance at step 1 is s alpha_min. Paper: 0.0001.
        soft_probability: p of Eq. 7, the share of labels softened. Paper: 0.01, from a grid.
        soft_intensity: gamma of Eq. 7, how far a softened label moves. Paper: 0.01, from a grid.
        dropout: share of the corrupted input set to zero in training. Not stated; no gain seen, so 0.
        learning_rate: Adam's step size. Not stated; 1e-4 is too slow to converge.
        weight_decay: Adam's L2 coefficient, against a loss summed over items. Not stated; tune this first.
        batch_size: users per step. Paper: 400.
        cg: use the CG blocks; False is the paper's variant "w/o CG".
        pg: use the PG blocks; False is the paper's variant "w/o PG" and needs no features.
        soft_labels: train on f_s(x_in); False is the paper's variant "w/o SR".
        expected_soft_labels: train on the expectation of f_s, which leaves the mean gradient as it is.
        importance_sampling: draw t from n_t of Eq. 8; False draws t uniformly.
        step_draw: draw t for each "user" or once for the "batch", as Algorithm 1 can also be read.
        initial_step: one z_in per "user" (the paper), one "shared" by all, or "none".
        inference_step: sinusoid added to z_in at inference: "none" (the paper), "zero" or "one" (z_0 or z_1).
        p_clean: share of training rows left clean with the step embedding of inference. Paper: 0.
        row_weight: "interactions" divides a user's loss by their number of items, against a few very active
            users dominating it; "none" is the paper.
        svd_matrix: matrix behind the collaborative signals, "normalized" or "raw" as printed in Eq. 14.
        svd_scale: scale of C: "sqrt_users", "standardized" by column, or "none" as printed in Eq. 15.
        output: "linear" scores, or "sigmoid" probabilities.
        forward_steps: steps T' of noise added at inference; 0 is forward-free, the paper's way (Figure 3).
        reverse: way back from T' > 0: "one_shot", or "stepwise" through the T' posterior means.

    Raises:
        ValueError: if `pg` has no features to work with, features do not fit the items, or forward_steps > T.

    Of these only `forward_steps` and `reverse` may be set anew on a trained model. A user without training
    interactions is scored with the mean z_in. The signals take |U| (2 d_svd + width of all features) numbers.
    """

    batching: ClassVar[Literal["users"]] = "users"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "hidden_dim": (200, 400, 1000),
        "mlp_dim": (64, 256),
        "learning_rate": (3e-4, 1e-3),
        "weight_decay": (0.0, 0.01, 0.1, 0.3),
        "row_weight": ("none", "interactions"),
    }

    step_embeddings: Tensor
    variances: Tensor
    signals: Tensor
    counts: Tensor

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        hidden_dim: Count = 1000,
        svd_rank: Count = 100,
        step_dim: Annotated[int, Ge(2), MultipleOf(2)] = 10,
        mlp_dim: Count = 256,
        diffusion_steps: Count = 5,
        noise_scale: Annotated[float, Interval(gt=0.0, le=1.0)] = 0.1,
        noise_min: Share = 1e-4,
        soft_probability: OpenShare = 0.01,
        soft_intensity: Share = 0.01,
        dropout: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.0,
        learning_rate: Annotated[float, Gt(0.0)] = 1e-3,
        weight_decay: Annotated[float, Ge(0.0)] = 0.0,
        batch_size: Count = 400,
        cg: bool = True,
        pg: bool = True,
        soft_labels: bool = True,
        expected_soft_labels: bool = False,
        importance_sampling: bool = True,
        step_draw: Literal["user", "batch"] = "user",
        initial_step: Literal["user", "shared", "none"] = "user",
        inference_step: Literal["none", "zero", "one"] = "none",
        p_clean: Share = 0.0,
        row_weight: Literal["none", "interactions"] = "none",
        svd_matrix: SvdMatrix = "normalized",
        svd_scale: SvdScale = "sqrt_users",
        output: Literal["linear", "sigmoid"] = "linear",
        forward_steps: Annotated[int, Ge(0)] = 0,
        reverse: Literal["one_shot", "stepwise"] = "one_shot",
    ) -> None:
        super().__init__()
        if pg and not features:
            raise ValueError(
                "LD4MRec's PG blocks need the item features of at least one modality, found none. "
                "Add features to the dataset, or set pg=False to train the variant without PG."
            )
        if forward_steps > diffusion_steps:
            raise ValueError(
                f"forward_steps counts steps of a schedule of diffusion_steps={diffusion_steps}; "
                f"expected at most that many, found {forward_steps}."
            )
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.dropout, self.p_clean, self.step_draw = dropout, p_clean, step_draw
        self.soft_labels, self.expected_soft_labels = soft_labels, expected_soft_labels
        self.soft_probability, self.soft_intensity = soft_probability, soft_intensity
        self.row_weight, self.output = row_weight, output
        self.forward_steps, self.reverse = forward_steps, reverse

        self.rows = UserRows(interactions)
        counts = self.rows.starts.diff()
        self.register_buffer("counts", counts, persistent=False)
        self._tabulate_steps(diffusion_steps, noise_scale, noise_min, step_dim, inference_step)
        self.sampler = StepSampler(diffusion_steps) if importance_sampling else None
        n_rows = {"user": self.rows.n_users, "shared": 1, "none": 0}[initial_step]
        self.z_in = nn.Parameter(torch.empty(n_rows, step_dim).normal_(std=0.1)) if n_rows else None

        c = [collaborative_signals(interactions, svd_rank, svd_matrix, svd_scale)] if cg else []
        m = [modality_preference(interactions, feature) for feature in features.values()] if pg else []
        # c_u and every m_u side by side: one gather per batch.
        signals = torch.cat([*c, *m], dim=1) if cg or pg else torch.empty(self.rows.n_users, 0)
        self.register_buffer("signals", signals, persistent=False)
        self.signal_dims = [part.shape[1] for part in (*c, *m)]
        self.n_collaborative = len(c)
        self.network = CNet(
            self.rows.n_items,
            hidden_dim,
            step_dim,
            signal_dim=c[0].shape[1] if cg else 0,
            modality_dims=[part.shape[1] for part in m],
            mlp_dim=mlp_dim,
        )

    def _tabulate_steps(
        self, diffusion_steps: int, noise_scale: float, noise_min: float, step_dim: int, inference_step: str
    ) -> None:
        """Store tables by t = 0..T. Row 0 stands for x_in as it is: no noise, and the z_t of inference."""
        variances = noise_variances(diffusion_steps, noise_scale, noise_min)
        z = step_embedding(diffusion_steps, step_dim)
        z_0 = torch.tensor([0.0, 1.0]).repeat(step_dim // 2)  # sin 0, cos 0
        z_0 = {"none": torch.zeros(step_dim), "zero": z_0, "one": z[0]}[inference_step]
        self.register_buffer("variances", functional.pad(variances.float(), (1, 0)), persistent=False)
        self.register_buffer("step_embeddings", torch.vstack((z_0, z)), persistent=False)
        of_x_0, of_x_t = posterior_mean_weights(variances)
        self.posterior_weights = list(zip(of_x_0.tolist(), of_x_t.tolist(), strict=True))

    def loss(self, batch: Users) -> Tensor:
        """Return L'_rec of the batch (Algorithm 1, Eq. 8), a scalar."""
        users = batch.users
        x_in = self.rows.dense(users)
        t, weights = self._draw_steps(len(users))
        x_t = corrupt(x_in, self.variances[t])  # Eq. 2
        x_t = functional.dropout(x_t, self.dropout, self.training)
        predicted = self._predict(self.network.fc_in(x_t), users, t)  # Eq. 4
        target = self._soften(x_in) if self.soft_labels else x_in  # f_s(x_in), Eq. 7
        residual = target.sub_(predicted)  # in place: rows over all items are the largest tensors of a step
        l_rec = residual.square().sum(dim=1)  # Eq. 6
        if self.row_weight == "interactions":
            l_rec = l_rec / self.counts[users].clamp_min(1)
        if self.sampler is not None:
            noisy = t > 0
            self.sampler.record_means(t[noisy] - 1, l_rec.detach()[noisy])
        return (weights * l_rec).mean()  # Eq. 8

    def score(self, users: Tensor) -> Tensor:
        """Return the predicted behavior x_0 of the users, [B, n_items] (Algorithm 2).

        Forward-free unless `forward_steps` says otherwise: one pass over the clicks as they are.
        """
        t = self.forward_steps
        if t == 0:
            rows, items = self.rows.coordinates(users)
            return self._predict(self.network.fc_in.from_items(rows, items, len(users)), users, 0)
        x_t = corrupt(self.rows.dense(users), self.variances[t])
        x_0 = self._predict(self.network.fc_in(x_t), users, t)
        while self.reverse == "stepwise" and t > 1:
            of_x_0, of_x_t = self.posterior_weights[t - 1]
            x_t = of_x_0 * x_0 + of_x_t * x_t
            t -= 1
            x_0 = self._predict(self.network.fc_in(x_t), users, t)
        return x_0

    @torch.no_grad()
    def gate_means(self, users: Tensor) -> Tensor:
        """Return the mean gate g of Eq. 20 by CG block and step t = 0..T, [n_blocks, T + 1].

        Step 0 is forward-free inference. Values near 1 mean that the users' own clicks are hardly looked at.
        """
        gates = [
            [block.gate(self._step(users, t)).mean() for t in range(len(self.variances))]
            for block in self.network.cg_blocks
            if isinstance(block, CGBlock)
        ]
        return torch.tensor(gates)

    def _predict(self, h: Tensor, users: Tensor, t: Tensor | int) -> Tensor:
        """Return p_theta(x_t, t', cond) for rows x_t already mapped to h, [B, n_items] (Eq. 4)."""
        signals = torch.split(self.signals[users], self.signal_dims, dim=1)
        n = self.n_collaborative
        x_0: Tensor = self.network(h, self._step(users, t), signals[:n], signals[n:])
        return torch.sigmoid(x_0) if self.output == "sigmoid" else x_0

    def _step(self, users: Tensor, t: Tensor | int) -> Tensor:
        """Return z_t + z_in, the embedding of t' = t + t_u, [B, step_dim] (section 5.2)."""
        z_t = self.step_embeddings[t].expand(len(users), -1)
        if self.z_in is None:
            return z_t
        if len(self.z_in) == 1:
            return z_t + self.z_in
        z_in = self.z_in[users]
        if not self.training:
            active = self.counts > 0
            mean = self.z_in[active].mean(dim=0)
            z_in = torch.where(active[users, None], z_in, mean)
        return z_t + z_in

    def _draw_steps(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw t ~ n_t for n users, with the weights 1 / (T n_t) of their losses (Algorithm 1, line 4)."""
        device = self.variances.device
        n_draws = n if self.step_draw == "user" else 1
        if self.sampler is None:
            steps = torch.randint(len(self.variances) - 1, (n_draws,), device=device)
            weights = torch.ones(n_draws, device=device)
        else:
            steps, weights = self.sampler.sample(n_draws)
        t, weights = (steps + 1).expand(n), weights.expand(n)
        if self.p_clean > 0:
            clean = torch.rand(n, device=device) < self.p_clean
            t, weights = t.masked_fill(clean, 0), weights.masked_fill(clean, 1.0)
        return t, weights

    def _soften(self, x_in: Tensor) -> Tensor:
        """Return f_s(x_in), written over x_in (Eq. 7): a label x drawn becomes x + gamma (1 - 2x)."""
        p, gamma = self.soft_probability, self.soft_intensity
        if self.expected_soft_labels:
            return x_in.mul_(1.0 - 2.0 * p * gamma).add_(p * gamma)
        labels = x_in.view(-1)
        drawn = draw_positions(len(labels), p, x_in.device)
        labels[drawn] += gamma * (1.0 - 2.0 * labels[drawn])
        return x_in


def draw_positions(n: int, p: float, device: torch.device) -> Tensor:
    """Draw each of n positions with probability p, independently; return those drawn in order, int64.

    The gaps between drawn positions are geometric, so only about p n numbers are drawn instead of n.
    """
    expected = n * p
    enough = int(expected + 8.0 * expected**0.5) + 16
    gaps = torch.empty(enough, dtype=torch.int64, device=device).geometric_(p)
    positions = gaps.cumsum(0) - 1
    return positions[positions < n]
