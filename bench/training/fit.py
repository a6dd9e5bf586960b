"""The fit loop, one for all models: train an epoch, validate, stop when validation stops gaining, keep the best.

The test split has no place here: the loop only ever sees the number that `validate` returns.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from bench.errors import TrainingError
from bench.training.batches import Batches, make_batches
from bench.training.meter import stopwatch
from bench.training.protocol import Batching, begin_epoch, optimizers_of, training_step
from bench.training.streams import borrowed, generator

Stopped = Literal["patience", "max_epochs", "closed_form"]


@dataclass(frozen=True)
class TrainingProtocol:
    """When training ends and which epoch is kept, the same for every model.

    Attributes:
        max_epochs: the most epochs trained.
        patience: training stops after this many evaluations in a row without a gain.
        monitor: the validation metric that decides, unrounded, larger is better.
        ties: which of two epochs with the same value is kept, the "first" (a gain must be strict) or the "last".
    """

    max_epochs: int = 1000
    patience: int = 20
    monitor: str = "recall@20"
    ties: Literal["first", "last"] = "first"

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol as plain values, for the run's record."""
        return asdict(self)


@dataclass(frozen=True)
class Epoch:
    """One row of a run's history.

    Attributes:
        epoch: counted from 1; 0 is a model that is complete once constructed.
        loss: mean training loss over the epoch's batches; NaN for epoch 0.
        valid: the monitored validation metric.
        train_s: seconds of sampling, forward, backward and update.
        valid_s: seconds of the validation pass.
    """

    epoch: int
    loss: float
    valid: float
    train_s: float
    valid_s: float


@dataclass(frozen=True)
class FitResult:
    """What a fit gave; the model itself holds the best epoch's weights."""

    history: list[Epoch]
    best_epoch: int
    best_value: float
    stopped: Stopped


def fit(
    model: nn.Module,
    interactions: csr_array,
    validate: Callable[[], float],
    protocol: TrainingProtocol,
    *,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> FitResult:
    """Train `model` in place and leave it with the weights of its best validation epoch.

    Args:
        model: on `device`, keeping the contract of `bench.training.protocol`.
        interactions: training matrix [n_users, n_items].
        validate: scores the model as it stands and returns the monitored metric.
        protocol: stopping rule.
        seed: the run's seed, from which the shuffle, negative and noise streams are derived.
        device: where to train.
        on_epoch: called after every epoch, for progress.

    Raises:
        TrainingError: the loss became NaN or infinite, with the epoch and step; or no batch can be made.
    """
    batching: Batching = model.batching  # type: ignore[assignment]
    if batching == "none":
        with stopwatch(device) as watch:
            value = validate()
        only = Epoch(0, math.nan, value, 0.0, watch.seconds)
        on_epoch(only)
        return FitResult([only], 0, value, "closed_form")
    batches = make_batches(
        batching,
        interactions,
        int(model.batch_size),  # type: ignore[arg-type]
        generator(seed, "shuffle", device),
        generator(seed, "negatives", device),
    )
    with borrowed(seed, "noise", device):
        return _fit_by_steps(model, batches, validate, protocol, device, on_epoch)


def _fit_by_steps(
    model: nn.Module,
    batches: Batches,
    validate: Callable[[], float],
    protocol: TrainingProtocol,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
) -> FitResult:
    optimizers = optimizers_of(model)
    history: list[Epoch] = []
    best_epoch, best_value = 0, -math.inf
    best_weights: dict[str, Tensor] = {}
    stopped: Stopped = "max_epochs"
    for number in range(1, protocol.max_epochs + 1):
        with stopwatch(device) as training:
            loss = train_epoch(model, batches, optimizers, number)
        with stopwatch(device) as validation:
            value = validate()
        epoch = Epoch(number, loss, value, training.seconds, validation.seconds)
        history.append(epoch)
        on_epoch(epoch)
        if value > best_value or (protocol.ties == "last" and value == best_value):
            best_epoch, best_value = number, value
            best_weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        elif number - best_epoch >= protocol.patience:
            stopped = "patience"
            break
    model.load_state_dict(best_weights)
    return FitResult(history, best_epoch, best_value, stopped)


def train_epoch(model: nn.Module, batches: Batches, optimizers: list[torch.optim.Optimizer], number: int) -> float:
    """Take one pass over the batches and return the mean loss.

    The losses stay on the device until the epoch's end, so that finding a bad one costs one transfer an epoch.

    Raises:
        TrainingError: a loss was NaN or infinite, with the first step it happened at.
    """
    model.train()
    begin_epoch(model, number)
    losses = torch.stack([training_step(model, batch, optimizers) for batch in batches.epoch()])
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        step = int((~finite).nonzero()[0, 0]) + 1
        raise TrainingError(
            f"The loss became {losses[step - 1].item()} in epoch {number}, step {step} of {len(losses)}. "
            "A smaller learning_rate or a larger weight_decay or reg_weight usually helps.",
            epoch=number,
            step=step,
        )
    return float(losses.mean())
