"""L-DiffRec: DiffRec in a small latent space, with an encoder for each cluster of items.

Reference: Wang, Xu, Feng, Lin, He, Chua, "Diffusion Recommender Model", SIGIR 2023, arXiv 2304.04971, section 3.4;
where the paper is silent, the authors' code. Schedule, weights w_t and the choice of steps are those of `diffrec`.

    encoder   (mu_c, v_c) = tanh(W_c x~_c + b_c) for each cluster c, side by side;  x~ = dropout(x), x_c its items of c
              z_0 = mu + e exp(v / 2) in training, e ~ N(0, Id);  z_0 = mu at inference
    diffusion z_t ~ N(sqrt(ab_t) z_0, (1 - ab_t) Id);  f(z_t, t) estimates z_0
    decoder   y = V f(z_t, t) + b, scores over all items
    loss      -mean_u sum_i x~_ui log softmax(y_u)_i  +  gamma KL  +  lambda L_t
              KL = -(1/2) mean_u sum (1 + v - mu^2 - e^v)
              L_t = mean_u of w_t / (T p_t) times the mean over dimensions of (z_0 - f(z_t, t))^2
    reverse   z_{t-1} = c1_t f(z_t, t) + c2_t z_t from z_T = mu down to z_0, then the decoder

Cluster c has floor(d |I_c| / |I|) of the d latent dimensions, at least one; the last has what remains.

Readings taken:

- Where the paper has a decoder per cluster, every released setting has a single linear layer to all items. So here.
- lambda falls by 1/500 of its start each epoch down to 0.005; gamma rises by 1/200 each step up to 0.3. Both as in
  the authors' code. The paper keeps them constant.
- The dropped-out row x~ is the target of the likelihood too, and the gradient of L_t reaches the encoder through z_t
  and through the target z_0; both as in the authors' code.
- beta_1 is not replaced by 1e-5, other than in their code for DiffRec.
- The authors' code weighs its losses in another way when `reweight` is off, a branch its command line cannot reach.
  `reweight="none"` here sets w_t = 1 and nothing else.
- Released settings differ by dataset; the defaults are those for Yelp.

Deviation: the authors cluster the embeddings of a LightGCN trained before. Here items are clustered by their rows in
the truncated singular value decomposition of the normalized interactions, the linear smoothing LightGCN learns by
steps; rows are scaled to unit length, or popularity would decide. No second model has to be trained and tuned, and
clusters repeat. Items without training interactions have a row of zeros and end up in one cluster.

The encoder reads only the items a user has, and draws dropout for those alone: zeros stay zeros under both.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding_bag

from baselines.diffrec import STEP_DIM, Users, diffrec_variances, snr_weights
from baselines.item_clusters import item_clusters
from ld4mrec.diffusion import StepSampler, corrupt, posterior_mean_weights, step_embedding
from ld4mrec.rows import UserRows


class LDiffRec(nn.Module):
    """Encode a user's row cluster by cluster, denoise the code and decode it to scores.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: ignored.
        latent_dim: width d of the code.
        n_clusters: clusters of items C; 1 for a single encoder.
        hidden_dims: widths of f's hidden layers from the middle outwards: (300,) goes d-300-d.
        diffusion_steps: T.
        noise_scale: s; scales all noise variances.
        noise_min: a_min, the first variance over s.
        noise_max: a_max, the last variance over s.
        reweight: "snr" weighs step t by SNR(t-1) - SNR(t); "none" weighs all steps alike.
        diffusion_weight: lambda in the first epoch.
        diffusion_weight_min: the least lambda.
        diffusion_decay_epochs: epochs in which lambda would reach 0.
        kl_weight: the largest gamma.
        kl_warmup_steps: gamma is the number of steps taken over this, up to its largest value; 0 starts with that.
        encoder_dropout: share of a user's items dropped before the encoder.
        dropout: share of the noisy code dropped before f.
        learning_rate: AdamW's step size for encoder and decoder.
        denoiser_learning_rate: AdamW's step size for f.
        weight_decay: AdamW's decoupled weight decay.
        batch_size: users per step.

    Raises:
        ValueError: if noise_min exceeds noise_max, hidden_dims is not a list of positive widths, or there are more
            clusters than items or latent dimensions.
    """

    batching: ClassVar[Literal["users"]] = "users"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "learning_rate": (5e-4, 1e-3),
        "denoiser_learning_rate": (1e-4, 5e-4, 1e-3),
        "n_clusters": (1, 2, 3),
        "diffusion_weight": (0.01, 0.02, 0.03, 0.05, 0.07),
        "diffusion_steps": (5, 40),
        "noise_scale": (0.005, 0.01, 0.5),
        "noise_max": (0.005, 0.01, 0.02),
    }
    cluster: Tensor
    place: Tensor
    variances: Tensor
    step_weights: Tensor

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        latent_dim: Annotated[int, Ge(1)] = 300,
        n_clusters: Annotated[int, Ge(1)] = 2,
        hidden_dims: tuple[int, ...] = (300,),
        diffusion_steps: Annotated[int, Ge(1)] = 5,
        noise_scale: Annotated[float, Interval(gt=0, le=1)] = 0.01,
        noise_min: Annotated[float, Interval(gt=0, lt=1)] = 0.005,
        noise_max: Annotated[float, Interval(gt=0, lt=1)] = 0.01,
        reweight: Literal["snr", "none"] = "snr",
        diffusion_weight: Annotated[float, Ge(0)] = 0.03,
        diffusion_weight_min: Annotated[float, Ge(0)] = 0.005,
        diffusion_decay_epochs: Annotated[int, Ge(1)] = 500,
        kl_weight: Annotated[float, Ge(0)] = 0.3,
        kl_warmup_steps: Annotated[int, Ge(0)] = 200,
        encoder_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.5,
        learning_rate: Annotated[float, Gt(0)] = 5e-4,
        denoiser_learning_rate: Annotated[float, Gt(0)] = 1e-4,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
        batch_size: Annotated[int, Ge(1)] = 400,
    ) -> None:
        super().__init__()
        _check(interactions.shape[1], latent_dim, n_clusters, hidden_dims, noise_min, noise_max)
        self.learning_rate, self.denoiser_learning_rate = learning_rate, denoiser_learning_rate
        self.weight_decay, self.batch_size, self.encoder_dropout = weight_decay, batch_size, encoder_dropout
        self.diffusion_weight, self.diffusion_weight_min = diffusion_weight, diffusion_weight_min
        self.diffusion_decay_epochs = diffusion_decay_epochs
        self.kl_weight, self.kl_warmup_steps = kl_weight, kl_warmup_steps
        self._epoch, self._steps = 1, 0
        self.rows = UserRows(interactions)
        self.sampler = StepSampler(diffusion_steps)

        variances = diffrec_variances(diffusion_steps, noise_scale, noise_min, noise_max, fix_first_beta=False)
        weights = snr_weights(variances) if reweight == "snr" else torch.ones_like(variances)
        of_x_0, of_x_t = posterior_mean_weights(variances)
        self.posterior = list(zip(of_x_0.tolist(), of_x_t.tolist(), strict=True))
        self.register_buffer("variances", variances.float(), persistent=False)
        self.register_buffer("step_weights", weights.float(), persistent=False)

        cluster = item_clusters(interactions, n_clusters)
        sizes = torch.bincount(cluster, minlength=n_clusters)
        # Place of each item within its own cluster.
        place = torch.empty_like(cluster)
        place[cluster.argsort(stable=True)] = torch.cat([torch.arange(int(size)) for size in sizes])
        self.register_buffer("cluster", cluster, persistent=False)
        self.register_buffer("place", place, persistent=False)
        dims = split_dims(sizes.tolist(), latent_dim)
        self.encoders = nn.ModuleList(ClusterEncoder(size, dim) for size, dim in zip(sizes.tolist(), dims, strict=True))
        self.denoiser = LatentDenoiser(latent_dim, hidden_dims, diffusion_steps, dropout)
        self.decoder = _linear(latent_dim, self.rows.n_items)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return AdamW with a step size for the autoencoder and one for f."""
        groups = [
            {"params": [*self.encoders.parameters(), *self.decoder.parameters()], "lr": self.learning_rate},
            {"params": [*self.denoiser.parameters()], "lr": self.denoiser_learning_rate},
        ]
        return [torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)]

    def begin_epoch(self, epoch: int) -> None:
        """Note the epoch, counted from 1, which sets lambda."""
        self._epoch = epoch

    def loss_weights(self) -> tuple[float, float]:
        """Return (lambda, gamma) of the step about to be taken."""
        faded = (1.0 - (self._epoch - 1) / self.diffusion_decay_epochs) * self.diffusion_weight
        risen = self._steps / self.kl_warmup_steps if self.kl_warmup_steps else self.kl_weight
        return max(faded, self.diffusion_weight_min), min(risen, self.kl_weight)

    def encode(self, rows: Tensor, items: Tensor, values: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
        """Return mu and v, each [n_rows, d], of rows given by their nonzero entries.

        Args:
            rows: row of each entry, rising, int64 [n].
            items: its item, int64 [n].
            values: its value, [n].
            n_rows: B.
        """
        cluster, place = self.cluster[items], self.place[items]
        moments = []
        for number, encoder in enumerate(self.encoders):
            own = cluster == number
            moments.append(encoder(rows[own], place[own], values[own], n_rows))
        means, log_variances = zip(*moments, strict=True)
        return torch.cat(means, dim=1), torch.cat(log_variances, dim=1)

    def loss(self, batch: Users) -> Tensor:
        """Return likelihood, KL and diffusion loss of the batch at one random step per user, a scalar."""
        n_rows = len(batch.users)
        rows, items = self.rows.coordinates(batch.users)
        values = dropout(torch.ones(len(items), device=items.device), self.encoder_dropout, self.training)
        mean, log_variance = self.encode(rows, items, values, n_rows)
        z_0 = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()

        steps, importance = self.sampler.sample(n_rows)
        estimate = self.denoiser(corrupt(z_0, self.variances[steps]), steps)
        losses = self.step_weights[steps] * (z_0 - estimate).square().mean(dim=1)
        self.sampler.record(steps, losses.detach())

        log_softmax = torch.log_softmax(self.decoder(estimate), dim=1)
        likelihood = (values * log_softmax[rows, items]).sum()
        divergence = -0.5 * (1.0 + log_variance - mean.square() - log_variance.exp()).sum()

        diffusion_weight, kl_weight = self.loss_weights()
        self._steps += self.training
        loss: Tensor = (kl_weight * divergence - likelihood) / n_rows + diffusion_weight * (losses * importance).mean()
        return loss

    def score(self, users: Tensor) -> Tensor:
        """Return the decoder's scores after all reverse steps, [len(users), n_items]."""
        rows, items = self.rows.coordinates(users)
        z, _ = self.encode(rows, items, torch.ones(len(items), device=items.device), len(users))
        for step in range(len(self.posterior) - 1, -1, -1):
            of_z_0, of_z_t = self.posterior[step]
            steps = torch.full((len(users),), step, device=z.device)
            z = of_z_0 * self.denoiser(z, steps) + of_z_t * z
        return self.decoder(z)  # type: ignore[no-any-return]


class ClusterEncoder(nn.Module):
    """One linear layer and tanh from the items of a cluster to the mean and log variance of their code.

    Args:
        n_items: |I_c|.
        dim: d_c.
    """

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.item_weights = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_items, 2 * dim)))
        self.bias = nn.Parameter(torch.zeros(2 * dim))

    def forward(self, rows: Tensor, items: Tensor, values: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
        """Return mu_c and v_c, each [n_rows, d_c], of rows given by their nonzero entries, sorted by row."""
        counts = torch.bincount(rows, minlength=n_rows)
        offsets = counts.cumsum(0) - counts
        sums = embedding_bag(items, self.item_weights, offsets, mode="sum", per_sample_weights=values)
        mean, log_variance = torch.tanh(sums + self.bias).chunk(2, dim=1)
        return mean, log_variance


class LatentDenoiser(nn.Module):
    """f(z_t, t): a tanh autoencoder of dropout(z_t) beside a linear layer of the step's sinusoids.

    Args:
        latent_dim: d.
        hidden_dims: widths of the hidden layers from the middle outwards.
        diffusion_steps: T.
        dropout: share of z_t dropped in training.
    """

    sinusoids: Tensor

    def __init__(self, latent_dim: int, hidden_dims: tuple[int, ...], diffusion_steps: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.register_buffer("sinusoids", step_embedding(diffusion_steps, STEP_DIM), persistent=False)
        self.step_layer = _linear(STEP_DIM, STEP_DIM)
        widths = (latent_dim + STEP_DIM, *reversed(hidden_dims), *hidden_dims[1:], latent_dim)
        self.layers = nn.ModuleList(_linear(width, after) for width, after in pairwise(widths))

    def forward(self, z_t: Tensor, steps: Tensor) -> Tensor:
        """Return the estimate of z_0, [B, d].

        Args:
            z_t: [B, d].
            steps: zero-based steps, int64 [B].
        """
        step_inputs = self.step_layer(self.sinusoids).index_select(0, steps)
        hidden = torch.cat((dropout(z_t, self.dropout, self.training), step_inputs), dim=1)
        for layer in self.layers[:-1]:
            hidden = torch.tanh(layer(hidden))
        estimate: Tensor = self.layers[-1](hidden)
        return estimate


def split_dims(sizes: list[int], latent_dim: int) -> list[int]:
    """Return the latent dimensions d_c of each cluster, proportional to their sizes and at least 1; they sum to d.

    Args:
        sizes: |I_c|, at most d clusters.
        latent_dim: d.
    """
    dims = [max(1, latent_dim * size // sum(sizes)) for size in sizes[:-1]]
    last = latent_dim - sum(dims)
    if last < 1:  # many tiny clusters were rounded up to 1
        dims[dims.index(max(dims))] += last - 1
        last = 1
    return [*dims, last]


def _linear(n_inputs: int, n_outputs: int) -> nn.Linear:
    """Build a linear layer with weights N(0, 2 / (inputs + outputs)) and biases 0."""
    layer = nn.Linear(n_inputs, n_outputs)
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _check(
    n_items: int, latent_dim: int, n_clusters: int, hidden_dims: tuple[int, ...], noise_min: float, noise_max: float
) -> None:
    """Refuse hyper-parameters that contradict each other, naming both values."""
    if not hidden_dims or min(hidden_dims) < 1:
        raise ValueError(f"L-DiffRec expects at least one hidden width, each at least 1, found {hidden_dims}.")
    if noise_min > noise_max:
        raise ValueError(
            f"L-DiffRec expects noise_min <= noise_max, found {noise_min} > {noise_max}: noise must not shrink with t."
        )
    if n_clusters > min(n_items, latent_dim):
        raise ValueError(
            f"L-DiffRec expects at most as many clusters as items ({n_items}) and latent dimensions ({latent_dim}), "
            f"found n_clusters={n_clusters}."
        )
