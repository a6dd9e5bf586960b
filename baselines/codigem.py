"""CODIGEM: a deep denoising autoencoder at the end of a diffusion chain.

Reference: Walker, Zhong, Zhang, Gao, Zhou, "Recommendation via Collaborative Diffusion Generative Model", KSEM 2022,
LNCS 13370, pp. 593-605; where the paper is silent, the authors' code.

    forward   z_0 = sqrt(1 - beta) x + sqrt(beta) e_0
              z_i = sqrt(1 - beta) z_{i-1} + sqrt(beta) e_i,  i = 1..T-1;  e ~ N(0, Id), beta the same for all steps
    decoder   m = tanh(MLP(z_0));  scores = m
    reverse   p(z_i | z_{i+1}) = N(mu_i, exp(v_i)),  (mu_i, v_i) = g_i(z_{i+1}),  one network g_i for each i < T-1
    loss      (1/2) |x - m|^2 + sum_i [ log q(z_i | z_{i-1}) - log p(z_i | z_{i+1}) ] + constants,  mean over users;
              x stands for z_{-1}

Decoder and every g_i: `n_layers` linear layers of width `hidden_dim` with a PReLU after each but the last.

Readings taken:

- In the authors' code the networks g_i share no parameter with the decoder, scores are decoder(z_0), and no other term
  of the loss has a gradient for the decoder. For ranking it is exactly the decoder: an autoencoder trained to remove
  noise of standard deviation sqrt(beta). `variant="official"` is that model. It leaves the g_i out, which changes no
  score and saves three quarters of the work; `diffusion_steps` then has no effect.
- The code also pairs z_i with the wrong g_i for T >= 3 and centers q on z_i instead of z_{i-1}. `variant="paper"` takes
  the bound as printed above and scores by way of the chain: z_{T-1} from x, then z_i = mu_i down to z_0, then the
  decoder. Terms without a gradient (the entropy of q, the prior of z_{T-1}) are left out of the loss.
- The authors add fresh noise when they score, with a standard deviation of 0.01 by default. Here scoring takes the
  means, z_0 = sqrt(1 - beta) x, so that scores repeat. At that default nothing changes; with beta = 1e-2 it ranks
  better than their noisy scores.
- Initial values are PyTorch's own. The authors' code means to set smaller ones, but its test for linear layers never
  holds; for the first layer of each g_i, where it is not tested, it sets N(0, 1e-4^2), which only `variant="paper"`
  could keep: left out there, because so little of z passes such a layer.
- v_i is kept within -10 and 10, smoothly, for exp(-v_i) to stay finite.

Deviation: the authors hold out whole users and score them by a part of their items. Here all users train and are
scored by the same rows, as all models of this benchmark.

Expect a slow start: with rows of few ones the best small answer is close to zero everywhere, then close to popularity.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from annotated_types import Ge, Gt, Interval
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from baselines.graph import sum_over_items
from ld4mrec.diffusion import corrupt
from ld4mrec.rows import UserRows

LOG_VARIANCE_BOUND = 10.0


class Users(Protocol):
    """Whole users, int64 [B]."""

    @property
    def users(self) -> Tensor:
        """User indices."""
        ...


class CODIGEM(nn.Module):
    """Rank by the output of a denoising autoencoder, optionally after a learned reverse diffusion.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: ignored.
        hidden_dim: width of all hidden layers.
        n_layers: linear layers of each network, first and last included.
        variant: "official" is what the authors' code ranks by, "paper" trains and walks the chain.
        diffusion_steps: T, the number of latents; of use in the "paper" variant alone.
        noise_variance: beta, the variance each step adds; the authors find 1e-4 best.
        learning_rate: Adamax's step size.
        weight_decay: Adamax's L2 coefficient.
        batch_size: users per step.
    """

    batching: ClassVar[Literal["users"]] = "users"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "noise_variance": (1e-5, 1e-4, 1e-3, 1e-2),
        "hidden_dim": (200, 600, 1000),
        "n_layers": (2, 4, 6),
        "learning_rate": (5e-4, 1e-3, 3e-3),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        hidden_dim: Annotated[int, Ge(1)] = 200,
        n_layers: Annotated[int, Ge(2)] = 6,
        variant: Literal["official", "paper"] = "official",
        diffusion_steps: Annotated[int, Ge(1)] = 3,
        noise_variance: Annotated[float, Interval(gt=0, lt=1)] = 1e-4,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
        batch_size: Annotated[int, Ge(1)] = 200,
    ) -> None:
        super().__init__()
        self.noise_variance, self.batch_size = noise_variance, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.rows = UserRows(interactions)
        n_items = interactions.shape[1]
        self.decoder = RowNetwork(n_items, hidden_dim, n_layers, n_items)
        n_reverse = diffusion_steps - 1 if variant == "paper" else 0
        # g_i at place i; each maps z_{i+1} to the mean and log variance of z_i.
        self.reverse = nn.ModuleList(RowNetwork(n_items, hidden_dim, n_layers, 2 * n_items) for _ in range(n_reverse))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adamax, as the authors use."""
        return [torch.optim.Adamax(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)]

    def loss(self, batch: Users) -> Tensor:
        """Return the reconstruction error and, in the paper's variant, the misfit of the reverse chain, a scalar."""
        x = self.rows.dense(batch.users)
        beta = torch.tensor(self.noise_variance, device=x.device)
        z = corrupt(x, beta)
        loss = 0.5 * mse_loss(torch.tanh(self.decoder(z)), x, reduction="sum")
        for network in self.reverse:
            z_next = corrupt(z, beta)
            mean, log_variance = split_moments(network(z_next))
            loss = loss + gaussian_misfit(z, mean, log_variance)
            z = z_next
        return loss / len(x)

    def score(self, users: Tensor) -> Tensor:
        """Return m for the users' rows without noise, [len(users), n_items]."""
        # z_{T-1} of the chain, or z_0 where there is none: each step shrinks x by sqrt(1 - beta).
        kept = (1.0 - self.noise_variance) ** (0.5 * (1 + len(self.reverse)))
        chain: list[RowNetwork] = [self.decoder, *self.reverse]
        last = chain.pop()
        output = last.from_hidden(kept * sum_over_items(self.rows, users, last.item_weights))
        while chain:
            mean, _ = split_moments(output)
            output = chain.pop()(mean)
        return torch.tanh(output)


class RowNetwork(nn.Module):
    """Linear layers with a PReLU between them, from rows over all items.

    Args:
        n_items: width of the input.
        hidden_dim: width of the hidden layers.
        n_layers: linear layers.
        n_outputs: width of the output.
    """

    def __init__(self, n_items: int, hidden_dim: int, n_layers: int, n_outputs: int) -> None:
        super().__init__()
        first = nn.Linear(n_items, hidden_dim)
        # One row for each item, so that sparse rows can be summed from it.
        self.item_weights = nn.Parameter(first.weight.data.T.contiguous())
        self.input_bias = nn.Parameter(first.bias.data)
        self.hidden = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(n_layers - 2))
        self.activations = nn.ModuleList(nn.PReLU() for _ in range(n_layers - 1))
        self.output = nn.Linear(hidden_dim, n_outputs)

    def forward(self, z: Tensor) -> Tensor:
        """Return the output for dense rows z, [B, n_items] -> [B, n_outputs]."""
        return self.from_hidden(z @ self.item_weights)

    def from_hidden(self, projected: Tensor) -> Tensor:
        """Return the output for rows z given as z W, with W the first layer's weights, [B, hidden_dim]."""
        hidden = self.activations[0](projected + self.input_bias)
        for layer, activation in zip(self.hidden, self.activations[1:], strict=True):
            hidden = activation(layer(hidden))
        output: Tensor = self.output(hidden)
        return output


def split_moments(output: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the bounded log variance, each [B, I], from a reverse network's output, [B, 2 I]."""
    mean, log_variance = output.chunk(2, dim=1)
    return mean, LOG_VARIANCE_BOUND * torch.tanh(log_variance / LOG_VARIANCE_BOUND)


def gaussian_misfit(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return -log N(z; mean, exp(log_variance)) up to a constant, summed over users and items, a scalar.

    Args:
        z: [B, I].
        mean: [B, I].
        log_variance: [B, I].
    """
    return 0.5 * (log_variance + (z - mean).square() * torch.exp(-log_variance)).sum()
