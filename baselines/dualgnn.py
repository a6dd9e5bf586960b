"""DualGNN: modalities smoothed over the user-item graph, users mixed by taste and smoothed over a user-user graph.

Reference: Wang, Wei, Yin, Wu, Song, Nie, "DualGNN: Dual Graph Neural Network for Multimedia Recommendation", IEEE
Transactions on Multimedia 2021; where the paper is silent or differs, the authors' code.

    f_m = phi(X_m V_m + a_m) W_m + b_m                  features X_m, modality m, phi = LeakyReLU(0.01)
    x_m = rows of [P_m; f_m] divided by their length    P_m: preferences of the users; items have nothing of their own
    z_m = x_m + A x_m + ... + A^L x_m                   A = D^{-1/2} [[0, R], [R^T, 0]] D^{-1/2}; a sum, no mean
    item: e_i = sum_m z_mi
    user: t_u = sum_m w_um z_mu                         w: free weights of each user, softmax only at their start
          e_u = t_u + sum_v a_uv t_v                    a_u: softmax of (R R^T)_uv over the k users v with the most
                                                        items in common with u; 0 if there is none
    s_ui = e_u . e_i
    loss = BPR / ln 2 + lambda (sum_m mean of P_mu^2 over the batch's users + mean of w^2)

Readings taken:

- BPR takes a logarithm to base 2, as in the code, which makes it 1.44 times that of other models.
- A user with fewer than k others in common gets them repeated at random up to k, drawn anew for each epoch, as in the
  code: from the list as it grows, and others drawn twice count twice in the softmax. Scores take each of them once, so
  that they do not depend on a draw; `padding="none"` trains that way too.
- Of users with equally many items in common at the cut to k, which of them stay is arbitrary in the code, random here.
- The softmax is over raw counts, as in the code: who shares five items more has 148 times the weight.
- MMRec adds up the modalities in place, in the very tensor of the first one, so that t_u = w_u1 sum_m z_mu + sum_{m>1}
  w_um z_mu there. That is a change of basis of w, which learns the same functions from another start.
  `overwritten="visual"` reproduces it, with the modality that comes first there.
- With a single modality w scales a user's taste; MMRec leaves it out then.
- Two propagation layers, whatever the settings of either code say.

Left out, because nothing reads them: the weights of the items (regularized only) and three more layers of the code.
Scores come from the weights as they stand; the code scores with what the last training step propagated.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.graph import SymmetricGraph, bipartite_adjacency, normalize_symmetric
from baselines.losses import Pairs, bpr_loss
from baselines.modalities import FeatureTables, feature_matrices
from baselines.unit_rows import unit_rows
from baselines.user_graph import UserGraph, common_items


class DualGNN(nn.Module):
    """Score by the inner product of smoothed features and of users' mixtures of them.

    Memory grows with the users times n_neighbors, and with the nodes times the modalities times embedding_dim.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: raw features by modality, [n_items, width] each.
        embedding_dim: width D of preferences and projected features.
        hidden_dim: width between the two linear layers on the features.
        n_layers: propagation layers L over the user-item graph.
        n_neighbors: k, neighbors of a user in the user-user graph.
        padding: "random" repeats of the neighbors up to k in training, or "none".
        overwritten: modality whose output MMRec overwrites with the sum of all, or "" for none.
        learning_rate: Adam's step size; MMRec tries 1e-5 to 0.1.
        batch_size: triples per step; every step propagates over both whole graphs, whatever its size.
        reg_weight: lambda; MMRec tries 1e-5 to 0.1.

    Raises:
        ValueError: there is no modality, its rows do not fit the items, or `overwritten` is not one of them.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "learning_rate": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        "reg_weight": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        hidden_dim: Annotated[int, Ge(1)] = 256,
        n_layers: Annotated[int, Ge(1)] = 2,
        n_neighbors: Annotated[int, Ge(1)] = 40,
        padding: Literal["random", "none"] = "random",
        overwritten: str = "",
        learning_rate: Annotated[float, Gt(0)] = 1e-4,
        batch_size: Annotated[int, Ge(1)] = 2048,
        reg_weight: Annotated[float, Ge(0)] = 0.1,
    ) -> None:
        super().__init__()
        self.n_users, self.n_items = interactions.shape
        matrices = feature_matrices(features, self.n_items, "DualGNN")
        if overwritten and overwritten not in matrices:
            raise ValueError(
                f"DualGNN's overwritten expects one of the modalities {', '.join(matrices)}, or nothing; "
                f"found '{overwritten}'."
            )
        self.learning_rate, self.batch_size, self.reg_weight = learning_rate, batch_size, reg_weight
        self.n_layers, self.padding = n_layers, padding
        self.overwritten = list(matrices).index(overwritten) if overwritten else None
        self.graph = SymmetricGraph(normalize_symmetric(bipartite_adjacency(interactions)))
        self.user_graph = UserGraph(common_items(interactions, n_neighbors), n_neighbors)
        self.features = FeatureTables([matrix.float() for matrix in matrices.values()], trainable=False)
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, hidden_dim), nn.LeakyReLU(inplace=True), nn.Linear(hidden_dim, embedding_dim)
            )
            for width in self.features.widths
        )
        shape = self.n_users, len(matrices), embedding_dim
        self.preference = nn.Parameter(torch.empty(shape).normal_(std=math.sqrt(2 / (self.n_users + embedding_dim))))
        weights = torch.empty(shape[:2]).normal_(std=math.sqrt(2 / (self.n_users + len(matrices))))
        self.modality_weights = nn.Parameter(weights.softmax(dim=1))
        self._encoded: tuple[Tensor, Tensor] | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Draw the repeats of this epoch."""
        if self.padding == "random":
            self.user_graph.pad()

    def smooth(self) -> tuple[Tensor, Tensor]:
        """Return tastes t of the users, [U, D], and the items' embeddings e, [I, D]."""
        tables = zip(self.projections, self.features.tables(), strict=True)
        projected = torch.stack([project(table) for project, table in tables], dim=1)
        x = unit_rows(torch.cat((self.preference, projected)))
        # All modalities side by side go through the graph at once.
        z = self.graph.mean_of_layers(x.flatten(1), self.n_layers).view(x.shape)
        users, items = z[: self.n_users], z[self.n_users :]
        # The sum of the layers is L + 1 times their mean, which costs less once the modalities are joined.
        tastes = torch.einsum("um,umd->ud", self.mixture() * (self.n_layers + 1), users)
        return tastes, items.sum(dim=1) * (self.n_layers + 1)

    def mixture(self) -> Tensor:
        """Return the weights that the modalities get in t, [U, M]: w, unless one modality is overwritten."""
        if self.overwritten is None:
            return self.modality_weights
        own = torch.ones_like(self.modality_weights[0])
        own[self.overwritten] = 0.0
        return self.modality_weights * own + self.modality_weights[:, self.overwritten, None]

    def loss(self, batch: Pairs) -> Tensor:
        """Return the BPR loss of the triples to base 2 plus the weighted penalty, a scalar."""
        self._encoded = None
        tastes, items = self.smooth()
        distinct, places = torch.unique(batch.users, return_inverse=True)
        mixed = tastes.index_select(0, distinct) + self.user_graph.propagate(distinct, tastes)
        users = mixed.index_select(0, places)
        positives, negatives = items.index_select(0, torch.cat((batch.positives, batch.negatives))).chunk(2)
        ranking = bpr_loss((users * positives).sum(dim=1), (users * negatives).sum(dim=1)) / math.log(2)
        preferences = self.preference.index_select(0, batch.users).square().mean() * self.preference.shape[1]
        return ranking + self.reg_weight * (preferences + self.modality_weights.square().mean())

    def begin_scoring(self) -> None:
        """Encode users and items once for all users that will be scored."""
        self._encoded = self._encode()

    def _encode(self) -> tuple[Tensor, Tensor]:
        tastes, items = self.smooth()
        return tastes.detach() + self.user_graph.propagate_all(tastes), items.detach()

    def score(self, users: Tensor) -> Tensor:
        """Return e_u . e_i for all items, [len(users), n_items]."""
        of_users, of_items = self._encode() if self._encoded is None else self._encoded
        return of_users[users] @ of_items.T
