"""MGCN: item embeddings gated by their features, propagated in views and fused by behavior.

Reference: Yu, Tan, Lu, Bao, "Multi-View Graph Convolutional Network for Multimedia Recommendation", ACM MM 2023,
arXiv 2308.03588; where the paper is silent, the authors' code. M modalities with raw features X_m.

    purifier      y_m = E_I * sigmoid(f_m G_m + g_m),  f_m = X_m W_m + b_m               * is entry by entry
    user-item     C = mean of Ahat^l [E_U; E_I] over l = 0..L,  Ahat = D^{-1/2} A D^{-1/2}
    item-item     z_m = [Rhat S_m^K y_m; S_m^K y_m]                Rhat: the users' rows of Ahat, items' columns
    fuser         a = softmax over m of tanh(z_m Q + q) c,  common = sum_m a_m z_m       Q, q, c shared by all m
                  side = (common + sum_m sigmoid(C P_m + p_m) * (z_m - common)) / (M + 1)
    final         C + side,  s_ui = final_u . final_i
    loss          BPR + lambda / (2 B) sum of |final|^2 over the batch's users, positives and negatives
                  + beta { NCE(side_i, C_i) over the positives + NCE(side_u, C_u) over the users }

S_m = D_m^{-1/2} K_m D_m^{-1/2}, where K_m holds the cosines of X_m at the k nearest items of each item, itself among
them, and D_m their row sums. NCE is InfoNCE by cosine with temperature t.

Readings taken:

- D_m takes row sums for both ends although K_m is directed, as in the authors' code. An item whose row does not add
  to more than 0 has no edges, where that code gives NaN for a negative sum.
- The penalty takes the final embeddings and divides by the configured batch size, so the last, shorter batch of an
  epoch counts less. Both as in the authors' code.
- NCE has one direction, from side to content, and items or users that repeat in a batch are negatives of each other.
  `unique_contrast=True` counts each once.
- X_m are parameters that start at the raw features, as in the authors' code; S_m keeps the raw ones.
  `finetune_features=False` leaves them as they are.
- The step size decays by 0.96 per 50 epochs, as in the authors' code.
- The paper has two modalities and divides by 3; M + 1 is what that means for others.

Same value, less work: attention and gates are row by row and computed for the batch's nodes only, each once however
often it occurs; NCE runs over the distinct rows, weighted by how often they occur.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.graph import SparseMatrix, SymmetricGraph, bipartite_adjacency, normalize_symmetric
from baselines.item_features import ItemFeatures
from baselines.item_graph import nearest_items, neighbor_matrix, normalize_by_rows
from baselines.learning_rate import decay_learning_rate
from baselines.log_normalizers import sum_of_log_normalizers
from baselines.losses import Pairs, bpr_loss, squared_l2
from baselines.modalities import feature_matrices
from baselines.unit_rows import unit_rows


def similarity_graph(features: Tensor, n_neighbors: int) -> csr_array:
    """Return S_m = D^{-1/2} K D^{-1/2} with the cosines of the nearest items as K, [n_items, n_items].

    Args:
        features: X_m, [n_items, width].
        n_neighbors: k, the item itself among them; all items if there are fewer.
    """
    indices, cosines = nearest_items(features, n_neighbors)
    return normalize_by_rows(neighbor_matrix(indices, cosines, len(features)))


def repeated_info_nce(anchors: Tensor, others: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE of a batch in which row b occurs counts[b] times, a scalar.

    The same as `info_nce` of the repeated rows, at the cost of the distinct ones.

    Args:
        anchors: [n, D].
        others: [n, D], row b the partner of anchor b.
        counts: int64 [n], at least 1.
        temperature: t, above 0.
    """
    shares = counts / counts.sum()
    # Scaling one small factor spares a pass over all pairs.
    anchors, others = unit_rows(anchors) / temperature, unit_rows(others)
    own = (anchors * others).sum(dim=1)
    return sum_of_log_normalizers(anchors, others, shares, counts.log()) - torch.dot(shares, own)


def _distinct(nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct nodes [n], the place of each given one among them, and how often each occurs [n]."""
    distinct: tuple[Tensor, Tensor, Tensor] = torch.unique(nodes, return_inverse=True, return_counts=True)
    return distinct


class MGCN(nn.Module):
    """Score by the inner product of embeddings that join what users did and what items look like.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: raw features by modality, [n_items, width] each; at least one.
        embedding_dim: width D of the embeddings.
        n_layers: layers L over the user-item graph.
        n_item_layers: layers K over each item graph.
        n_neighbors: k, nearest items of each item in the item graphs, itself included.
        temperature: t of the contrastive terms.
        contrast_weight: beta; the authors try 0.001, 0.01 and 0.1 and advise 0.01.
        unique_contrast: whether a user or item that repeats in a batch counts once in the contrastive terms.
        learning_rate: Adam's step size in the first epoch.
        learning_rate_decay: factor per 50 epochs, applied smoothly; 1 keeps the step size.
        batch_size: triples per step.
        reg_weight: lambda.
        finetune_features: whether the features learn.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "contrast_weight": (0.001, 0.01, 0.1),
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
        temperature: Annotated[float, Gt(0)] = 0.2,
        contrast_weight: Annotated[float, Ge(0)] = 0.01,
        unique_contrast: bool = False,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        learning_rate_decay: Annotated[float, Gt(0)] = 0.96,
        batch_size: Annotated[int, Ge(1)] = 2048,
        reg_weight: Annotated[float, Ge(0)] = 1e-4,
        finetune_features: bool = True,
    ) -> None:
        super().__init__()
        self.n_layers, self.n_item_layers = n_layers, n_item_layers
        self.temperature, self.contrast_weight, self.unique_contrast = temperature, contrast_weight, unique_contrast
        self.learning_rate, self.learning_rate_decay = learning_rate, learning_rate_decay
        self.batch_size, self.reg_weight = batch_size, reg_weight
        self.n_users, self.n_items = interactions.shape
        features = feature_matrices(features, self.n_items, "MGCN")
        width = embedding_dim
        self.embedding = nn.Parameter(torch.empty(self.n_users + self.n_items, width))
        nn.init.xavier_uniform_(self.embedding.data[: self.n_users])
        nn.init.xavier_uniform_(self.embedding.data[self.n_users :])
        self.features = ItemFeatures(features, width, trainable=finetune_features)
        self.purifiers = nn.ModuleList(nn.Linear(width, width) for _ in self.features.names)
        self.preferences = nn.ModuleList(nn.Linear(width, width) for _ in self.features.names)
        self.attention = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
        adjacency = normalize_symmetric(bipartite_adjacency(interactions))
        self.graph = SymmetricGraph(adjacency)
        self.users_of_items = SparseMatrix(adjacency[: self.n_users, self.n_users :])
        self.item_graphs = nn.ModuleList(
            SparseMatrix(similarity_graph(features[name], n_neighbors)) for name in self.features.names
        )
        self._own_optimizers: list[torch.optim.Optimizer] = []
        self._final: Tensor | None = None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the one Adam whose step size decays."""
        self._own_optimizers = [torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)]
        return self._own_optimizers

    def begin_epoch(self, epoch: int) -> None:
        """Set the step size of this epoch."""
        decay_learning_rate(self._own_optimizers, self.learning_rate, self.learning_rate_decay, epoch)

    def views(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return C, [n_users + n_items, D], and each z_m, its users, [n_users, D], and items, [n_items, D], apart."""
        content = self.graph.mean_of_layers(self.embedding, self.n_layers)
        items = self.embedding[self.n_users :]
        views = []
        for modality, (purifier, item_graph) in enumerate(zip(self.purifiers, self.item_graphs, strict=True)):
            signal = items * torch.sigmoid(purifier(self.features.project(modality)))
            for _ in range(self.n_item_layers):
                signal = item_graph.propagate(signal)  # type: ignore[operator]
            views.append((self.users_of_items.propagate(signal), signal))
        return content, views

    def fuse(self, content: Tensor, views: list[Tensor]) -> Tensor:
        """Return `side` of some nodes, [n, D].

        Args:
            content: their rows of C, [n, D].
            views: their rows of each z_m, [n, D].
        """
        attention = torch.cat([self.attention(view) for view in views], dim=1).softmax(dim=1)
        common = (attention.T.unsqueeze(2) * torch.stack(views)).sum(dim=0)
        side = common
        for view, preference in zip(views, self.preferences, strict=True):
            side = side + torch.sigmoid(preference(content)) * (view - common)
        return side / (len(views) + 1)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the BPR loss of the triples, the penalty on their final embeddings and the contrastive terms."""
        self._final = None
        n_triples = len(batch.users)
        users, user_rows, user_counts = _distinct(batch.users)
        items, item_rows, _ = _distinct(torch.cat((batch.positives, batch.negatives)))
        table, views = self.views()
        content = table.index_select(0, torch.cat((users, items + self.n_users)))
        side = self.fuse(content, [torch.cat((u.index_select(0, users), i.index_select(0, items))) for u, i in views])
        triples = (content + side).index_select(0, torch.cat((user_rows, item_rows + len(users))))
        user, positive, negative = triples.chunk(3)
        loss = bpr_loss((user * positive).sum(dim=1), (user * negative).sum(dim=1))
        loss = loss + self.reg_weight * squared_l2(user, positive, negative) * (n_triples / self.batch_size)
        if self.contrast_weight == 0:
            return loss
        n_users = len(users)
        item_counts = torch.bincount(item_rows[:n_triples], minlength=len(items))
        seen = item_counts.nonzero()[:, 0]
        contrast = self._contrast(side[n_users:][seen], content[n_users:][seen], item_counts[seen])
        contrast = contrast + self._contrast(side[:n_users], content[:n_users], user_counts)
        return loss + self.contrast_weight * contrast

    def _contrast(self, side: Tensor, content: Tensor, counts: Tensor) -> Tensor:
        counts = torch.ones_like(counts) if self.unique_contrast else counts
        return repeated_info_nce(side, content, counts, self.temperature)

    def encode(self) -> Tensor:
        """Return the final embeddings C + side of all nodes, users first, [n_users + n_items, D]."""
        content, views = self.views()
        return content + self.fuse(content, [torch.cat(view) for view in views])

    def begin_scoring(self) -> None:
        """Encode once for all users that will be scored."""
        self._final = self.encode().detach()

    def score(self, users: Tensor) -> Tensor:
        """Return the inner products of the users' and all items' final embeddings, [len(users), n_items]."""
        nodes = self.encode() if self._final is None else self._final
        return nodes[users] @ nodes[self.n_users :].T
