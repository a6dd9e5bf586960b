"""A fixed workload that says how fast this machine is right now.

Costs are compared between machines, and between days on one machine, as ratios to it. It mixes what the models spend
their time on: dense products, gathers of embedding rows with their backward, and element-wise updates of whole tables.
"""

import statistics

import torch
from torch.nn.functional import embedding

from bench.training import stopwatch

REPEATS = 7


def calibrate(device: torch.device) -> float:
    """Return the median seconds of the calibration workload on `device`, after one unmeasured pass."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(384, 384, generator=generator).to(device) for _ in range(2))
    table = torch.randn(4096, 64, generator=generator).to(device).requires_grad_()
    rows = torch.randint(4096, (20_000,), generator=generator).to(device)
    seconds = []
    for repeat in range(1 + REPEATS):
        with stopwatch(device) as watch:
            _workload(left, right, table, rows)
        if repeat > 0:
            seconds.append(watch.seconds)
    return statistics.median(seconds)


def _workload(left: torch.Tensor, right: torch.Tensor, table: torch.Tensor, rows: torch.Tensor) -> None:
    for _ in range(10):
        product = left @ right
        product.tanh_()
        picked = embedding(rows, table)
        (gradient,) = torch.autograd.grad((picked * picked).sum(), table)
        gradient.mul_(0.9).addcmul_(gradient, gradient, value=1e-3).sqrt_()
