"""VBPR: matrix factorization whose items have a second half, a linear map of their features.

Reference: He, McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI 2016, arXiv
1510.01784, as MMRec reads it, from which this baseline is usually quoted.

    x_i    = [x_i^(1) | ... | x_i^(M)]                   raw features of all modalities, constant
    q_i    = [gamma_i | E x_i + b]                       item vector, 2D wide
    p_u    = [gamma_u | theta_u]                         user vector, 2D wide
    s_ui   = p_u . q_i = gamma_u . gamma_i + theta_u . (E x_i + b)
    loss   = mean over triples (u, i, j) of -ln sigmoid(s_ui - s_uj), plus lambda reg
    biases = True adds beta_i + beta' . x_i to s_ui, the item's bias and the visual bias of the paper

The paper's global offset and user bias cancel in s_ui - s_uj and are left out.

Readings taken:

- All modalities, concatenated, as in MMRec; the paper has visual features alone, which is this model on a dataset
  with one modality.
- No biases but the projection's own b, as in MMRec; `biases=True` for the paper's score.
- reg is (1 / B) (|p|_F + |q_i|_F + |q_j|_F), unsquared, over the batch's stacked vectors, E x_i + b included, as in
  MMRec. `reg="squared"` gives (1 / 2B) of the squares, the paper's form; it still penalizes E through E x_i + b and
  not directly. With biases, the batch's beta_i + beta' . x_i and beta_j + beta' . x_j are penalized in the same way.
- Features enter as they are. Those with large norms make the second half outweigh the first at the start; scaling
  them changes the results and is left to the dataset.
- D = 64 for each half as in MMRec. gamma and theta start Xavier uniform over the whole user table, E Xavier normal,
  all biases at 0.

Deviation: mini-batches with Adam over shuffled interactions, as is usual today, where the paper takes single steps of
SGD. Only the batch's distinct items are projected, which changes neither value nor gradient.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.losses import REGULARIZERS, Pairs, Regularizer, bpr_loss
from baselines.modalities import FeatureTables, feature_matrices


class VBPR(nn.Module):
    """Score by the inner product of a user vector and an item's embedding next to its projected features.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: at least one modality, [n_items, width] each.
        embedding_dim: width D of either half.
        biases: add an item bias and a linear bias of the features.
        learning_rate: Adam's step size.
        weight_decay: Adam's L2 penalty on all parameters.
        batch_size: triples per step.
        reg_weight: lambda; MMRec tries 1e-5 to 2 with reg="norm"; with reg="squared" try 1e-5 to 1e-1.
        reg: unsquared "norm" of the batch's vectors as in MMRec, or their "squared" L2.

    Raises:
        ValueError: if there are no features, or they do not fit the items.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "learning_rate": (1e-3, 3e-3),
        "reg_weight": (2.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        biases: bool = False,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
        batch_size: Annotated[int, Ge(1)] = 2048,
        reg_weight: Annotated[float, Ge(0)] = 2.0,
        reg: Regularizer = "norm",
    ) -> None:
        super().__init__()
        n_users, n_items = interactions.shape
        matrices = feature_matrices(features, n_items, "VBPR")
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.reg_weight, self.regularizer = reg_weight, REGULARIZERS[reg]
        self.features = FeatureTables(list(matrices.values()), trainable=False)
        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, 2 * embedding_dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_items, embedding_dim)))
        self.projection = nn.Linear(sum(self.features.widths), embedding_dim)
        nn.init.xavier_normal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.biases = biases
        if biases:
            self.item_bias = nn.Parameter(torch.zeros(n_items, 1))
            self.feature_bias = nn.Parameter(torch.zeros(1, self.projection.in_features))
        self._items: tuple[Tensor, Tensor] | None = None

    def item_vectors(self, embeddings: Tensor, rows: list[Tensor]) -> Tensor:
        """Return q_i of some items, [n, 2D].

        Args:
            embeddings: gamma_i, [n, D].
            rows: x_i, one [n, width] per modality.
        """
        return torch.cat((embeddings, self._product(rows, self.projection.weight) + self.projection.bias), dim=1)

    def item_biases(self, biases: Tensor, rows: list[Tensor]) -> Tensor:
        """Return beta_i + beta' . x_i of some items, [n, 1].

        Args:
            biases: beta_i, [n, 1].
            rows: x_i, one [n, width] per modality.
        """
        return biases + self._product(rows, self.feature_bias)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the BPR loss of the triples plus the weighted penalty on their vectors, a scalar."""
        self._items = None
        distinct, places = torch.unique(torch.cat((batch.positives, batch.negatives)), return_inverse=True)
        rows = self.features.rows(distinct)
        vectors = self.item_vectors(self.item_embedding.index_select(0, distinct), rows)
        users = self.user_embedding.index_select(0, batch.users)
        positives, negatives = vectors.index_select(0, places).chunk(2)
        of_positives, of_negatives = (users * positives).sum(dim=1), (users * negatives).sum(dim=1)
        blocks = [users, positives, negatives]
        if self.biases:
            biases = self.item_biases(self.item_bias.index_select(0, distinct), rows)
            blocks += biases.index_select(0, places).chunk(2)
            of_positives, of_negatives = of_positives + blocks[3][:, 0], of_negatives + blocks[4][:, 0]
        return bpr_loss(of_positives, of_negatives) + self.reg_weight * self.regularizer(*blocks)

    def all_items(self) -> tuple[Tensor, Tensor]:
        """Return q_i, [n_items, 2D], and the bias, [n_items, 1] or 0 where there is none, of all items."""
        tables = self.features.tables()
        vectors = self.item_vectors(self.item_embedding, tables)
        return vectors, self.item_biases(self.item_bias, tables) if self.biases else vectors.new_zeros(1, 1)

    def begin_scoring(self) -> None:
        """Project all items once for all users that will be scored."""
        vectors, biases = self.all_items()
        self._items = vectors.detach(), biases.detach()

    def score(self, users: Tensor) -> Tensor:
        """Return s_ui for all items, [len(users), n_items]."""
        vectors, biases = self.all_items() if self._items is None else self._items
        return torch.addmm(biases.T, self.user_embedding[users], vectors.T)

    def _product(self, rows: list[Tensor], weight: Tensor) -> Tensor:
        """Return [x_i^(1) | ... | x_i^(M)] W^T, [n, outputs], without copying the modalities into one matrix."""
        parts = torch.split(weight, self.features.widths, dim=1)
        return torch.stack([row @ part.T for row, part in zip(rows, parts, strict=True)]).sum(dim=0)
