import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import leaky_relu, logsigmoid, normalize

from baselines.dualgnn import DualGNN
from baselines.graph import bipartite_adjacency, normalize_symmetric

N_USERS, N_ITEMS = 40, 30


@pytest.fixture
def features():
    torch.manual_seed(3)
    matrices = {"visual": torch.randn(N_ITEMS, 7), "acoustic": torch.randn(N_ITEMS, 5)}
    matrices["visual"][4] = 0.0
    return matrices


def small(interactions, features, **settings):
    torch.manual_seed(0)
    return DualGNN(interactions, features, **{"embedding_dim": 6, "hidden_dim": 8, "n_neighbors": 3, **settings})


def weights_of(graph):
    shape = len(graph.starts) - 1, len(graph.starts) - 1
    return csr_array((graph.weights.numpy(), graph.neighbors.numpy(), graph.starts.numpy()), shape=shape).toarray()


def dense_embeddings(model, interactions, features, user_graph, overwritten=None):
    """e of users and items with dense matrices, one modality at a time."""
    a = torch.from_numpy(normalize_symmetric(bipartite_adjacency(interactions)).toarray())
    z = []
    for place, name in enumerate(sorted(features)):
        first, _, second = model.projections[place]
        f = second(leaky_relu(first(features[name])))
        x = normalize(torch.cat((model.preference[:, place], f)), dim=1)
        z.append(x + a @ x + a @ (a @ x))
    w = model.modality_weights
    outputs = list(z)
    if overwritten is not None:  # what adding up in place does to the first tensor
        outputs[sorted(features).index(overwritten)] = sum(z)
    tastes = sum(w[:, place, None] * output[:N_USERS] for place, output in enumerate(outputs))
    return tastes + torch.from_numpy(user_graph) @ tastes, sum(z)[N_USERS:]


@pytest.mark.parametrize("overwritten", [None, "visual", "acoustic"])
def test_loss_gradients_and_scores_agree_with_dense_matrices(interactions, features, batch, overwritten):
    model = small(interactions, features, n_neighbors=38, reg_weight=0.3, overwritten=overwritten or "")
    plain = weights_of(model.user_graph)
    model.begin_epoch(1)
    drawn = weights_of(model.user_graph)
    assert not np.allclose(plain, drawn)
    users, items = dense_embeddings(model, interactions, features, drawn, overwritten)
    u, i, j = users[batch.users], items[batch.positives], items[batch.negatives]
    penalty = sum(model.preference[batch.users, m].square().mean() for m in range(2))
    penalty = penalty + model.modality_weights.square().mean()
    expected = -(logsigmoid((u * i).sum(1) - (u * j).sum(1)) / math.log(2)).mean() + 0.3 * penalty
    loss, weights = model.loss(batch), list(model.parameters())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    found, wanted = torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))
    with torch.no_grad():
        users, items = dense_embeddings(model, interactions, features, plain, overwritten)
        model.begin_scoring()
        assert torch.allclose(model.score(torch.tensor([9, 5, 0])), users[[9, 5, 0]] @ items.T, atol=1e-5)


def test_without_padding_training_sees_what_scoring_sees(interactions, features):
    model = small(interactions, features, n_neighbors=38, padding="none")
    before = weights_of(model.user_graph)
    model.begin_epoch(1)
    assert np.array_equal(before, weights_of(model.user_graph))


def test_user_without_interactions_is_their_own_preference(interactions, features):
    model = small(interactions, features)
    with torch.no_grad():
        users, _ = model._encode()
        own = normalize(model.preference[5], dim=1) * model.modality_weights[5, :, None]
        assert torch.allclose(users[5], own.sum(dim=0), atol=1e-6)


def test_weights_start_near_equal_shares(interactions, features):
    model = DualGNN(interactions, features, embedding_dim=200)
    assert torch.allclose(model.modality_weights.sum(dim=1), torch.ones(N_USERS))
    assert model.modality_weights.std().item() == pytest.approx(math.sqrt(2 / (N_USERS + 2)) / math.sqrt(8), rel=0.3)
    assert model.preference.std().item() == pytest.approx(math.sqrt(2 / (N_USERS + 200)), rel=0.05)


def test_state_has_parameters_only(interactions, features):
    model = small(interactions, features)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_wrong_features_and_modalities_are_refused(interactions, features):
    with pytest.raises(ValueError, match="at least one modality"):
        DualGNN(interactions, {})
    with pytest.raises(ValueError, match="acoustic, visual.*'text'"):
        DualGNN(interactions, features, overwritten="text")


def test_learns_planted_groups():
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    held_out = [(user, (user % 8) + 8 * (user // 10)) for user in range(20)]
    for user, item in held_out:
        dense[user, item] = 0.0
    interactions = csr_array(dense)
    torch.manual_seed(0)
    model = DualGNN(interactions, {"text": torch.randn(16, 3)}, embedding_dim=8, hidden_dim=8, n_neighbors=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    users, items = (torch.from_numpy(c.astype(np.int64)) for c in interactions.tocoo().coords)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(SimpleNamespace(users=users, positives=items, negatives=(items + 8) % 16)).backward()
        optimizer.step()
    with torch.no_grad():
        scores = model.score(torch.arange(20))
    own = torch.tensor([scores[user, item] for user, item in held_out])
    other = torch.tensor([scores[user, (item + 8) % 16] for user, item in held_out])
    assert (own > other).all()
