"""BM3: representations of users, items and features predict each other's dropped-out copies; no negatives.

Reference: Zhou, Zhou, Liu, Zeng, Miao, Wang, You, Jiang, "Bootstrap Latent Representations for Multi-modal
Recommendation", WWW 2023, arXiv 2207.05969; where the paper is silent or differs, the authors' code.

    h_m = e_m W_m + b_m                                  features e_m, modality m
    [H_u; G_i] = (E + A E + ... + A^L E) / (L + 1)       A = D^{-1/2} [[0, R], [R^T, 0]] D^{-1/2}
    H_i = G_i + E_i                                      the items' own embeddings once more
    q(h) = h W_p + b_p                                   the predictor, one for all
    t(h) = dropout(h), taken as a constant               the target view
    C(a, b) = 1 - mean over the batch of cos(a, b)

    L_rec   = C(q(h_u), t(h_i)) + C(q(h_i), t(h_u))
    L_align = sum over m of C(q(h_m), t(h_i))
    L_mask  = sum over m of C(q(h_m), t(h_m))
    loss    = L_rec + c (L_align + L_mask) + lambda (|H_u|_F + |H_i|_F) / |I|
    s_ui    = q(h_u) . q(h_i)

Readings taken:

- c = 2 (`cl_weight`) and the unsquared norms of the whole propagated tables, as in the authors' code. The paper adds
  the three losses as they are: `cl_weight=1`. `reg="squared"` gives (|H_u|^2 + |H_i|^2) / 2|I|.
- A is LightGCN's, without self-loops, transformations or activations, as in the code.
- The raw features e_m are the initial values of trained tables, as in the code. `finetune_features=False` keeps them
  as they came; the cost of a step then no longer grows with the catalog's features.
- Scores are inner products although the losses are cosines, and features play no part in them, as in the code.

Predictor, projections and dropout see the batch's rows and not all users and items, which changes no value. A user or
an item that is several times in a batch has one mask for all, as in the code.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from baselines.graph import SymmetricGraph, bipartite_adjacency, normalize_symmetric
from baselines.losses import REGULARIZERS, Pairs, Regularizer
from baselines.modalities import FeatureTables, feature_matrices


def mismatch(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return C, 1 minus the mean cosine of matching rows, a scalar in [0, 2].

    Args:
        predictions: [B, D].
        targets: [B, D]; detached by the caller, because no gradient may pull them towards the predictions.
    """
    return 1.0 - cosine_similarity(predictions, targets, dim=1, eps=1e-8).mean()


class BM3(nn.Module):
    """Score by the inner product of predicted user and item representations, learned without negatives.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: at least one modality, [n_items, width] each.
        embedding_dim: width D of the representations.
        n_layers: propagation layers L; the authors try 1 and 2.
        dropout: share of a target view's entries dropped; the authors try 0.3 and 0.5.
        cl_weight: c, weight of the losses on features.
        reg_weight: lambda; the authors try 0.1 and 0.01.
        reg: the "norm" of the propagated tables as in the authors' code, or their "squared" L2.
        finetune_features: train the raw features too.
        learning_rate: Adam's step size.
        weight_decay: Adam's L2 penalty on all parameters.
        batch_size: user-item pairs per step; their negatives are not used.

    Raises:
        ValueError: if there are no features, or they do not fit the items.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "n_layers": (1, 2),
        "dropout": (0.3, 0.5),
        "reg_weight": (0.1, 0.01),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        n_layers: Annotated[int, Ge(1)] = 1,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.3,
        cl_weight: Annotated[float, Ge(0)] = 2.0,
        reg_weight: Annotated[float, Ge(0)] = 0.1,
        reg: Regularizer = "norm",
        finetune_features: bool = True,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
        batch_size: Annotated[int, Ge(1)] = 2048,
    ) -> None:
        super().__init__()
        self.n_users, self.n_items = interactions.shape
        matrices = feature_matrices(features, self.n_items, "BM3")
        self.n_layers, self.dropout = n_layers, dropout
        self.cl_weight, self.reg_weight, self.regularizer = cl_weight, reg_weight, REGULARIZERS[reg]
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.graph = SymmetricGraph(normalize_symmetric(bipartite_adjacency(interactions)))
        self.embedding = nn.Parameter(torch.empty(self.n_users + self.n_items, embedding_dim))
        for table in (self.embedding.data[: self.n_users], self.embedding.data[self.n_users :]):
            nn.init.xavier_uniform_(table)
        self.predictor = _linear(embedding_dim, embedding_dim)
        self.features = FeatureTables(list(matrices.values()), trainable=finetune_features)
        self.projections = nn.ModuleList(_linear(width, embedding_dim) for width in self.features.widths)
        self._predicted: tuple[Tensor, Tensor] | None = None

    def represent(self) -> tuple[Tensor, Tensor]:
        """Return H_u, [n_users, D], and H_i, [n_items, D]."""
        sizes = [self.n_users, self.n_items]
        users, items = torch.split(self.graph.mean_of_layers(self.embedding, self.n_layers), sizes)
        return users, items + torch.split(self.embedding, sizes)[1]

    def project(self, items: Tensor) -> list[Tensor]:
        """Return h_m of these items for every modality, each [len(items), D]."""
        rows = self.features.rows(items)
        return [layer(row) for layer, row in zip(self.projections, rows, strict=True)]

    def loss(self, batch: Pairs) -> Tensor:
        """Return the loss of the pairs plus the weighted penalty on all representations, a scalar."""
        self._predicted = None
        all_users, all_items = self.represent()
        users, items = all_users.index_select(0, batch.users), all_items.index_select(0, batch.positives)
        views = torch.cat((users, items, *self.project(batch.positives)))
        n_views = 2 + len(self.projections)
        of_user, of_item, *of_features = self.predictor(views).chunk(n_views)
        user, item, *own = self.drop_out(views.detach(), batch).chunk(n_views)
        reconstruction = mismatch(of_user, item) + mismatch(of_item, user)
        alignment = torch.stack([mismatch(prediction, item) for prediction in of_features]).sum()
        masked = torch.stack([mismatch(*pair) for pair in zip(of_features, own, strict=True)]).sum()
        # The regularizers divide by the rows of their first block: the items.
        penalty = self.regularizer(all_items, all_users)
        return reconstruction + self.cl_weight * (alignment + masked) + self.reg_weight * penalty

    def drop_out(self, targets: Tensor, batch: Pairs) -> Tensor:
        """Return t(h), [n_views * B, D]: in training a share of the entries is zero, the same for equal users or items.

        The others keep their size: a cosine does not see the usual factor 1 / (1 - p), and comparing uniform numbers
        with p is three times faster on a CPU than drawing a mask for `torch.nn.functional.dropout`.

        Args:
            targets: h of the batch's users, then each other view of its items, [n_views * B, D].
            batch: the pairs.
        """
        if not self.training:
            return targets
        n_item_views = len(targets) // len(batch.users) - 1
        kept = []
        for rows, n_views in ((batch.users, 1), (batch.positives, n_item_views)):
            distinct, places = torch.unique(rows, return_inverse=True)
            drawn = torch.rand(n_views, len(distinct), targets.shape[1], device=targets.device)
            kept.append((drawn >= self.dropout).index_select(1, places).flatten(0, 1))
        return targets * torch.cat(kept)

    def predict(self) -> tuple[Tensor, Tensor]:
        """Return q(H_u), [n_users, D], and q(H_i), [n_items, D]."""
        users, items = self.represent()
        return self.predictor(users), self.predictor(items)

    def begin_scoring(self) -> None:
        """Propagate and predict once for all users that will be scored."""
        users, items = self.predict()
        self._predicted = users.detach(), items.detach()

    def score(self, users: Tensor) -> Tensor:
        """Return q(h_u) . q(h_i) for all items, [len(users), n_items]."""
        all_users, all_items = self.predict() if self._predicted is None else self._predicted
        return all_users[users] @ all_items.T


def _linear(n_inputs: int, n_outputs: int) -> nn.Linear:
    """Build a linear layer with weights N(0, 2 / (inputs + outputs)) and PyTorch's usual bias."""
    layer = nn.Linear(n_inputs, n_outputs)
    nn.init.xavier_normal_(layer.weight)
    return layer
