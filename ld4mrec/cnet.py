"""The conditional network of LD4MRec: p_theta(x_t, t', cond) of Eq. 4, built from Eq. 18-22.

Reference: Zhu et al., arXiv 2309.15363v2, section 5. The stack is

    FC -> CG -> PG -> CG -> PG -> FC        (Figure 2; the variant "w/o PG" links exactly two CG blocks)

Symbols: d is the hidden width, d_f the width of the step embedding z, d_c = 2 d_svd that of the collaborative
signal c_u. Where the paper leaves a choice:

- Eq. 18-20 write one sigma for all. The gate g must lie in (0, 1) to mix, so it is a sigmoid; h' and c' take
  tanh.
- W_2 is printed d x d_svd although c_u has 2 d_svd entries, and W_3 d x d although z has d_f. Both take the
  shape the equation needs.
- W_g of Eq. 21-22 is read as one factor per channel (FiLM): a full d x d matrix per user would need an MLP
  with d^2 outputs. The MLPs start as the identity, factor 1 and shift 0, so an untrained PG block changes
  nothing.
- The "activation functions between the CG Blocks and PG Blocks" (Figure 2), like the one between two
  modalities, are LeakyReLU with slope 0.2. The FC layers have none, as section 5.3 names none: after the first
  layer an activation made no difference, before the last it ranked slightly worse.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2


class InputLayer(nn.Module):
    """The first FC layer, h = x W + b, for dense rows or for lists of clicked items (section 5.3).

    The weight lies item by item, [n_items, d]: a binary row's product with it is the sum of its items' rows.
    """

    def __init__(self, n_items: int, hidden_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, hidden_dim))
        self.bias = nn.Parameter(torch.zeros(hidden_dim))
        nn.init.xavier_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map dense rows x, [B, n_items], to [B, d]."""
        return torch.addmm(self.bias, x, self.weight)

    def from_items(self, rows: Tensor, items: Tensor, n_rows: int) -> Tensor:
        """Map binary rows given by their ones, (row, item) sorted by row, to [n_rows, d]."""
        counts = torch.bincount(rows, minlength=n_rows)
        return self.bias + functional.embedding_bag(items, self.weight, counts.cumsum(0) - counts, mode="sum")


class StepLayer(nn.Module):
    """sigma(W_1 [h ; z] + b_1), a user's own behavior at a diffusion step (Eq. 18).

    Inside a CG block it is h'; on its own it replaces the block in the variant "w/o CG". W_1 is kept as its
    two column blocks, which spares the concatenation: W_1 [h ; z] = W_1h h + W_1z z.
    """

    def __init__(self, hidden_dim: int, step_dim: int) -> None:
        super().__init__()
        self.w_1h = nn.Linear(hidden_dim, hidden_dim)
        self.w_1z = nn.Linear(step_dim, hidden_dim, bias=False)
        deviation = (2.0 / (2 * hidden_dim + step_dim)) ** 0.5  # Xavier, for the undivided W_1
        for block in (self.w_1h, self.w_1z):
            nn.init.normal_(block.weight, std=deviation)
        nn.init.zeros_(self.w_1h.bias)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Map h [B, d] and z [B, d_f] to h' [B, d]."""
        return torch.tanh(self.w_1h(h) + self.w_1z(z))


class CGBlock(nn.Module):
    """Collaboration-aware generation: mix own behavior with that of similar users (Eq. 18-20)."""

    def __init__(self, hidden_dim: int, step_dim: int, signal_dim: int) -> None:
        super().__init__()
        self.own = StepLayer(hidden_dim, step_dim)
        self.w_2 = xavier_linear(signal_dim, hidden_dim)
        self.w_3 = xavier_linear(step_dim, hidden_dim)

    def gate(self, z: Tensor) -> Tensor:
        """Return g(z), the share of the collaborative signal in each channel, [B, d] in (0, 1) (Eq. 20)."""
        return torch.sigmoid(self.w_3(z))

    def forward(self, h: Tensor, z: Tensor, c: Tensor) -> Tensor:
        """Return h_d = h' (1 - g(z)) + c' g(z), [B, d].

        Args:
            h: hidden behavior [B, d].
            z: step embedding [B, d_f].
            c: collaborative signals c_u [B, d_c].
        """
        own = self.own(h, z)  # h', Eq. 18
        shared = torch.tanh(self.w_2(c))  # c', Eq. 19
        return torch.lerp(own, shared, self.gate(z))  # Eq. 20


class PGBlock(nn.Module):
    """Preference-aware generation: scale and shift the channels by what the user likes (Eq. 21-22).

    Modalities act one after the other, with a LeakyReLU between them.

    Args:
        hidden_dim: d.
        modality_dims: width of m_u in each modality, at least one, in the order they act.
        mlp_dim: hidden width of the MLPs.
    """

    def __init__(self, hidden_dim: int, modality_dims: Sequence[int], mlp_dim: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(constant_mlp(dim, mlp_dim, hidden_dim, 1.0) for dim in modality_dims)
        self.shifts = nn.ModuleList(constant_mlp(dim, mlp_dim, hidden_dim, 0.0) for dim in modality_dims)

    def forward(self, h: Tensor, preferences: Sequence[Tensor]) -> Tensor:
        """Map h_d [B, d] and one m_u [B, width] per modality to h_g [B, d]."""
        for number, m in enumerate(preferences):
            if number:
                h = functional.leaky_relu(h, SLOPE)
            h = torch.addcmul(self.shifts[number](m), self.scales[number](m), h)  # W_g h + b_g, Eq. 22
        return h


class CNet(nn.Module):
    """Predict x_0 from rows x_t, their step embedding and the user's condition signals (Eq. 4).

    Args:
        n_items: number of items.
        hidden_dim: d.
        step_dim: d_f.
        signal_dim: width of c_u; 0 puts a plain layer on [h ; z] in place of each CG block ("w/o CG").
        modality_dims: width of m_u per modality; empty leaves the PG blocks out ("w/o PG").
        mlp_dim: hidden width of the MLPs in the PG blocks.
        n_stacks: number of CG-PG pairs.
    """

    def __init__(
        self,
        n_items: int,
        hidden_dim: int,
        step_dim: int,
        signal_dim: int,
        modality_dims: Sequence[int],
        mlp_dim: int,
        n_stacks: int = 2,
    ) -> None:
        super().__init__()
        self.fc_in = InputLayer(n_items, hidden_dim)
        self.cg_blocks = nn.ModuleList(
            CGBlock(hidden_dim, step_dim, signal_dim) if signal_dim else StepLayer(hidden_dim, step_dim)
            for _ in range(n_stacks)
        )
        self.pg_blocks = nn.ModuleList(
            PGBlock(hidden_dim, modality_dims, mlp_dim) for _ in range(n_stacks if modality_dims else 0)
        )
        self.fc_out = xavier_linear(hidden_dim, n_items)

    def forward(self, h: Tensor, z: Tensor, signals: Sequence[Tensor], preferences: Sequence[Tensor]) -> Tensor:
        """Return the predicted rows x_0, [B, n_items].

        Args:
            h: the rows x_t after the first layer, `fc_in(x_t)` or `fc_in.from_items(...)`, [B, d].
            z: step embedding [B, d_f].
            signals: (c_u,) with c_u [B, d_c], or empty without CG.
            preferences: one m_u [B, width] per modality, or empty without PG.
        """
        for number, cg_block in enumerate(self.cg_blocks):
            if number:
                h = functional.leaky_relu(h, SLOPE)
            h = cg_block(h, z, *signals)
            if self.pg_blocks:
                h = self.pg_blocks[number](functional.leaky_relu(h, SLOPE), preferences)
        x_0: Tensor = self.fc_out(h)
        return x_0


def xavier_linear(in_features: int, out_features: int) -> nn.Linear:
    """Build a linear layer with Xavier-normal weight and zero bias."""
    linear = nn.Linear(in_features, out_features)
    nn.init.xavier_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def constant_mlp(in_features: int, hidden_features: int, out_features: int, start: float) -> nn.Sequential:
    """Build the two-layer MLP of Eq. 21, whose output is `start` everywhere until it is trained."""
    last = nn.Linear(hidden_features, out_features)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, start)
    return nn.Sequential(xavier_linear(in_features, hidden_features), nn.ReLU(), last)
