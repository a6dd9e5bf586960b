"""The contrastive loss that graph and multimedia models share, in its usual forms."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def info_nce(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Return -mean_b log( exp(cos(a_b, o_b) / t) / sum_c exp(cos(a_b, o_c) / t) ), a scalar.

    Every other row of the batch is a negative; the pair itself is in the denominator. One direction: anchors look for
    their partner among the others.

    Reference: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, with cosine
    similarity as in Chen et al., "SimCLR", ICML 2020.

    Args:
        anchors: [B, D].
        others: [B, D], row b the partner of anchor b.
        temperature: t, above 0.
    """
    # Divided before the product: B x D numbers instead of B x B.
    logits = (normalize(anchors, dim=1) / temperature) @ normalize(others, dim=1).T
    return cross_entropy(logits, torch.arange(len(anchors), device=anchors.device))
