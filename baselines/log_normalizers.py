"""The part of a contrastive loss that meets all pairs: the logarithm of each anchor's sum over all others.

A matrix of all pairs is neither held nor gone through again: a block of anchors at a time, its exponentials give the
sums and at once both gradients. So memory is one block, whatever the number of others, and each exponential is taken
once. The rearrangement is that of Dao, Fu, Ermon, Rudra, Re, "FlashAttention", NeurIPS 2022, for a sum's logarithm.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Entries of one block of pairs: 2 MiB of float32, which stay in a core's cache, unless the others are so many that
# going through them and their gradient once a block would cost more.
BLOCK_ENTRIES = 1 << 19
LEAST_ANCHORS = 64
# exp(-60) = 9e-27
SMALLEST_EXPONENT = -60.0


def sum_of_log_normalizers(
    anchors: Tensor, others: Tensor, weights: Tensor, log_counts: Tensor | None = None
) -> Tensor:
    """Return sum_a w_a log( sum_j c_j exp(a . o_j) ), a scalar with gradients for anchors and others.

    Args:
        anchors: a, [A, D].
        others: o, [N, D].
        weights: w, [A], constant.
        log_counts: log c, [N], constant; None counts every other once.
    """
    total: Tensor = _LogNormalizers.apply(anchors, others, weights, log_counts)  # type: ignore[no-untyped-call]
    return total


class _LogNormalizers(torch.autograd.Function):
    """The sum, and its gradients as long as the exponentials are at hand."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, others: Tensor, weights: Tensor, log_counts: Tensor | None) -> Tensor:
        size = max(LEAST_ANCHORS, BLOCK_ENTRIES // max(1, len(others)))
        total = anchors.new_zeros(())
        of_anchors, of_others = torch.empty_like(anchors), torch.zeros_like(others)
        bias = anchors.new_zeros(1) if log_counts is None else log_counts
        blocks = zip(*(torch.split(table, size) for table in (anchors, weights, of_anchors)), strict=True)
        for block, of_block, gradient in blocks:
            logits = torch.addmm(bias, block, others.T)
            largest = logits.amax(dim=1, keepdim=True)
            # What is lost in a sum of at least 1 anyway is kept from becoming a denormal number: those are ten times
            # slower.
            exponentials = logits.sub_(largest).clamp_min_(SMALLEST_EXPONENT).exp_()
            sums = exponentials.sum(dim=1)
            total += torch.dot(of_block, sums.log() + largest[:, 0])
            shares = (of_block / sums)[:, None]
            torch.mm(exponentials, others, out=gradient).mul_(shares)
            of_others.addmm_(exponentials.T, block * shares)
        ctx.save_for_backward(of_anchors, of_others)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        of_anchors, of_others = ctx.saved_tensors
        return of_anchors * gradient, of_others * gradient, None, None
