"""MF-BPR: matrix factorization trained to rank a user's items above the others.

Reference: Rendle, Freudenthaler, Gantner, Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from Implicit
Feedback", UAI 2009, with the factor model of Koren, Bell, Volinsky, "Matrix Factorization Techniques for Recommender
Systems", IEEE Computer 2009.

    s_ui = p_u . q_i
    loss = mean over triples (u, i, j) of -ln sigmoid(s_ui - s_uj), plus lambda reg

Readings taken:

- No bias terms, as in the implementations this baseline is usually quoted from.
- reg is squared, (1 / 2B) sum of |p_u|^2 + |q_i|^2 + |q_j|^2 over the batch, as in BPR. `reg="norm"` gives the
  unsquared norms of MMRec, to compare with its numbers; weights do not carry over from one to the other.

Deviation: mini-batches with Adam over shuffled interactions, as is usual today. The paper takes single steps of SGD
on triples drawn with replacement.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.losses import REGULARIZERS, Pairs, Regularizer, bpr_loss


class MFBPR(nn.Module):
    """Score by the inner product of a user and an item embedding.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: ignored.
        embedding_dim: width D of the embeddings.
        learning_rate: Adam's step size.
        batch_size: triples per step.
        reg_weight: lambda; with reg="squared" try 1e-5 to 1e-1, with reg="norm" 1e-5 to 2.
        reg: "squared" L2 of the batch's embeddings, or their unsquared "norm" as in MMRec.
        init: "xavier" normal per table, or "normal" with standard deviation 0.1.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "embedding_dim": (64, 128),
        "learning_rate": (1e-3, 2e-3, 5e-3),
        "reg_weight": (1e-4, 1e-3, 1e-2, 3e-2),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        batch_size: Annotated[int, Ge(1)] = 2048,
        reg_weight: Annotated[float, Ge(0)] = 1e-4,
        reg: Regularizer = "squared",
        init: Literal["xavier", "normal"] = "xavier",
    ) -> None:
        super().__init__()
        self.learning_rate, self.batch_size, self.reg_weight = learning_rate, batch_size, reg_weight
        self.regularizer = REGULARIZERS[reg]
        n_users, n_items = interactions.shape
        self.user_embedding = nn.Embedding(n_users, embedding_dim)
        self.item_embedding = nn.Embedding(n_items, embedding_dim)
        for table in (self.user_embedding.weight, self.item_embedding.weight):
            if init == "xavier":
                nn.init.xavier_normal_(table)
            else:
                nn.init.normal_(table, std=0.1)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the BPR loss of the triples plus the weighted penalty on their embeddings, a scalar."""
        # On a CPU the backward pass of index_select is 1.5 times faster than that of an embedding lookup.
        users = self.user_embedding.weight.index_select(0, batch.users)
        positives = self.item_embedding.weight.index_select(0, batch.positives)
        negatives = self.item_embedding.weight.index_select(0, batch.negatives)
        ranking = bpr_loss((users * positives).sum(dim=1), (users * negatives).sum(dim=1))
        return ranking + self.reg_weight * self.regularizer(users, positives, negatives)

    def score(self, users: Tensor) -> Tensor:
        """Return p_u . q_i for all items, [len(users), n_items]."""
        return self.user_embedding.weight[users] @ self.item_embedding.weight.T
