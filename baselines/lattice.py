"""LATTICE: a graph of similar items, relearned from the features every epoch, beside LightGCN.

Reference: Zhang, Zhu, Liu, Wu, Wang, Wang, "Mining Latent Structures for Multimedia Recommendation", ACM MM 2021,
arXiv 2104.09036; where the paper is silent, the authors' code. M modalities with raw features X_m.

    near_m(Z)     the cosines of Z at the k nearest items of each item, itself among them; zero elsewhere
    Lap(S)        D^{-1/2} S D^{-1/2},  D the row sums of S
    raw graph     S0 = sum_m alpha_m Lap(near(X_m)),  alpha = softmax(a)
    learned       S1 = Lap( sum_m alpha_m near(X_m W_m + b_m) )
    item graph    S = lambda S0 + (1 - lambda) S1
    user-item     [G_U; G_I] = mean of (D^{-1} (A + Id))^l [E_U; E_I] over l = 0..L
    final         user = G_U,  item = G_I + h / |h| with h = S^K E_I,  s_ui = user_u . item_i
    loss          BPR + beta / (2 B) sum of |final|^2 over the batch's users, positives and negatives

Readings taken:

- S is built anew in the first batch of an epoch, with gradient, and is a constant in the others, as in the authors'
  code. For scoring it is built from the parameters as they are then.
- W_m, b_m, a and X_m have a gradient in that first batch alone. The authors' code, run with the PyTorch of its time,
  left zeros in place of the gradients of the others, so Adam goes on moving these parameters by momentum in every
  batch: 5 to 8 step sizes per epoch of 30 to 60 batches, up to 20 with 500, instead of 1. `keep_momentum=False` moves
  them once per epoch.
- Lap takes row sums for both ends although S is directed; S1 mixes before it normalizes, S0 after. An item whose row
  does not add to more than 0 has no edges, where the authors' code gives NaN for a negative sum.
- The user-item part averages over neighbors and the node itself, D^{-1} (A + Id), where LightGCN normalizes both ends
  and has no self-loop.
- The penalty takes the final embeddings and divides by the configured batch size, so the last, shorter batch of an
  epoch counts less.
- X_m of S1 are parameters that start at the raw features; S0 keeps the raw ones. `finetune_features=False` leaves
  them as they are.
- The step size decays by 0.96 per 50 epochs. An epoch is one pass over the interactions, as in MMRec; the authors
  draw users.

Left out: NGCF as the user-item part. `backbone="mf"` has none, G = E.

Same value and gradient, less work: near(Z) is searched in blocks without gradient and only its I k cosines are
computed again with it, so no I x I matrix exists.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from scipy.sparse import csr_array, eye_array
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from baselines.graph import SparseMatrix, SymmetricGraph, bipartite_adjacency, normalize_symmetric
from baselines.item_features import ItemFeatures
from baselines.item_graph import nearest_items, neighbor_matrix
from baselines.learning_rate import decay_learning_rate
from baselines.losses import Pairs, bpr_loss, squared_l2
from baselines.modalities import feature_matrices


class MeanPropagation(nn.Module):
    """Averages over a node's neighbors and itself, P = D^{-1} (A + Id), [N, N].

    P = D^{-1/2} T D^{1/2} with a symmetric T, so P^l = D^{-1/2} T^l D^{1/2}, and the layers run over T, whose gradient
    needs no transpose.

    Args:
        interactions: training matrix R, [n_users, n_items], binary.
    """

    root_degrees: Tensor

    def __init__(self, interactions: csr_array) -> None:
        super().__init__()
        adjacency = bipartite_adjacency(interactions)
        looped = csr_array(adjacency + eye_array(adjacency.shape[0], dtype=np.float32, format="csr"))
        roots = np.sqrt(np.asarray(looped.sum(axis=1), dtype=np.float64)).astype(np.float32)
        self.graph = SymmetricGraph(normalize_symmetric(looped))
        self.register_buffer("root_degrees", torch.from_numpy(roots).view(-1, 1), persistent=False)

    def mean_of_layers(self, nodes: Tensor, n_layers: int, rows: Tensor) -> Tensor:
        """Return the given rows of (E + P E + ... + P^L E) / (L + 1), [len(rows), D].

        Args:
            nodes: E, [N, D].
            n_layers: L.
            rows: int64.
        """
        mean = self.graph.mean_of_layers(nodes * self.root_degrees, n_layers)
        return mean.index_select(0, rows) / self.root_degrees.index_select(0, rows)


def inverse_roots(sums: Tensor) -> Tensor:
    """Return sums^{-1/2}, and 0 for sums that are not positive."""
    return torch.where(sums > 0, sums.clamp_min(1e-12).rsqrt(), 0.0)


def laplacian(places: Tensor, weights: Tensor) -> Tensor:
    """Return the weights of Lap(S), [n_items, n], differentiable.

    Args:
        places: columns of the entries of S, int64 [n_items, n]; entries at repeated places add.
        weights: the entries, [n_items, n].
    """
    scale = inverse_roots(weights.sum(dim=1))
    return weights * scale.unsqueeze(1) * scale.index_select(0, places.view(-1)).view_as(weights)


def near(table: Tensor, n_neighbors: int) -> tuple[Tensor, Tensor]:
    """Return the nearest items and their cosines, both [n_items, k]; the cosines are differentiable.

    Args:
        table: Z, [n_items, width].
        n_neighbors: k; all items if there are fewer.
    """
    places, _ = nearest_items(table, n_neighbors)
    rows = normalize(table, dim=1, eps=1e-12)
    neighbors = rows.index_select(0, places.view(-1)).view(*places.shape, -1)
    return places, (neighbors @ rows.unsqueeze(2)).squeeze(2)


class LATTICE(nn.Module):
    """Score by the inner product of smoothed embeddings, with those of similar items added to an item's.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: raw features by modality, [n_items, width] each; at least one.
        embedding_dim: width D of the embeddings.
        hidden_dim: width of the projected features.
        n_layers: layers L over the user-item graph.
        n_item_layers: layers K over the item graph.
        n_neighbors: k, nearest items of each item in the item graphs, itself included.
        raw_graph_share: lambda, how much of the item graph is the raw one.
        backbone: the user-item part, "lightgcn" or "mf" for none.
        learning_rate: Adam's step size in the first epoch; MMRec tries 1e-4 to 5e-3, the authors take 5e-4.
        learning_rate_decay: factor per 50 epochs, applied smoothly; 1 keeps the step size.
        batch_size: triples per step.
        reg_weight: beta; MMRec tries 0 and 1e-5 to 1e-3, the authors take 1e-5.
        finetune_features: whether the features learn.
        keep_momentum: whether momentum moves the item graph's parameters in batches that do not rebuild it.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "learning_rate": (1e-4, 5e-4, 1e-3, 5e-3),
        "reg_weight": (0.0, 1e-5, 1e-4, 1e-3),
    }
    raw_places: Tensor
    raw_weights: Tensor

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        hidden_dim: Annotated[int, Ge(1)] = 64,
        n_layers: Annotated[int, Ge(1)] = 2,
        n_item_layers: Annotated[int, Ge(1)] = 1,
        n_neighbors: Annotated[int, Ge(1)] = 10,
        raw_graph_share: Annotated[float, Interval(ge=0, le=1)] = 0.9,
        backbone: Literal["lightgcn", "mf"] = "lightgcn",
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        learning_rate_decay: Annotated[float, Gt(0)] = 0.96,
        batch_size: Annotated[int, Ge(1)] = 2048,
        reg_weight: Annotated[float, Ge(0)] = 1e-5,
        finetune_features: bool = True,
        keep_momentum: bool = True,
    ) -> None:
        super().__init__()
        self.n_layers, self.n_item_layers = n_layers, n_item_layers
        self.n_neighbors, self.raw_graph_share = n_neighbors, raw_graph_share
        self.learning_rate, self.learning_rate_decay = learning_rate, learning_rate_decay
        self.batch_size, self.reg_weight, self.keep_momentum = batch_size, reg_weight, keep_momentum
        self.n_users, self.n_items = interactions.shape
        features = feature_matrices(features, self.n_items, "LATTICE")
        self.embedding = nn.Parameter(torch.empty(self.n_users + self.n_items, embedding_dim))
        nn.init.xavier_uniform_(self.embedding.data[: self.n_users])
        nn.init.xavier_uniform_(self.embedding.data[self.n_users :])
        self.features = ItemFeatures(features, hidden_dim, trainable=finetune_features)
        self.modality_logits = nn.Parameter(torch.full((len(self.features),), 0.5))
        self.propagation = MeanPropagation(interactions) if backbone == "lightgcn" else None
        raw = [nearest_items(features[name], n_neighbors) for name in self.features.names]
        raw_weights = [laplacian(places, cosines) for places, cosines in raw]
        self.register_buffer("raw_places", torch.cat([places for places, _ in raw], dim=1), persistent=False)
        self.register_buffer("raw_weights", torch.stack(raw_weights, dim=1), persistent=False)
        self._item_graph: SparseMatrix | None = None
        self._own_optimizers: list[torch.optim.Optimizer] = []
        self._encoded: tuple[Tensor, Tensor] | None = None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the one Adam whose step size decays."""
        self._own_optimizers = [torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)]
        return self._own_optimizers

    def begin_epoch(self, epoch: int) -> None:
        """Set the step size of this epoch and have its first batch rebuild the item graph."""
        self._item_graph = None
        decay_learning_rate(self._own_optimizers, self.learning_rate, self.learning_rate_decay, epoch)

    def training_step(self, batch: Pairs, optimizers: Sequence[torch.optim.Optimizer]) -> Tensor:
        """Take one step; with `keep_momentum`, one in which parameters without a gradient have one of zero."""
        # The embeddings have a gradient in every step: none need be zeroed and added to.
        self.embedding.grad = None
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=not self.keep_momentum)
        loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach()

    def item_edges(self) -> tuple[Tensor, Tensor]:
        """Return places and weights of S, both [n_items, 2 M k], differentiable; repeated places add."""
        shares = self.modality_logits.softmax(dim=0)
        found = [near(self.features.project(modality), self.n_neighbors) for modality in range(len(self.features))]
        places = torch.cat([indices for indices, _ in found], dim=1)
        cosines = torch.cat([share * values for share, (_, values) in zip(shares, found, strict=True)], dim=1)
        raw_weights = (self.raw_weights * shares.view(1, -1, 1)).flatten(1)
        weights = (1 - self.raw_graph_share) * laplacian(places, cosines), self.raw_graph_share * raw_weights
        return torch.cat((places, self.raw_places), dim=1), torch.cat(weights, dim=1)

    def similar_items(self) -> Tensor:
        """Return h = S^K E_I, [n_items, D]; S is rebuilt, with gradient, if it is the epoch's first batch."""
        signal = self.embedding[self.n_users :]
        if self._item_graph is None:
            places, weights = self.item_edges()
            graph = SparseMatrix(neighbor_matrix(places, weights, self.n_items))
            self._item_graph = graph.to(signal.device)
            return self._through_edges(signal, places, weights)
        for _ in range(self.n_item_layers):
            signal = self._item_graph.propagate(signal)
        return signal

    def _through_edges(self, signal: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        for _ in range(self.n_item_layers):
            signal = embedding_bag(places, signal, mode="sum", per_sample_weights=weights)
        return signal

    def collaborative(self, nodes: Tensor) -> Tensor:
        """Return these rows of [G_U; G_I], [len(nodes), D]."""
        if self.propagation is None:
            return self.embedding.index_select(0, nodes)
        return self.propagation.mean_of_layers(self.embedding, self.n_layers, nodes)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the BPR loss of the triples plus the weighted penalty on their final embeddings, a scalar."""
        self._encoded = None
        items = torch.cat((batch.positives, batch.negatives))
        n_triples = len(batch.users)
        rows = self.collaborative(torch.cat((batch.users, items + self.n_users)))
        similar = normalize(self.similar_items().index_select(0, items), dim=1, eps=1e-12)
        users = rows[:n_triples]
        positives, negatives = (rows[n_triples:] + similar).chunk(2)
        ranking = bpr_loss((users * positives).sum(dim=1), (users * negatives).sum(dim=1))
        penalty = squared_l2(users, positives, negatives) * (n_triples / self.batch_size)
        return ranking + self.reg_weight * penalty

    def encode(self) -> tuple[Tensor, Tensor]:
        """Return the final embeddings of users, [n_users, D], and of items, [n_items, D], with S as of now."""
        rows = self.collaborative(torch.arange(self.n_users + self.n_items, device=self.embedding.device))
        similar = self._through_edges(self.embedding[self.n_users :], *self.item_edges())
        return rows[: self.n_users], rows[self.n_users :] + normalize(similar, dim=1, eps=1e-12)

    def begin_scoring(self) -> None:
        """Build S and encode, once for all users that will be scored."""
        users, items = self.encode()
        self._encoded = users.detach(), items.detach()

    def score(self, users: Tensor) -> Tensor:
        """Return the inner products of the users' and all items' final embeddings, [len(users), n_items]."""
        user_table, item_table = self.encode() if self._encoded is None else self._encoded
        return user_table[users] @ item_table.T
