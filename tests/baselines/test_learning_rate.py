import pytest
import torch

from baselines.learning_rate import decay_learning_rate


def test_fifty_epochs_make_one_factor():
    optimizers = [torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=9.0) for _ in range(2)]
    seen = []
    for epoch in (1, 26, 51, 101, 1):
        decay_learning_rate(optimizers, 0.1, 0.64, epoch)
        seen.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
    expected = [0.1, 0.08, 0.064, 0.04096, 0.1]
    assert seen == [[pytest.approx(value)] * 2 for value in expected]
    decay_learning_rate([], 0.1, 0.96, 3)
