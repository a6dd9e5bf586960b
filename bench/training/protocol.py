"""What the harness asks of a model, and what it hands to one.

A model is a `torch.nn.Module` built as `Model(interactions, features, **hyperparameters)` from plain values:

- `interactions`: `scipy.sparse.csr_array` [n_users, n_items], float32, binary, training positives only;
- `features`: mapping from modality name to a float32 tensor [n_items, width]; general models ignore it;
- hyper-parameters: keyword-only, annotated, each with a default. They are the model's only configuration.

It names the batches it learns from in a class attribute `batching` and offers `loss` and `score`. A model that is
complete once constructed (a closed form, a count) says `batching = "none"` and needs no `loss`.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bench.errors import UsageError

Batching = Literal["pairs", "users", "none"]
BATCHINGS: tuple[Batching, ...] = ("pairs", "users", "none")


class PairBatch(NamedTuple):
    """Training triples: each user with one item of theirs and one drawn from the rest.

    All three are int64 tensors [B] on the training device.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor


class UserBatch(NamedTuple):
    """Whole users: int64 [B] on the training device. The model reads their rows from its own `interactions`."""

    users: Tensor


@runtime_checkable
class Recommender(Protocol):
    """The least a model must offer; the optional hooks below have their defaults here."""

    batching: ClassVar[Batching]

    def score(self, users: Tensor) -> Tensor:
        """Return the scores of all items for these users, [len(users), n_items]; higher ranks first."""
        ...


class TrainedRecommender(Recommender, Protocol):
    """A recommender that learns by gradient steps."""

    batch_size: int
    learning_rate: float

    def loss(self, batch: PairBatch | UserBatch) -> Tensor:
        """Return the finite scalar to minimise on this batch."""
        ...


def check_recommender(cls: type, where: str) -> None:
    """Refuse a class that does not keep the contract, naming all that is missing.

    Args:
        cls: the class to check, before any instance exists.
        where: how the user named it, for the message.

    Raises:
        UsageError: with every fault found.
    """
    faults = []
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UsageError(f"Model '{where}' must be a torch.nn.Module class, found {cls!r}.")
    batching = getattr(cls, "batching", None)
    if batching not in BATCHINGS:
        faults.append(f"class attribute batching must be one of {', '.join(BATCHINGS)}, found {batching!r}")
    if not callable(getattr(cls, "score", None)):
        faults.append("method score(users) -> Tensor [len(users), n_items] is missing")
    if batching != "none" and not callable(getattr(cls, "loss", None)):
        faults.append("method loss(batch) -> scalar Tensor is missing")
    if faults:
        raise UsageError(f"Model '{where}' does not keep the model contract: {'; '.join(faults)}.")


def optimizers_of(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return the model's own optimizers, or one Adam with its `learning_rate` and `weight_decay`."""
    own = getattr(model, "optimizers", None)
    if callable(own):
        return list(own())
    learning_rate = getattr(model, "learning_rate", 1e-3)
    weight_decay = getattr(model, "weight_decay", 0.0)
    return [torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)]


def begin_epoch(model: nn.Module, epoch: int) -> None:
    """Call the model's `begin_epoch(epoch)` hook where it has one; epochs count from 1."""
    hook = getattr(model, "begin_epoch", None)
    if callable(hook):
        hook(epoch)


def begin_scoring(model: nn.Module) -> None:
    """Call the model's `begin_scoring()` hook where it has one, once before a pass over users."""
    hook = getattr(model, "begin_scoring", None)
    if callable(hook):
        hook()


def training_step(
    model: nn.Module, batch: PairBatch | UserBatch, optimizers: Sequence[torch.optim.Optimizer]
) -> Tensor:
    """Take one optimisation step and return its detached loss.

    A model that needs more than one optimizer takes the step itself in `training_step(batch, optimizers)`.
    """
    own = getattr(model, "training_step", None)
    if callable(own):
        loss: Tensor = own(batch, optimizers)
        return loss.detach()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss = model.loss(batch)  # type: ignore[operator]
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach()
