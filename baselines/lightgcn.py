"""LightGCN: embeddings smoothed over the user-item graph, and nothing else.

Reference: He, Deng, Wang, Li, Zhang, Wang, "LightGCN: Simplifying and Powering Graph Convolution Network for
Recommendation", SIGIR 2020, arXiv 2002.02126.

    E^(k+1) = D^{-1/2} A D^{-1/2} E^(k)             layers k = 0..L-1            (Eq. 3, 7, 8)
    E = (E^(0) + ... + E^(L)) / (L + 1)             layer 0 included             (Eq. 4, 8)
    s_ui = e_u . e_i                                                             (Eq. 5)
    loss = BPR + lambda (1 / 2B) sum of |e^(0)|^2   over the batch's nodes       (Eq. 15)

Readings taken:

- The penalty takes the layer-0 embeddings of the batch alone, as in the authors' code; Eq. 15 prints all of them.
- An epoch visits every interaction once with one negative, as in MMRec, RecBole and SELFRec. The authors' PyTorch
  code draws users uniformly, which weighs users and not interactions.
- Initial values N(0, 0.1^2) as in the authors' PyTorch code; `init="xavier"` (uniform, per table) as in most others.
- A node without training edges gets E^(0) / (L + 1): its initial noise, shrunk by the penalty alone.

No edge dropout (off by default in the authors' code), and no sigmoid on scores: it changes no ranking until it
saturates into ties.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.graph import SymmetricGraph, bipartite_adjacency, normalize_symmetric
from baselines.losses import REGULARIZERS, Pairs, Regularizer, bpr_loss


class LightGCN(nn.Module):
    """Score by the inner product of embeddings averaged over L propagation layers.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: ignored.
        embedding_dim: width D of the embeddings.
        n_layers: propagation layers L; the paper tries 1 to 4.
        learning_rate: Adam's step size.
        batch_size: triples per step; every step propagates over the whole graph, whatever its size.
        reg_weight: lambda; the paper tries 1e-6 to 1e-2.
        reg: "squared" L2 of the batch's layer-0 embeddings, or their unsquared "norm" as in MMRec.
        init: "normal" with standard deviation 0.1, or "xavier" uniform for users and items apart.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "n_layers": (1, 2, 3, 4),
        "learning_rate": (1e-3, 3e-3, 1e-2),
        "reg_weight": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        n_layers: Annotated[int, Ge(1)] = 3,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        batch_size: Annotated[int, Ge(1)] = 2048,
        reg_weight: Annotated[float, Ge(0)] = 1e-4,
        reg: Regularizer = "squared",
        init: Literal["normal", "xavier"] = "normal",
    ) -> None:
        super().__init__()
        self.n_layers, self.reg_weight = n_layers, reg_weight
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.regularizer = REGULARIZERS[reg]
        self.n_users, self.n_items = interactions.shape
        self.graph = SymmetricGraph(normalize_symmetric(bipartite_adjacency(interactions)))
        self.embedding = nn.Parameter(torch.empty(self.n_users + self.n_items, embedding_dim))
        for table in (self.embedding.data[: self.n_users], self.embedding.data[self.n_users :]):
            if init == "normal":
                nn.init.normal_(table, std=0.1)
            else:
                nn.init.xavier_uniform_(table)
        self._propagated: Tensor | None = None

    def propagate(self) -> Tensor:
        """Return the averaged embeddings E of all nodes, users first, [n_users + n_items, D]."""
        return self.graph.mean_of_layers(self.embedding, self.n_layers)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the BPR loss of the triples plus the weighted penalty on layer 0, a scalar."""
        self._propagated = None
        # One lookup for the three roles: each lookup's gradient is a table of its own.
        nodes = torch.cat((batch.users, batch.positives + self.n_users, batch.negatives + self.n_users))
        users, positives, negatives = self.propagate().index_select(0, nodes).chunk(3)
        ranking = bpr_loss((users * positives).sum(dim=1), (users * negatives).sum(dim=1))
        initial = self.embedding.index_select(0, nodes)
        return ranking + self.reg_weight * self.regularizer(*initial.chunk(3))

    def begin_scoring(self) -> None:
        """Propagate once for all users that will be scored."""
        self._propagated = self.propagate().detach()

    def score(self, users: Tensor) -> Tensor:
        """Return e_u . e_i for all items, [len(users), n_items]."""
        nodes = self.propagate() if self._propagated is None else self._propagated
        return nodes[users] @ nodes[self.n_users :].T
