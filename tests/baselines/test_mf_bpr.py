from types import SimpleNamespace

import numpy as np
import pytest
import torch

from baselines.mf_bpr import MFBPR


def by_hand(model, batch, penalty):
    p = model.user_embedding.weight.detach().double().numpy()[batch.users]
    q = model.item_embedding.weight.detach().double().numpy()
    i, j = q[batch.positives], q[batch.negatives]
    ranking = -np.log(1 / (1 + np.exp(-(p * (i - j)).sum(axis=1)))).mean()
    return ranking + model.reg_weight * penalty(p, i, j)


def test_loss_with_squared_penalty(interactions, batch):
    model = MFBPR(interactions, {}, embedding_dim=6, reg_weight=0.3)
    expected = by_hand(model, batch, lambda p, i, j: ((p**2).sum() + (i**2).sum() + (j**2).sum()) / 10)
    assert model.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_loss_with_norm_penalty(interactions, batch):
    model = MFBPR(interactions, {}, embedding_dim=6, reg_weight=0.3, reg="norm", init="normal")
    norm = np.linalg.norm
    expected = by_hand(model, batch, lambda p, i, j: (norm(p) + norm(i) + norm(j)) / 5)
    assert model.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_of_one_triple(interactions):
    model = MFBPR(interactions, {}, embedding_dim=5, reg_weight=0.2)
    p, i, j = model.user_embedding.weight[2], model.item_embedding.weight[3], model.item_embedding.weight[8]
    model.loss(
        SimpleNamespace(users=torch.tensor([2]), positives=torch.tensor([3]), negatives=torch.tensor([8]))
    ).backward()
    g = torch.sigmoid(-(p @ (i - j)))
    assert torch.allclose(model.user_embedding.weight.grad[2], -g * (i - j) + 0.2 * p, atol=1e-6)
    assert torch.allclose(model.item_embedding.weight.grad[3], -g * p + 0.2 * i, atol=1e-6)
    assert torch.allclose(model.item_embedding.weight.grad[8], g * p + 0.2 * j, atol=1e-6)
    assert model.item_embedding.weight.grad.any(dim=1).sum() == 2


def test_scores_are_inner_products(interactions):
    model = MFBPR(interactions, {}, embedding_dim=5)
    scores = model.score(torch.tensor([4, 1]))
    assert scores.shape == (2, 30)
    assert scores[1, 6].item() == pytest.approx(
        (model.user_embedding.weight[1] @ model.item_embedding.weight[6]).item()
    )


def test_initial_spread(interactions):
    torch.manual_seed(0)
    xavier = MFBPR(interactions, {}, embedding_dim=400)
    assert xavier.user_embedding.weight.std().item() == pytest.approx((2 / 440) ** 0.5, rel=0.05)
    normal = MFBPR(interactions, {}, embedding_dim=400, init="normal")
    assert normal.item_embedding.weight.std().item() == pytest.approx(0.1, rel=0.05)
