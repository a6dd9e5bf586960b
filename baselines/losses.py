"""Pairwise ranking loss and the two regularizers in use for it.

Papers name both "L2 regularization", but they are not interchangeable: the gradient of one grows with the
embeddings, that of the other has a constant length. A weight tuned for one means nothing for the other.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

Regularizer = Literal["squared", "norm"]


class Pairs(Protocol):
    """Training triples: users with one item of theirs and one drawn from the rest, int64 [B] each."""

    @property
    def users(self) -> Tensor:
        """User indices."""
        ...

    @property
    def positives(self) -> Tensor:
        """Items the users interacted with."""
        ...

    @property
    def negatives(self) -> Tensor:
        """Items they did not."""
        ...


def bpr_loss(positive_scores: Tensor, negative_scores: Tensor) -> Tensor:
    """Return -mean log sigmoid(s_ui - s_uj), a scalar.

    Written as softplus(s_uj - s_ui), which neither overflows nor needs a small constant inside the logarithm.

    Reference: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, BPR-OPT.

    Args:
        positive_scores: s_ui, [B].
        negative_scores: s_uj, [B].
    """
    return softplus(negative_scores - positive_scores).mean()


def squared_l2(*blocks: Tensor) -> Tensor:
    """Return (1 / 2B) of the sum of all squared entries, a scalar: the penalty of BPR and LightGCN.

    Args:
        blocks: the batch's embeddings, each [B, D]; all with the same B.
    """
    return torch.stack([block.square().sum() for block in blocks]).sum() / (2 * len(blocks[0]))


def l2_norm(*blocks: Tensor) -> Tensor:
    """Return (1 / B) of the sum of the blocks' Frobenius norms, not squared, a scalar.

    The penalty of MMRec and RecBole ("EmbLoss"): weights between 0.1 and 2 are normal here.

    Args:
        blocks: the batch's embeddings, each [B, D]; all with the same B.
    """
    return torch.stack([torch.linalg.vector_norm(block) for block in blocks]).sum() / len(blocks[0])


REGULARIZERS = {"squared": squared_l2, "norm": l2_norm}
