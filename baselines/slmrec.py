"""SLMRec: one graph per modality and one of identities, fused, with a contrastive chain from identity to modalities.

Reference: Tao, Liu, Xia, Wang, Yang, Huang, Chua, "Self-supervised Learning for Multimedia Recommendation", IEEE
Transactions on Multimedia 2022, doi 10.1109/TMM.2022.3187556; where the paper is silent, the authors' code, and MMRec.

    Y_0 = E_I,  Y_m = (x_m / |x_m|) V_m + v_m            item inputs, m = 1..M in the order of the chain
    [u^m; i^m] = (Y + A Y + ... + A^L Y) / (L + 1)       Y = [E_U; Y_m], A = D^{-1/2} [[0, R], [R^T, 0]] D^{-1/2}
    u = [u^0 | ... | u^M] W_u + b_u                      item vectors i alike, with W_i, b_i
    L_main = -mean over pairs (u, i) of log softmax over the batch's items j of cos(u, j) / t, at j = i
    a_m = a_{m-1} G_m + g_m,  a_0 = i^0                  fine and coarse task (FAC)
    b_m = i^m H_m + h_m
    L_m = -mean over the batch's items of log softmax over the batch's items j of a_m . b_m(j) / t_ssl, at j = i
    loss = L_main + alpha (L_1 + ... + L_M)
    s_ui = u . i

Readings taken:

- Every propagation starts from the same user table E_U, as in the authors' code.
- FAC alone, the task of MMRec and the authors' default; feature dropout and masking (FD, FM) are left out. Its vectors
  are not normalized, and the last of M >= 2 maps goes to D / 2, both as in the code.
- The chain runs visual, acoustic, text as in the authors' code, then any others by name; `modality_order` sets it.
- With two modalities, MMRec keeps the map that led to the missing third one: the chain passes it, unaligned, before the
  last alignment. `extra_map=False` leaves it out.
- Scores are inner products of vectors that are trained by cosines, as in the code. It takes their sigmoid, which
  ranks alike until it saturates at 1 in float32: `score_by="sigmoid"`. `score_by="cosine"` ranks as trained.
- `weight_decay` is Adam's own L2 on all parameters, and the only penalty: a `reg` in the codes' settings is never read.
- An item that is several times in a batch is a negative of itself, as in the code.

Deviation: scoring propagates anew, where the code keeps what the last training step propagated.

Every softmax here is over distinct items with their number of occurrences as weight, and over distinct users, which is
the same value and gradient: on skewed data most pairs of a batch repeat a user or an item. Because A is linear, E_U is
propagated once and not once per modality.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import normalize

from baselines.graph import SparseMatrix, bipartite_adjacency, normalize_symmetric
from baselines.log_normalizers import sum_of_log_normalizers
from baselines.losses import Pairs
from baselines.modalities import FeatureTables, feature_matrices
from baselines.unit_rows import unit_rows

Product = Callable[[Tensor], Tensor]
AUTHORS_ORDER = ("visual", "acoustic", "text")


class Propagated(NamedTuple):
    """The two shares of one side's vectors u^m or i^m, times L + 1: from that side's input and from the other's.

    Attributes:
        shared: what comes from E_U and is the same for all m, [n, D].
        views: what comes from Y_0..Y_M, side by side, [n, (M + 1) D].
    """

    shared: Tensor
    views: Tensor


class Occurrences(NamedTuple):
    """The distinct entries of a batch's column.

    Attributes:
        distinct: int64 [n].
        places: which of them stands in each row of the batch, int64 [B].
        counts: how often each of them stands there, int64 [n].
    """

    distinct: Tensor
    places: Tensor
    counts: Tensor

    def shares(self) -> Tensor:
        """Return which share of the batch each of them is, [n]."""
        return self.counts / len(self.places)


def occurrences(column: Tensor) -> Occurrences:
    """Return the distinct entries of int64 [B]."""
    return Occurrences(*torch.unique(column, return_inverse=True, return_counts=True))


class SLMRec(nn.Module):
    """Score by the inner product of user and item vectors fused from identity and modality graphs.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: at least one modality, [n_items, width] each.
        embedding_dim: width D of all vectors.
        n_layers: propagation layers L.
        fusion: "concat" and a linear map, or the "mean" and a linear map.
        temperature: t of the main loss.
        ssl_weight: alpha; MMRec tries 0.01 to 1.
        ssl_temperature: t_ssl; MMRec tries 0.1 to 1.
        modality_order: the chain's order, every modality once; empty for the authors' order.
        extra_map: with two modalities, one more map before the last alignment, as in MMRec.
        score_by: "dot", "sigmoid" or "cosine".
        learning_rate: Adam's step size; MMRec tries 1e-4 to 0.1.
        weight_decay: Adam's L2 penalty on all parameters.
        batch_size: user-item pairs per step; their negatives are not used.

    Raises:
        ValueError: if there are no features, they do not fit the items, or modality_order does not name them all.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "learning_rate": (1e-4, 1e-3, 1e-2, 1e-1),
        "ssl_weight": (0.01, 0.05, 0.1, 0.5, 1.0),
        "ssl_temperature": (0.1, 0.2, 0.5, 1.0),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(2)] = 64,
        n_layers: Annotated[int, Ge(1)] = 3,
        fusion: Literal["concat", "mean"] = "concat",
        temperature: Annotated[float, Gt(0)] = 0.2,
        ssl_weight: Annotated[float, Ge(0)] = 0.1,
        ssl_temperature: Annotated[float, Gt(0)] = 0.2,
        modality_order: tuple[str, ...] = (),
        extra_map: bool = True,
        score_by: Literal["dot", "sigmoid", "cosine"] = "dot",
        learning_rate: Annotated[float, Gt(0)] = 0.01,
        weight_decay: Annotated[float, Ge(0)] = 1e-4,
        batch_size: Annotated[int, Ge(1)] = 2048,
    ) -> None:
        super().__init__()
        n_users, n_items = interactions.shape
        matrices = feature_matrices(features, n_items, "SLMRec")
        order, width = chain_order(list(matrices), modality_order), embedding_dim
        self.embedding_dim, self.n_layers, self.fusion, self.score_by = width, n_layers, fusion, score_by
        self.temperature, self.ssl_weight, self.ssl_temperature = temperature, ssl_weight, ssl_temperature
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        adjacency = normalize_symmetric(bipartite_adjacency(interactions))
        self.graph = SparseMatrix(csr_array(adjacency[:n_users, n_users:]))
        self.features = FeatureTables([normalize(matrices[name], dim=1) for name in order], trainable=False)
        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, width)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_items, width)))
        self.projections = nn.ModuleList(_linear(columns, width) for columns in self.features.widths)
        fused = (1 + len(order)) * width if fusion == "concat" else width
        self.user_fusion, self.item_fusion = _linear(fused, width), _linear(fused, width)
        self.chain, self.partners = nn.ModuleList(), nn.ModuleList()
        for number in range(1, len(order) + 1):
            last = number == len(order) and number > 1
            extra = [_linear(width, width)] if last and number == 2 and extra_map else []
            self.chain.append(nn.Sequential(*extra, _linear(width, width // 2 if last else width)))
            self.partners.append(_linear(width, width // 2 if last else width))
        self._vectors: tuple[Tensor, Tensor] | None = None

    def propagate(self) -> tuple[Propagated, Propagated]:
        """Return what L layers give for users and items."""
        tables = self.features.tables()
        projected = [layer(table) for layer, table in zip(self.projections, tables, strict=True)]
        inputs = torch.cat((self.item_embedding, *projected), dim=1)
        to_users, to_items = self.graph.propagate, self.graph.propagate_back
        users_shared, items_shared = self._hops(self.user_embedding, to_items, to_users)
        items_views, users_views = self._hops(inputs, to_users, to_items)
        return Propagated(users_shared, users_views), Propagated(items_shared, items_views)

    def views(self, propagated: Propagated, nodes: Tensor | None = None) -> Tensor:
        """Return u^0..u^M or i^0..i^M, [n, M + 1, D].

        Args:
            propagated: of users or items.
            nodes: which of them, int64 [n], or None for all.
        """
        shared, views = propagated
        if nodes is not None:
            shared, views = shared.index_select(0, nodes), views.index_select(0, nodes)
        shape = (len(views), 1 + len(self.projections), self.embedding_dim)
        return (views.view(shape) + shared[:, None]) / (self.n_layers + 1)

    def fuse(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return u, [n_u, D], and i, [n_i, D], of their views, [n_u, M + 1, D] and [n_i, M + 1, D]."""
        if self.fusion == "concat":
            return self.user_fusion(users.flatten(1)), self.item_fusion(items.flatten(1))
        return self.user_fusion(users.mean(dim=1)), self.item_fusion(items.mean(dim=1))

    def loss(self, batch: Pairs) -> Tensor:
        """Return the main loss of the pairs plus the weighted losses of the contrastive chain, a scalar."""
        self._vectors = None
        users, items = occurrences(batch.users), occurrences(batch.positives)
        of_users, of_items = self.propagate()
        views = self.views(of_items, items.distinct)
        main = self.main_loss(*self.fuse(self.views(of_users, users.distinct), views), users, items)
        return main + self.ssl_weight * self.chain_loss(views, items)

    def main_loss(self, user_vectors: Tensor, item_vectors: Tensor, users: Occurrences, items: Occurrences) -> Tensor:
        """Return L_main of the vectors u and i of the distinct users and items, a scalar."""
        u, i = unit_rows(user_vectors) / self.temperature, unit_rows(item_vectors)
        own = (u.index_select(0, users.places) * i.index_select(0, items.places)).sum(dim=1)
        return sum_of_log_normalizers(u, i, users.shares(), items.counts.log()) - own.mean()

    def chain_loss(self, views: Tensor, items: Occurrences) -> Tensor:
        """Return L_1 + ... + L_M of the distinct items' views, [n, M + 1, D], a scalar."""
        anchor, total = views[:, 0], views.new_zeros(())
        for number, (link, partner) in enumerate(zip(self.chain, self.partners, strict=True), start=1):
            anchor, other = link(anchor), partner(views[:, number]) / self.ssl_temperature
            normalizers = sum_of_log_normalizers(anchor, other, items.shares(), items.counts.log())
            total = total + normalizers - torch.dot(items.shares(), (anchor * other).sum(dim=1))
        return total

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return u, [n_users, D], and i, [n_items, D], of all users and items, of length 1 with score_by="cosine"."""
        of_users, of_items = self.propagate()
        users, items = self.fuse(self.views(of_users), self.views(of_items))
        return (normalize(users, dim=1), normalize(items, dim=1)) if self.score_by == "cosine" else (users, items)

    def begin_scoring(self) -> None:
        """Propagate and fuse once for all users that will be scored."""
        users, items = self.vectors()
        self._vectors = users.detach(), items.detach()

    def score(self, users: Tensor) -> Tensor:
        """Return s_ui for all items, [len(users), n_items]."""
        all_users, all_items = self.vectors() if self._vectors is None else self._vectors
        scores = all_users[users] @ all_items.T
        return scores.sigmoid_() if self.score_by == "sigmoid" else scores

    def _hops(self, table: Tensor, leave: Product, come_back: Product) -> tuple[Tensor, Tensor]:
        """Return the sums of hops 0, 2, .. and of hops 1, 3, .. up to L of one side's input."""
        even, odd = table, leave(table)
        latest = odd
        for hop in range(2, self.n_layers + 1):
            latest = leave(latest) if hop % 2 else come_back(latest)
            even, odd = (even, odd + latest) if hop % 2 else (even + latest, odd)
        return even, odd


def chain_order(modalities: list[str], chosen: tuple[str, ...]) -> list[str]:
    """Return the modalities in the order of the chain.

    Args:
        modalities: their names.
        chosen: the order wished for; empty for visual, acoustic, text, then any others by name.

    Raises:
        ValueError: if `chosen` is neither empty nor an order of the modalities.
    """
    if chosen and sorted(chosen) != sorted(modalities):
        raise ValueError(
            f"SLMRec's modality_order must name every modality once, found {', '.join(chosen)} for the modalities "
            f"{', '.join(sorted(modalities))}."
        )
    known = [name for name in AUTHORS_ORDER if name in modalities]
    return list(chosen) or known + sorted(set(modalities) - set(known))


def _linear(n_inputs: int, n_outputs: int) -> nn.Linear:
    """Build a linear layer with Xavier uniform weights and PyTorch's usual bias."""
    layer = nn.Linear(n_inputs, n_outputs)
    nn.init.xavier_uniform_(layer.weight)
    return layer
