from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import logsigmoid

from baselines.graph import bipartite_adjacency, normalize_symmetric
from baselines.lightgcn import LightGCN


def dense_embeddings(model, interactions):
    """Averaged embeddings by dense products, differentiable in model.embedding."""
    a = torch.from_numpy(normalize_symmetric(bipartite_adjacency(interactions)).toarray())
    layers = [model.embedding]
    for _ in range(model.n_layers):
        layers.append(a @ layers[-1])
    return torch.stack(layers).mean(dim=0)


def test_scores_agree_with_dense_propagation(interactions):
    model = LightGCN(interactions, {}, embedding_dim=6, n_layers=3)
    nodes = dense_embeddings(model, interactions).detach()
    users = torch.tensor([9, 0, 5])
    with torch.no_grad():
        model.begin_scoring()
        assert torch.allclose(model.score(users), nodes[users] @ nodes[40:].T, atol=1e-6)


def test_loss_and_gradient_agree_with_dense_propagation(interactions, batch):
    model = LightGCN(interactions, {}, embedding_dim=6, n_layers=2, reg_weight=0.3)
    loss = model.loss(batch)
    (gradient,) = torch.autograd.grad(loss, model.embedding)
    nodes = dense_embeddings(model, interactions)
    u, i, j = nodes[batch.users], nodes[40 + batch.positives], nodes[40 + batch.negatives]
    ego = model.embedding[torch.cat((batch.users, 40 + batch.positives, 40 + batch.negatives))]
    expected = -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean() + 0.3 * ego.square().sum() / 10
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(expected, model.embedding)[0], atol=1e-6)


def test_node_without_edges_keeps_a_share_of_its_initial_value(interactions):
    model = LightGCN(interactions, {}, embedding_dim=4, n_layers=3)
    assert torch.allclose(model.propagate()[5], model.embedding[5] / 4)


def test_training_outdates_what_was_propagated(interactions, batch):
    model = LightGCN(interactions, {}, embedding_dim=4, n_layers=1)
    model.begin_scoring()
    before = model.score(torch.tensor([0]))
    model.loss(batch).backward()
    with torch.no_grad():
        model.embedding.mul_(2.0)
        assert torch.allclose(model.score(torch.tensor([0])), 4.0 * before)


def test_initial_spread(interactions):
    torch.manual_seed(0)
    normal = LightGCN(interactions, {}, embedding_dim=400)
    assert normal.embedding.std().item() == pytest.approx(0.1, rel=0.05)
    xavier = LightGCN(interactions, {}, embedding_dim=400, init="xavier").embedding.detach()
    assert xavier[:40].abs().max().item() == pytest.approx((6 / 440) ** 0.5, rel=0.01)
    assert xavier[40:].abs().max().item() == pytest.approx((6 / 430) ** 0.5, rel=0.01)


def test_learns_planted_groups():
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    held_out = [(user, (user % 8) + 8 * (user // 10)) for user in range(20)]
    for user, item in held_out:
        dense[user, item] = 0.0
    interactions = csr_array(dense)
    torch.manual_seed(0)
    model = LightGCN(interactions, {}, embedding_dim=8, n_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    users, items = (torch.from_numpy(c.astype(np.int64)) for c in interactions.tocoo().coords)
    for _ in range(30):
        batch = SimpleNamespace(users=users, positives=items, negatives=(items + 8) % 16)
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    with torch.no_grad():
        scores = model.score(torch.arange(20))
    own = torch.tensor([scores[user, item] for user, item in held_out])
    other = torch.tensor([scores[user, (item + 8) % 16] for user, item in held_out])
    assert (own > other).all()
