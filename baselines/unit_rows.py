"""Rows divided by their length, with a gradient that takes half the passes over the table."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORTEST = 1e-12


def unit_rows(rows: Tensor) -> Tensor:
    """Return rows divided by their length along the last dimension, as `torch.nn.functional.normalize` does.

    Args:
        rows: [..., D]; a row of zeros stays.
    """
    units: Tensor = _UnitRows.apply(rows)  # type: ignore[no-untyped-call]
    return units


class _UnitRows(torch.autograd.Function):
    """x / |x|; the gradient is what is left of the incoming one without its part along x, over |x|."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min_(SHORTEST)
        units: Tensor = rows / lengths
        ctx.save_for_backward(units, lengths)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        units, lengths = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, units)[..., None]
        across: Tensor = torch.addcmul(gradient, units, along, value=-1.0)
        return across.div_(lengths)
