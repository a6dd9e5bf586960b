import math

import pytest
import torch

from baselines.losses import bpr_loss, l2_norm, squared_l2


def test_bpr_by_hand():
    loss = bpr_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]))
    sigmoids = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(3.0))
    assert loss.item() == pytest.approx(-(math.log(sigmoids[0]) + math.log(sigmoids[1])) / 2)


def test_bpr_stays_finite_where_the_sigmoid_underflows():
    positive = torch.tensor([-500.0], requires_grad=True)
    loss = bpr_loss(positive, torch.tensor([500.0]))
    loss.backward()
    assert loss.item() == pytest.approx(1000.0)
    assert positive.grad.item() == pytest.approx(-1.0)


def test_regularizers_by_hand():
    users, items = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert squared_l2(users, items).item() == pytest.approx((25.0 + 1.0) / (2 * 2))
    assert l2_norm(users, items).item() == pytest.approx((5.0 + 1.0) / 2)


@pytest.mark.parametrize(("regularizer", "scale", "length"), [(squared_l2, 1, 5), (squared_l2, 2, 10), (l2_norm, 2, 1)])
def test_only_the_squared_gradient_grows_with_the_embeddings(regularizer, scale, length):
    block = (scale * torch.tensor([[3.0, 4.0]])).requires_grad_()
    regularizer(block).backward()
    assert block.grad.norm().item() == pytest.approx(length)
