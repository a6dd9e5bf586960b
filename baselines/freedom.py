"""FREEDOM: a frozen graph of similar items beside a user-item graph that loses most of its edges every epoch.

Reference: Zhou, Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation",
ACM MM 2023, arXiv 2211.06924; where the paper is silent, the authors' code. M modalities with raw features X_m.

    item graph    S_m = 1/k at the k items nearest to i by cosine of X_m, i among them;  S = sum_m w_m S_m
    edge drop     keep floor((1 - rho) |E|) edges, drawn without replacement with weights 1 / sqrt(d_u d_i);
                  Ahat_rho = D^{-1/2} A D^{-1/2} of the kept edges and their own degrees, anew every epoch
    user-item     [G_U; G_I] = mean of Ahat^l [E_U; E_I] over l = 0..L
    item-item     h = S^K E_I                                                             no mean over layers
    final         user = G_U,  item = G_I + h,  s_ui = user_u . item_i
    loss          BPR(user, item) + lambda sum_m BPR(user, X_m W_m + b_m)

Ahat is Ahat_rho in training and the whole graph in scoring.

Readings taken:

- Both ends of an edge of S_m are normalized by the degree of a row, which is k everywhere: all edges weigh 1/k, S is
  directed, and h_i is a plain mean over the neighbors' embeddings.
- w_m is 0.1 for the visual modality and 0.9 for the text in all released settings. For other modalities none are
  published: here all but the visual one share 0.9, and without a visual one all are equal; `modality_weights` sets
  others.
- The authors' reg_weight is lambda, the weight of the modality terms, and there is no L2 penalty at all. The best
  values of lambda and rho are not released per dataset; both grids are in the arguments below.
- X_m of the loss are parameters that start at the raw features, as in the authors' code; S keeps the raw ones.
  `finetune_features=False` leaves them as they are, which saves the largest tables of the model.
- A node that loses all its edges gets E / (L + 1) for that epoch.

Same value, less work: the modality terms are computed for the batch's items only, and b_m, which cancels in every
difference of scores, is left out there. With lambda = 0 the modality terms and their tables do not exist. Edges are
drawn by exponential keys (Efraimidis, Spirakis, Information Processing Letters 2006), the same distribution as one
draw after the other. Degrees are exact; the authors add 1e-7.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.graph import SparseMatrix, SymmetricGraph, bipartite_adjacency, normalize_symmetric
from baselines.item_features import ItemFeatures
from baselines.item_graph import nearest_items, neighbor_matrix
from baselines.losses import Pairs, bpr_loss
from baselines.modalities import feature_matrices

VISUAL_WEIGHT = 0.1


class SampledGraph(SymmetricGraph):
    """The symmetrically normalized user-item graph of chosen edges; of all edges until some are chosen.

    Args:
        interactions: training matrix R, [n_users, n_items], binary. Its nonzeros, row by row, are the edges.
    """

    users: Tensor
    items: Tensor
    by_item: Tensor

    def __init__(self, interactions: csr_array) -> None:
        super().__init__(normalize_symmetric(bipartite_adjacency(interactions)))
        self.n_users, self.n_items = interactions.shape
        users = np.repeat(np.arange(self.n_users, dtype=np.int64), np.diff(interactions.indptr))
        items = interactions.indices.astype(np.int64)
        self.register_buffer("users", torch.from_numpy(users), persistent=False)
        self.register_buffer("items", torch.from_numpy(items), persistent=False)
        self.register_buffer("by_item", torch.from_numpy(items.argsort(kind="stable")), persistent=False)

    def draw(self, n_edges: int) -> Tensor:
        """Draw edges without replacement with weights 1 / sqrt(d_u d_i) and return which, bool [E].

        Args:
            n_edges: how many, at most E.
        """
        degrees = torch.bincount(self.users), torch.bincount(self.items)
        inverse_weights = (degrees[0][self.users] * degrees[1][self.items]).double().sqrt()
        keys = torch.empty_like(inverse_weights).exponential_().mul_(inverse_weights)
        chosen = torch.zeros_like(self.users, dtype=torch.bool)
        chosen[keys.topk(n_edges, largest=False, sorted=False).indices] = True
        return chosen

    def keep(self, chosen: Tensor, shares: Tensor | None = None) -> None:
        """Make this the graph of the chosen edges, normalized by the degrees they leave.

        Args:
            chosen: bool [E].
            shares: what each edge counts in the degrees of its two ends, positive [E]; 1 if not given.
        """
        by_user, by_item = chosen.nonzero()[:, 0], self.by_item[chosen[self.by_item]]
        counts = (
            torch.bincount(self.users[by_user], minlength=self.n_users),
            torch.bincount(self.items[by_item], minlength=self.n_items),
        )
        degrees = counts
        if shares is not None:
            degrees = (
                torch.bincount(self.users[by_user], shares[by_user], minlength=self.n_users),
                torch.bincount(self.items[by_item], shares[by_item], minlength=self.n_items),
            )
        order = torch.cat((by_user, by_item))
        scale = tuple(degree.double().rsqrt() for degree in degrees)
        self.weights = (scale[0][self.users[order]] * scale[1][self.items[order]]).float()
        self.neighbors = torch.cat((self.items[by_user] + self.n_users, self.users[by_item]))
        self.starts = torch.cat((self.starts.new_zeros(1), torch.cat(counts).cumsum(0)))


def graph_weights(names: Sequence[str], given: Sequence[float] = ()) -> list[float]:
    """Return w_m for each modality, which add to 1.

    Args:
        names: the modalities.
        given: weights in their order, to be divided by their sum. If empty, "visual" has 0.1 and the others share
            0.9 alike; without it, or with nothing else, all are alike.

    Raises:
        ValueError: the given weights are not one for each modality, or all 0.
    """
    if given:
        if len(given) != len(names) or sum(given) <= 0:
            raise ValueError(
                f"modality_weights expects one weight for each of {', '.join(names)}, not all 0; found {list(given)}."
            )
        return [weight / sum(given) for weight in given]
    if "visual" in names and len(names) > 1:
        others = (1 - VISUAL_WEIGHT) / (len(names) - 1)
        return [VISUAL_WEIGHT if name == "visual" else others for name in names]
    return [1 / len(names)] * len(names)


def frozen_item_graph(features: Mapping[str, Tensor], n_neighbors: int, weights: Sequence[float]) -> csr_array:
    """Return S = sum_m w_m S_m with S_m = 1/k at the k nearest items, [n_items, n_items]; its rows add to 1.

    Args:
        features: raw features by modality, [n_items, width] each.
        n_neighbors: k, the item itself among them; all items if there are fewer.
        weights: w_m in the order of the modalities' names.
    """
    neighbors = [nearest_items(features[name], n_neighbors)[0] for name in sorted(features)]
    shares = [torch.full(near.shape, weight / near.shape[1]) for near, weight in zip(neighbors, weights, strict=True)]
    return neighbor_matrix(torch.cat(neighbors, dim=1), torch.cat(shares, dim=1), len(neighbors[0]))


class FREEDOM(nn.Module):
    """Score by the inner product of embeddings smoothed over the user-item graph and over a graph of similar items.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: raw features by modality, [n_items, width] each; at least one.
        embedding_dim: width D of the embeddings.
        n_layers: layers L over the user-item graph.
        n_item_layers: layers K over the item graph.
        n_neighbors: k, nearest items of each item in the item graph, itself included.
        modality_weights: w_m in the order of the modalities' names, divided by their sum; if empty, 0.1 for "visual"
            and 0.9 for the others together.
        dropout: rho, the share of user-item edges left out of an epoch; the authors try 0.8 and 0.9.
        learning_rate: Adam's step size.
        batch_size: triples per step.
        reg_weight: lambda, the weight of the modality terms; the authors try 0 and 1e-5 to 1e-3.
        finetune_features: whether the features of the modality terms learn.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "dropout": (0.8, 0.9),
        "reg_weight": (0.0, 1e-5, 1e-4, 1e-3),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        n_layers: Annotated[int, Ge(1)] = 2,
        n_item_layers: Annotated[int, Ge(1)] = 1,
        n_neighbors: Annotated[int, Ge(1)] = 10,
        modality_weights: tuple[Annotated[float, Ge(0)], ...] = (),
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.8,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        batch_size: Annotated[int, Ge(1)] = 2048,
        reg_weight: Annotated[float, Ge(0)] = 1e-3,
        finetune_features: bool = True,
    ) -> None:
        super().__init__()
        self.n_layers, self.n_item_layers = n_layers, n_item_layers
        self.dropout, self.reg_weight = dropout, reg_weight
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.n_users, self.n_items = interactions.shape
        features = feature_matrices(features, self.n_items, "FREEDOM")
        self.embedding = nn.Parameter(torch.empty(self.n_users + self.n_items, embedding_dim))
        nn.init.xavier_uniform_(self.embedding.data[: self.n_users])
        nn.init.xavier_uniform_(self.embedding.data[self.n_users :])
        self.heads = ItemFeatures(features, embedding_dim, trainable=finetune_features) if reg_weight > 0 else None
        weights = graph_weights(list(features), modality_weights)
        self.item_graph = SparseMatrix(frozen_item_graph(features, n_neighbors, weights))
        self.graph = SymmetricGraph(normalize_symmetric(bipartite_adjacency(interactions)))
        self.sampled_graph = SampledGraph(interactions)
        # The small constant undoes rounding: 0.2 x 10 edges are 2.
        self.n_kept_edges = max(1, int(interactions.nnz * (1 - dropout) + 1e-6))
        self._encoded: tuple[Tensor, Tensor] | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Draw the edges of this epoch's user-item graph."""
        if self.dropout > 0:
            self.sampled_graph.keep(self.sampled_graph.draw(self.n_kept_edges))

    def similar_items(self) -> Tensor:
        """Return h = S^K E_I, [n_items, D]."""
        signal = self.embedding[self.n_users :]
        for _ in range(self.n_item_layers):
            signal = self.item_graph.propagate(signal)
        return signal

    def encode(self, graph: SymmetricGraph) -> tuple[Tensor, Tensor]:
        """Return the final embeddings of users, [n_users, D], and of items, [n_items, D].

        Args:
            graph: Ahat, `sampled_graph` in training or the whole `graph`.
        """
        nodes = graph.mean_of_layers(self.embedding, self.n_layers)
        return nodes[: self.n_users], nodes[self.n_users :] + self.similar_items()

    def loss(self, batch: Pairs) -> Tensor:
        """Return the BPR loss of the triples plus that of each modality's projections, a scalar."""
        self._encoded = None
        items = torch.cat((batch.positives, batch.negatives))
        nodes = self.sampled_graph.mean_of_layers(self.embedding, self.n_layers)
        rows = nodes.index_select(0, torch.cat((batch.users, items + self.n_users)))
        n_triples = len(batch.users)
        users = rows[:n_triples]
        positives, negatives = (rows[n_triples:] + self.similar_items().index_select(0, items)).chunk(2)
        ranking = bpr_loss((users * positives).sum(dim=1), (users * negatives).sum(dim=1))
        if self.heads is None:
            return ranking
        return ranking + self.reg_weight * self._modality_terms(self.heads, users, batch)

    def _modality_terms(self, heads: ItemFeatures, users: Tensor, batch: Pairs) -> Tensor:
        terms = []
        for modality in range(len(heads)):
            difference = heads.project_difference(modality, batch.positives, batch.negatives)
            gain = (users * difference).sum(dim=1)
            terms.append(bpr_loss(gain, torch.zeros_like(gain)))
        return torch.stack(terms).sum()

    def begin_scoring(self) -> None:
        """Encode once, over the whole graph, for all users that will be scored."""
        users, items = self.encode(self.graph)
        self._encoded = users.detach(), items.detach()

    def score(self, users: Tensor) -> Tensor:
        """Return the inner products of the users' and all items' final embeddings, [len(users), n_items]."""
        user_table, item_table = self.encode(self.graph) if self._encoded is None else self._encoded
        return user_table[users] @ item_table.T
