"""MMSSL: modality features smoothed over the user-item graph, beside adversarial and contrastive side tasks.

Reference: Wei, Huang, Xia, Zhang, "Multi-Modal Self-Supervised Learning for Recommendation", WWW 2023, arXiv
2302.10632; where paper and code differ, the authors' code as it runs.

    x_m  = dropout(X_m W_m + b_m)                        features X_m, modality m
    fu_m = Au x_m,  fi_m = Ai fu_m                       Au = D_u^{-1/2} R,  Ai = D_i^{-1/2} R^T
    eu_m = G_m E_I,  ei_m = G'_m E_U                     E: embeddings of IDs, G_m: graph of modality m
    z    = attention over m of e_m                       4 heads
    u_0  = E_U + 0.36 zu / |zu|,  i_0 = E_I + 0.36 zi / |zi|
    u_l  = Au i_{l-1},  i_l = Ai u_l,  l = 1..L          both through a softmax over their columns at l = L
    user = mean of u_0..u_L + 0.55 sum_m fu_m / |fu_m|,  item alike;  s_ui = user . item

    N(P, Y) = rows of (P Y^T) * (1 - R) divided by their length
    fake    = N(fu_m, fi_m) for each m;  real = rows of softmax(R) + 100 N(user, item) divided by their length
    loss_D  = mean D(fake) - mean D(real) + 0.3 mean (|grad of D at mixed rows| - 1)^2
    CL_m    = -mean log( exp(cos(eu_m, user) / t) / sum of exp(cos / t) over the other eu_m and all users )
    loss    = BPR + lambda |batch|^2 / 2B + lambda_f sum_m (|fu_m|^2 + |fi_m|^2) / 2|I| + c sum_m CL_m
              - g mean D(fake)

One update of the critic D (`baselines.row_critic`) on every step, then one of the model against the updated critic.

Readings taken. The released code differs from the paper in ways that decide what the model is. The defaults are what
it comes to when it runs, because others can only have compared with that; the paper's reading is a switch:

- `modality_graph="released"`: G_m starts as the training graph and is then replaced by the 1e-4 |I| best items of the
  users of one batch, rounded down, for one step in each epoch. In all other steps from the third on and in every
  evaluation it is empty. Then z is 0 and CL_m a constant, and both are left out here, from the first step. "refresh"
  is the paper's graph: at the start of each epoch every user's best items by fu_m . fi_m, at least one, their own
  counting 0. "train" keeps the training graph.
- `attention="identity"`: the released values are indexed like the queries, so their softmax weights add to 1 and every
  head returns e_m itself. "cross_modal" is the paper's attention. Of no effect on an empty graph.
- `critic_slope=1.0`: True in the place of the leaky ReLU's slope makes it the identity; 0.2 is the usual.
- AdamW with its customary decay of 0.01, because the released code never passes another; its learning rate schedule is
  created but not stepped.

Deviations:

- The critic's layers have |I| / 4 and |I| / 8 columns in the released code, but not more than `critic_dims` here: its
  memory is |I|^2 / 4 otherwise. With the released weight g the critic moves only W_m and b_m, by at most 0.01 in loss.
- Real rows are softmax(R + 0.002 Gumbel noise) in the released code. Beside 100 N the noise is 3e-7 of a row's length,
  which is the rounding error of such a row; it is left out.
- Critic and model share one forward pass and its dropout mask.
- A batch has pairs from one pass over all interactions; the released one draws users, each with one item. Rows of D and
  CL take each user of a batch once, as released.
- |batch|^2 is divided by the size of the batch, not by the configured one, which differs for the last batch only; and
  no 1e-8 is added inside the logarithm of CL_m.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt, Interval
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.dropout import drop
from baselines.graph import SparseMatrix
from baselines.losses import Pairs, bpr_loss, squared_l2
from baselines.modalities import FeatureTables, feature_matrices
from baselines.modality_views import Attention, BestItems, ModalityAttention, contrast, unit
from baselines.row_critic import Predicted, RowCritic
from baselines.row_normalization import normalize_one_side
from baselines.seen_items import Seen
from ld4mrec.rows import UserRows

Graph = Literal["released", "train", "refresh"]


class Side(NamedTuple):
    """What one forward pass gives for users or for items.

    Attributes:
        layers: sum of u_0..u_L or i_0..i_L, [n, D].
        features: fu_m or fi_m, [n, M, D].
        views: eu_m or ei_m, [n, M, D]; [n, 1, D] if they are the same for all m, None if they are empty.
    """

    layers: Tensor
    features: Tensor
    views: Tensor | None


class Encoded(NamedTuple):
    """Embeddings of all users and items.

    Attributes:
        users: [U, D].
        items: [I, D].
        feature_users: fu_m, [U, M, D].
        feature_items: fi_m, [I, M, D].
    """

    users: Tensor
    items: Tensor
    feature_users: Tensor
    feature_items: Tensor


class _Step(NamedTuple):
    """One forward pass in training and what all parts of the loss take of it.

    Attributes:
        users: of all users.
        items: of all items.
        distinct: the batch's users, each once, int64 [B'].
        places: which of them stands in each row of the batch, int64 [B].
        finals: final embeddings of the distinct users, [B', D].
        fake: rows of scores by features of the distinct users; None if there is no critic to judge them.
    """

    users: Side
    items: Side
    distinct: Tensor
    places: Tensor
    finals: Tensor
    fake: Predicted | None


class MMSSL(nn.Module):
    """Score by the inner product of ID embeddings and features, both smoothed over the user-item graph.

    Memory grows with the nodes times the modalities times embedding_dim, and with the items times critic_dims[0].

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: raw features by modality, [n_items, width] each.
        embedding_dim: width D.
        n_layers: propagation layers L of the IDs.
        dropout: share of the projected features dropped in training.
        feature_weight: weight of the features in the embeddings; 0.55.
        graph_weight: weight of what comes from the modalities' graphs; 0.36.
        modality_graph: G_m, "released" (empty), "train" or "refresh".
        neighbor_share: items of a user in G_m as a share of all, at least one item, for "refresh".
        attention: "identity" as released or "cross_modal".
        n_heads: heads of the attention.
        cl_weight: c.
        temperature: t.
        adversarial: whether there is a critic; without it a step costs a fraction.
        adversarial_weight: g.
        critic_dims: most columns of the critic's hidden layers; |I| / 4 and |I| / 8 where that is less.
        critic_slope: slope of the critic's activation for negative values.
        critic_learning_rate: step size of the critic's Adam.
        penalty_weight: weight of the gradient penalty.
        reg_weight: lambda, of the squared norm of the batch's final embeddings.
        feature_reg_weight: lambda_f.
        learning_rate: AdamW's step size.
        weight_decay: AdamW's decoupled weight decay.
        batch_size: triples per step; every step propagates over the whole graph, whatever its size.

    Raises:
        ValueError: there is no modality, its rows do not fit the items, or critic_dims are not two positive widths.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "adversarial_weight": (1e-4, 1e-3, 1e-2),
        "reg_weight": (1e-5, 1e-4, 1e-3),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        n_layers: Annotated[int, Ge(1)] = 2,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.2,
        feature_weight: Annotated[float, Ge(0)] = 0.55,
        graph_weight: Annotated[float, Ge(0)] = 0.36,
        modality_graph: Graph = "released",
        neighbor_share: Annotated[float, Interval(ge=0, le=1)] = 1e-4,
        attention: Attention = "identity",
        n_heads: Annotated[int, Ge(1)] = 4,
        cl_weight: Annotated[float, Ge(0)] = 0.03,
        temperature: Annotated[float, Gt(0)] = 0.5,
        adversarial: bool = True,
        adversarial_weight: Annotated[float, Ge(0)] = 1e-4,
        critic_dims: tuple[int, ...] = (256, 128),
        critic_slope: Annotated[float, Ge(0)] = 1.0,
        critic_learning_rate: Annotated[float, Gt(0)] = 3e-4,
        penalty_weight: Annotated[float, Ge(0)] = 0.3,
        reg_weight: Annotated[float, Ge(0)] = 1e-5,
        feature_reg_weight: Annotated[float, Ge(0)] = 1e-5,
        learning_rate: Annotated[float, Gt(0)] = 5.5e-4,
        weight_decay: Annotated[float, Ge(0)] = 0.01,
        batch_size: Annotated[int, Ge(1)] = 1024,
    ) -> None:
        super().__init__()
        self.n_users, self.n_items = interactions.shape
        matrices = feature_matrices(features, self.n_items, "MMSSL")
        if len(critic_dims) != 2 or min(critic_dims) < 1:
            raise ValueError(f"MMSSL's critic_dims expects two widths, each at least 1, found {critic_dims}.")
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.n_layers, self.dropout, self.temperature = n_layers, dropout, temperature
        self.feature_weight, self.graph_weight, self.cl_weight = feature_weight, graph_weight, cl_weight
        self.adversarial_weight, self.penalty_weight = adversarial_weight, penalty_weight
        self.critic_learning_rate = critic_learning_rate
        self.reg_weight, self.feature_reg_weight = reg_weight, feature_reg_weight
        self.modality_graph = modality_graph

        self.rows = UserRows(interactions)
        self.to_users = SparseMatrix(normalize_one_side(interactions, 0.5))
        self.to_items = SparseMatrix(normalize_one_side(csr_array(interactions.T), 0.5))
        self.features = FeatureTables([matrix.float() for matrix in matrices.values()], trainable=False)
        self.projections = nn.ModuleList(nn.Linear(width, embedding_dim) for width in self.features.widths)
        for layer in self.projections:
            nn.init.xavier_uniform_(layer.get_parameter("weight"))
        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_users, embedding_dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_items, embedding_dim)))
        self.attention = None
        if modality_graph != "released":
            self.attention = ModalityAttention(embedding_dim, n_heads, attention)
        self.best_items = None
        if modality_graph == "refresh":
            n_chosen = min(self.n_items, max(1, int(self.n_items * neighbor_share)))
            self.best_items = BestItems(self.n_users, len(matrices), n_chosen)
            self.refresh()
        self.critic = None
        if adversarial:
            widths = (max(1, min(limit, self.n_items // part)) for limit, part in zip(critic_dims, (4, 8), strict=True))
            self.critic = RowCritic(self.n_items, (next(widths), next(widths)), critic_slope)
        self._encoded: Encoded | None = None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return AdamW for the model, and Adam for the critic where there is one."""
        critic = [] if self.critic is None else list(self.critic.parameters())
        own = [parameter for name, parameter in self.named_parameters() if not name.startswith("critic.")]
        adam = torch.optim.AdamW(own, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        if not critic:
            return [adam]
        return [adam, torch.optim.Adam(critic, lr=self.critic_learning_rate, betas=(0.5, 0.9), fused=True)]

    def begin_epoch(self, epoch: int) -> None:
        """Choose every user's items in the modalities' graphs anew; the first epoch has the constructor's."""
        if epoch > 1:
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Choose every user's best items by the features as they are projected now; of no effect without such."""
        if self.best_items is not None:
            self.best_items.choose(*self.smooth_features(0.0), self.rows)

    def smooth_features(self, share_dropped: float) -> tuple[Tensor, Tensor]:
        """Return fu and fi, [U, M, D] and [I, M, D].

        Args:
            share_dropped: of the projected features.
        """
        tables = zip(self.projections, self.features.tables(), strict=True)
        projected = drop(torch.cat([project(table) for project, table in tables], dim=1), share_dropped, training=True)
        # All modalities side by side go through the graph at once.
        users = self.to_users.propagate(projected)
        items = self.to_items.propagate(users)
        n_modalities = len(self.projections)
        return users.view(self.n_users, n_modalities, -1), items.view(self.n_items, n_modalities, -1)

    def modality_views(self) -> tuple[Tensor, Tensor]:
        """Return eu_m and ei_m, [U, M, D] and [I, M, D], with M = 1 on the training graph, the same for all m."""
        if self.best_items is not None:
            return self.best_items.smooth(self.user_embedding, self.item_embedding)
        users, items = self.to_users.propagate(self.item_embedding), self.to_items.propagate(self.user_embedding)
        return users[:, None], items[:, None]

    def propagate(self, share_dropped: float = 0.0) -> tuple[Side, Side]:
        """Return what the graphs make of users and of items.

        Args:
            share_dropped: of the projected features.
        """
        feature_users, feature_items = self.smooth_features(share_dropped)
        of_users = of_items = None
        user: Tensor = self.user_embedding
        item: Tensor = self.item_embedding
        if self.attention is not None:
            of_users, of_items = self.modality_views()
            user = user + self.graph_weight * unit(self.attention(of_users))
            item = item + self.graph_weight * unit(self.attention(of_items))
        users, items = user, item
        for layer in range(1, self.n_layers + 1):
            user = self.to_users.propagate(item)
            user = user.softmax(dim=1) if layer == self.n_layers else user
            item = self.to_items.propagate(user)
            item = item.softmax(dim=1) if layer == self.n_layers else item
            users, items = users + user, items + item
        return Side(users, feature_users, of_users), Side(items, feature_items, of_items)

    def final(self, layers: Tensor, features: Tensor) -> Tensor:
        """Return final embeddings, [n, D].

        Args:
            layers: of a `Side`, some rows of it or all, [n, D].
            features: likewise, [n, M, D].
        """
        return layers / (self.n_layers + 1) + self.feature_weight * unit(features).sum(dim=1)

    def encode(self) -> Encoded:
        """Return the embeddings of all users and items, without dropout."""
        users, items = self.propagate()
        final_users, final_items = (self.final(side.layers, side.features) for side in (users, items))
        return Encoded(final_users, final_items, users.features, items.features)

    def training_step(self, batch: Pairs, optimizers: Sequence[torch.optim.Optimizer]) -> Tensor:
        """Update the critic, then the model against the updated critic; return the model's loss."""
        step = self._begin(batch)
        if self.critic is not None and step.fake is not None:
            optimizers[1].zero_grad(set_to_none=True)
            with torch.no_grad():
                items = self.final(step.items.layers, step.items.features)
                own = Predicted.of(step.finals.detach()[:, None], items[:, None], step.fake.seen)
            critic_loss = self.critic.loss(own, step.fake, self.penalty_weight)
            critic_loss.backward()  # type: ignore[no-untyped-call]
            optimizers[1].step()
        optimizers[0].zero_grad(set_to_none=True)
        loss = self._loss(batch, step)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers[0].step()
        return loss

    def loss(self, batch: Pairs) -> Tensor:
        """Return the model's loss against the critic as it stands, a scalar."""
        return self._loss(batch, self._begin(batch))

    def _begin(self, batch: Pairs) -> "_Step":
        self._encoded = None
        users, items = self.propagate(self.dropout if self.training else 0.0)
        distinct, places = torch.unique(batch.users, return_inverse=True)
        features = users.features.index_select(0, distinct)
        finals = self.final(users.layers.index_select(0, distinct), features)
        fake = None
        # Batch normalization has nothing to say about a single row.
        if self.critic is not None and len(distinct) > 1:
            fake = Predicted.of(features, items.features, Seen.of(self.rows, distinct))
        return _Step(users, items, distinct, places, finals, fake)

    def _loss(self, batch: Pairs, step: "_Step") -> Tensor:
        users = step.finals.index_select(0, step.places)
        drawn = torch.cat((batch.positives, batch.negatives))
        items = self.final(step.items.layers.index_select(0, drawn), step.items.features.index_select(0, drawn))
        positives, negatives = items.chunk(2)
        loss: Tensor = bpr_loss((users * positives).sum(dim=1), (users * negatives).sum(dim=1))
        loss = loss + self.reg_weight * squared_l2(users, positives, negatives)
        flat = (side.features.flatten() for side in (step.users, step.items))
        squares = torch.stack([torch.dot(features, features) for features in flat]).sum()
        loss = loss + self.feature_reg_weight * squares / (2 * self.n_items)
        if step.users.views is not None:
            views = step.users.views.index_select(0, step.distinct).unbind(1)
            terms = torch.stack([contrast(view, step.finals, self.temperature) for view in views])
            loss = loss + self.cl_weight * terms.mean() * len(self.projections)
        if self.critic is not None and self.adversarial_weight > 0 and step.fake is not None:
            loss = loss - self.adversarial_weight * self.critic.judge(step.fake)
        return loss

    def begin_scoring(self) -> None:
        """Encode users and items once for all users that will be scored."""
        with torch.no_grad():
            self._encoded = self.encode()

    def score(self, users: Tensor) -> Tensor:
        """Return user . item for all items, [len(users), n_items]."""
        of_users, of_items, *_ = self.encode() if self._encoded is None else self._encoded
        return of_users[users] @ of_items.T
