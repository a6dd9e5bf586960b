import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn

from bench.errors import TrainingError
from bench.training import TrainingProtocol, fit

CPU = torch.device("cpu")
INTERACTIONS = csr_array(np.eye(4, 5, dtype=np.float32))


class Counter(nn.Module):
    """Its one weight grows by one an epoch, so an epoch's weights can be told from any other's."""

    batching = "users"

    def __init__(self, bad_step: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.batch_size = 2
        self.learning_rate = 0.1
        self.steps = 0
        self.bad_step = bad_step

    def optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.5)]

    def loss(self, batch):
        self.steps += 1
        return -self.weight * (math.nan if self.steps == self.bad_step else 1.0)

    def score(self, users):
        return torch.zeros(len(users), 5)


def run(values, *, model=None, **protocol):
    model = model or Counter()
    waiting = iter(values)
    result = fit(model, INTERACTIONS, lambda: next(waiting), TrainingProtocol(**protocol), seed=1, device=CPU)
    return model, result


def test_training_stops_after_patience_evaluations_without_gain_and_restores_the_best():
    model, result = run([0.1, 0.3, 0.2, 0.3, 0.1, 0.9], patience=3)
    assert (result.best_epoch, result.best_value, result.stopped) == (2, 0.3, "patience")
    assert len(result.history) == 5
    assert model.weight.item() == pytest.approx(2.0)


def test_a_tie_keeps_the_earlier_epoch_unless_the_protocol_says_last():
    _, first = run([0.3, 0.3, 0.1, 0.1], patience=2)
    _, last = run([0.3, 0.3, 0.1, 0.1], patience=2, ties="last")
    assert (first.best_epoch, last.best_epoch) == (1, 2)


def test_a_gain_below_any_rounding_counts():
    _, result = run([0.1, 0.1 + 1e-9, 0.0, 0.0], patience=2)
    assert result.best_epoch == 2


def test_max_epochs_ends_training():
    model, result = run([0.1, 0.2, 0.3], max_epochs=3)
    assert (result.stopped, result.best_epoch) == ("max_epochs", 3)
    assert model.weight.item() == pytest.approx(3.0)


def test_a_bad_loss_names_its_epoch_and_step():
    with pytest.raises(TrainingError, match="nan in epoch 2, step 1 of 2") as caught:
        run([0.1] * 5, model=Counter(bad_step=3))
    assert (caught.value.epoch, caught.value.step) == (2, 1)


def test_the_callers_randomness_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    run([0.1, 0.2], max_epochs=2)
    assert torch.equal(torch.rand(2), expected)


def test_a_complete_model_is_only_evaluated():
    class Fixed(nn.Module):
        batching = "none"

    _, result = run([0.4], model=Fixed())
    assert (result.stopped, result.best_epoch, result.history[0].valid) == ("closed_form", 0, 0.4)
