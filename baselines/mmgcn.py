"""MMGCN: one graph network per modality over the user-item graph, their outputs averaged.

Reference: Wei, Wang, Nie, He, Hong, Chua, "MMGCN: Multi-modal Graph Convolution Network for Personalized
Recommendation of Micro-video", ACM Multimedia 2019; where paper and code differ, the authors' code as it runs.

For modality m with features X_m, nodes users first, M the mean over a node's neighbors, l = 1..L:

    f = X_m W + b  for the modalities to compress,  f = X_m  for the others
    x_0 = rows of [P_m; f] divided by their length                       P_m: preferences of the users
    h   = phi(M x_{l-1} C_l)                                             aggregation
    s   = phi(x_{l-1} A_l + a_l) + ID                                    the node itself; ID is shared by all m
    x_l = phi([h, s] G_l + g_l)                                          combination, phi = LeakyReLU(0.01)

    Z = mean over m of x_L;  s_ui = Z_u . Z_i
    loss = BPR + lambda (mean of ID_u^2 + ID_i^2 over the batch's 2 B pairs and D columns + sum_m mean of P_m^2)

Readings taken:

- ID and P_m are parameters in the paper. In the authors' code and in MMRec they are plain tensors that no optimizer
  ever sees, so only the shared linear maps learn and lambda multiplies a constant. That is what published numbers
  come from and the default; `trainable_id=True` is the paper's model.
- [h, s] is a concatenation, which is what runs: the option meant to turn it off reaches the code as a text, which
  counts as true. `combine="sum"` is the intended phi(h G_l + g_l + s), and a variant of the paper.
- Three layers, of which the last alone is read out, although settings say two: the code ignores them.
- The visual features are compressed to 256 columns, the others enter at their own width, and the first layer has maps
  of that width squared. `compressed` names the modalities to treat like the visual ones.

Deviations: with `trainable_id` the penalty takes the preferences of all modalities, the code those of the visual one.
Scores come from the weights as they stand; the code scores with what the last training step propagated. The constant
penalty of untrained ID and P_m is left out of the loss.

The mean is taken before C_l is applied, which is the same by linearity, and the last layer is computed for the
batch's nodes alone.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear, normalize

from baselines.graph import SparseMatrix
from baselines.losses import Pairs, bpr_loss
from baselines.modalities import feature_matrices
from baselines.row_normalization import normalize_one_side
from baselines.unit_rows import unit_rows

Combine = Literal["concat", "sum"]
# Something of users beside the same of items.
Nodes = tuple[Tensor, Tensor]


class Means(nn.Module):
    """M, the mean over a node's neighbors: a user's items, an item's users; 0 for a node without any.

    Args:
        interactions: R, [n_users, n_items].
    """

    def __init__(self, interactions: csr_array) -> None:
        super().__init__()
        self.of_items = SparseMatrix(normalize_one_side(interactions, 1.0))
        self.of_users = SparseMatrix(normalize_one_side(csr_array(interactions.T), 1.0))

    def of(self, nodes: Nodes) -> Nodes:
        """Return M x, one table for users, [U, c], and one for items, [I, c].

        Args:
            nodes: x of users, [U, c], and of items, [I, c].
        """
        users, items = nodes
        return self.of_items.propagate(items), self.of_users.propagate(users)


class Layer(nn.Module):
    """One layer of a modality's network, from width c to D.

    Args:
        width: c.
        embedding_dim: D.
        combine: how the aggregation and the node itself come together.
        first: whether this is the first layer, whose G starts otherwise than that of the others in the authors' code.
    """

    def __init__(self, width: int, embedding_dim: int, combine: Combine, *, first: bool) -> None:
        super().__init__()
        self.concatenate = combine == "concat"
        self.aggregation = nn.Linear(width, width, bias=False)
        self.itself = nn.Linear(width, embedding_dim)
        self.combination = nn.Linear(width + embedding_dim * self.concatenate, embedding_dim)
        for layer in (self.aggregation, self.itself, self.combination)[: 3 if first else 2]:
            nn.init.xavier_normal_(layer.weight)

    def forward(self, nodes: Tensor, means: Tensor, ids: Tensor) -> Tensor:
        """Return x_l of some nodes, [n, D].

        Args:
            nodes: x_{l-1} of these nodes, [n, c].
            means: M x_{l-1} of these nodes, [n, c].
            ids: ID of these nodes, [n, D].
        """
        aggregated = leaky_relu(self.aggregation(means), inplace=True)
        itself = leaky_relu(self.itself(nodes), inplace=True) + ids
        if not self.concatenate:
            return leaky_relu(self.combination(aggregated) + itself, inplace=True)
        # G [h, s] as two products: the concatenation would be one more table of all nodes, and so would its gradient.
        weight, width = self.combination.weight, aggregated.shape[1]
        mixed = linear(aggregated, weight[:, :width], self.combination.bias)
        return leaky_relu(torch.addmm(mixed, itself, weight[:, width:].T), inplace=True)


class ModalityNetwork(nn.Module):
    """The graph network of one modality.

    What never changes is computed once: the users' x_0 if preferences are not trained, the items' if features are not
    compressed, and what the other side's mean over them is.

    Args:
        features: X_m, [n_items, width].
        graphs: M for users and for items.
        embedding_dim: D.
        compressed_dim: columns to compress the features to; None keeps them as they are.
        n_layers: L.
        combine: see `Layer`.
        trainable: whether the preferences are trained.
    """

    features: Tensor
    means_of_features: Tensor | None
    means_of_preference: Tensor | None

    def __init__(
        self,
        features: Tensor,
        graphs: Means,
        *,
        embedding_dim: int,
        compressed_dim: int | None,
        n_layers: int,
        combine: Combine,
        trainable: bool,
    ) -> None:
        super().__init__()
        self.compression = None if compressed_dim is None else nn.Linear(features.shape[1], compressed_dim)
        width = compressed_dim or features.shape[1]
        # Features that are not compressed are never seen but at length 1.
        features = features if self.compression is not None else normalize(features, dim=1)
        self.register_buffer("features", features, persistent=False)
        means = graphs.of_items.rows.multiply(features) if self.compression is None else None
        self.register_buffer("means_of_features", means, persistent=False)
        preference = nn.init.xavier_normal_(torch.empty(graphs.of_items.shape[0], width))
        # Like features, preferences that are not trained are never seen but at length 1.
        preference = preference if trainable else normalize(preference, dim=1)
        self.preference = nn.Parameter(preference, requires_grad=trainable)
        means = None if trainable else graphs.of_users.rows.multiply(preference)
        self.register_buffer("means_of_preference", means, persistent=False)
        widths = (width, *[embedding_dim] * (n_layers - 1))
        self.layers = nn.ModuleList(
            Layer(c, embedding_dim, combine, first=number == 0) for number, c in enumerate(widths)
        )

    def inputs(self, graphs: Means) -> tuple[Nodes, Nodes]:
        """Return x_0 and M x_0, each for users, [U, c], and for items, [I, c].

        Args:
            graphs: M for users and for items.
        """
        users: Tensor = self.preference
        items, of_items, of_users = self.features, self.means_of_features, self.means_of_preference
        if of_items is None:
            items = unit_rows(self.compression(self.features))  # type: ignore[misc]
            of_items = graphs.of_items.propagate(items)
        if of_users is None:
            users = unit_rows(self.preference)
            of_users = graphs.of_users.propagate(users)
        return (users, items), (of_items, of_users)

    def forward(self, graphs: Means, ids: Nodes, chosen: Nodes | None) -> Nodes:
        """Return x_L of these users, [len(users), D], and items, [len(items), D].

        Users and items are kept apart, because one side's x_0 or its mean may be a constant and need no gradient.

        Args:
            graphs: M for users and for items.
            ids: ID of all users and items, [U, D] and [I, D].
            chosen: users and items, int64, or None for all.
        """
        nodes, means = self.inputs(graphs)
        for layer in self.layers[:-1]:
            nodes = layer(nodes[0], means[0], ids[0]), layer(nodes[1], means[1], ids[1])
            means = graphs.of(nodes)
        last = self.layers[-1]
        if chosen is not None:
            nodes, means, ids = (_rows(tables, chosen) for tables in (nodes, means, ids))
        return last(nodes[0], means[0], ids[0]), last(nodes[1], means[1], ids[1])


def _rows(tables: Nodes, chosen: Nodes) -> Nodes:
    return tables[0].index_select(0, chosen[0]), tables[1].index_select(0, chosen[1])


class MMGCN(nn.Module):
    """Score by the inner product of node embeddings averaged over the networks of all modalities.

    Memory grows with the nodes times the widths of the features that are not compressed, and with those widths
    squared: compress what is wide.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: raw features by modality, [n_items, width] each.
        embedding_dim: width D of the IDs and of all layers' outputs.
        n_layers: layers L of each network; the code always runs 3.
        compressed: modalities whose features a linear layer compresses before the first layer.
        compressed_dim: columns it compresses them to.
        combine: "concat" of aggregation and node, as the code runs, or their "sum".
        trainable_id: train ID and preferences, as in the paper; the code leaves them at their random start.
        learning_rate: Adam's step size; the authors take 5e-4 on TikTok.
        batch_size: triples per step; every step propagates over the whole graph, whatever its size.
        reg_weight: lambda; of no effect unless `trainable_id`.

    Raises:
        ValueError: there is no modality, or its rows do not fit the items.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "learning_rate": (1e-4, 5e-4, 1e-3, 5e-3, 1e-2),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        n_layers: Annotated[int, Ge(1)] = 3,
        compressed: tuple[str, ...] = ("visual",),
        compressed_dim: Annotated[int, Ge(1)] = 256,
        combine: Combine = "concat",
        trainable_id: bool = False,
        learning_rate: Annotated[float, Gt(0)] = 5e-4,
        batch_size: Annotated[int, Ge(1)] = 2048,
        reg_weight: Annotated[float, Ge(0)] = 0.1,
    ) -> None:
        super().__init__()
        self.n_users, self.n_items = interactions.shape
        matrices = feature_matrices(features, self.n_items, "MMGCN")
        self.learning_rate, self.batch_size, self.reg_weight = learning_rate, batch_size, reg_weight
        self.trainable_id = trainable_id
        self.graphs = Means(interactions)
        ids = nn.init.xavier_normal_(torch.empty(self.n_users + self.n_items, embedding_dim))
        self.embedding = nn.Parameter(ids, requires_grad=trainable_id)
        self.networks = nn.ModuleList(
            ModalityNetwork(
                matrix.detach().float(),
                self.graphs,
                embedding_dim=embedding_dim,
                compressed_dim=compressed_dim if name in compressed else None,
                n_layers=n_layers,
                combine=combine,
                trainable=trainable_id,
            )
            for name, matrix in matrices.items()
        )
        self.register_load_state_dict_post_hook(_average_after_load)  # type: ignore[no-untyped-call]
        self._propagated: Nodes | None = None

    def propagate(self, chosen: Nodes | None = None) -> Nodes:
        """Return Z of these users, [len(users), D], and of these items, [len(items), D].

        Args:
            chosen: users and items, int64, or None for all.
        """
        ids = self.embedding[: self.n_users], self.embedding[self.n_users :]
        users, items = zip(*(network(self.graphs, ids, chosen) for network in self.networks), strict=True)
        return torch.stack(users).mean(dim=0), torch.stack(items).mean(dim=0)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the BPR loss of the triples, plus the weighted penalty where it can have an effect, a scalar."""
        self._propagated = None
        distinct_users, user_places = torch.unique(batch.users, return_inverse=True)
        items = torch.cat((batch.positives, batch.negatives))
        distinct_items, item_places = torch.unique(items, return_inverse=True)
        users, items = self.propagate((distinct_users, distinct_items))
        users = users.index_select(0, user_places)
        positives, negatives = items.index_select(0, item_places).chunk(2)
        ranking = bpr_loss((users * positives).sum(dim=1), (users * negatives).sum(dim=1))
        return ranking + self.reg_weight * self.penalty(batch) if self.trainable_id else ranking

    def penalty(self, batch: Pairs) -> Tensor:
        """Return the penalty on the batch's IDs and on all preferences, a scalar."""
        nodes = torch.cat((batch.users, batch.positives + self.n_users, batch.negatives + self.n_users))
        users, positives, negatives = self.embedding.index_select(0, nodes).square().mean(dim=1).chunk(3)
        preferences = [network.get_parameter("preference").square().mean() for network in self.networks]
        return (users + 0.5 * (positives + negatives)).mean() + torch.stack(preferences).sum()

    def begin_scoring(self) -> None:
        """Propagate once for all users that will be scored."""
        users, items = self.propagate()
        self._propagated = users.detach(), items.detach()

    def score(self, users: Tensor) -> Tensor:
        """Return Z_u . Z_i for all items, [len(users), n_items]."""
        of_users, of_items = self.propagate() if self._propagated is None else self._propagated
        return of_users[users] @ of_items.T


def _average_after_load(model: MMGCN, _: Any) -> None:
    """Bring the means of preferences that are not trained in line with those just loaded."""
    model._propagated = None
    for network in model.networks:
        if network.means_of_preference is not None:
            network.means_of_preference = model.graphs.of_users.rows.multiply(network.get_parameter("preference"))
