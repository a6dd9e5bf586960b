"""An exponential decay of the step size over epochs, for models published with one."""

from collections.abc import Iterable

from torch.optim import Optimizer

PERIOD = 50


def decay_learning_rate(optimizers: Iterable[Optimizer], learning_rate: float, decay: float, epoch: int) -> None:
    """Set the step size of an epoch, learning_rate * decay^((epoch - 1) / 50).

    The decay is smooth: it acts on every epoch, by so much that 50 of them make one factor.

    Args:
        optimizers: whose step size is set.
        learning_rate: the step size of the first epoch.
        decay: the factor per 50 epochs; 1 leaves the step size as it is.
        epoch: counted from 1.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * decay ** ((epoch - 1) / PERIOD)
