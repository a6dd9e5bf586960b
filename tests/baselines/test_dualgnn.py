import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import leaky_relu, logsigmoid, normalize

import baselines.dualgnn as module
from baselines.dualgnn import DualGNN, UserGraph, common_items
from baselines.graph import bipartite_adjacency, normalize_symmetric

N_USERS, N_ITEMS = 40, 30


@pytest.fixture
def features():
    torch.manual_seed(3)
    matrices = {"visual": torch.randn(N_ITEMS, 7), "acoustic": torch.randn(N_ITEMS, 5)}
    matrices["visual"][4] = 0.0
    return matrices


@pytest.fixture
def batch():
    return SimpleNamespace(
        users=torch.tensor([0, 3, 3, 7]), positives=torch.tensor([1, 0, 2, 0]), negatives=torch.tensor([4, 4, 9, 1])
    )


def small(interactions, features, **settings):
    torch.manual_seed(0)
    return DualGNN(interactions, features, **{"embedding_dim": 6, "hidden_dim": 8, "n_neighbors": 3, **settings})


def weights_of(graph):
    rows = graph.matrix.rows
    shape = len(rows.starts) - 1, len(rows.starts) - 1
    return csr_array((rows.weights.numpy(), rows.neighbors.numpy(), rows.starts.numpy()), shape=shape).toarray()


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


def naive_common_items(interactions, k):
    counts = (interactions @ interactions.T).toarray()
    np.fill_diagonal(counts, 0)
    kept = np.zeros_like(counts)
    for user, row in enumerate(counts):
        best = np.argsort(-row, kind="stable")[:k]
        kept[user, best] = row[best]
    return kept


@pytest.mark.parametrize("block", [1, 500, 1 << 23])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_common_items_agree_with_a_loop_over_users(interactions, monkeypatch, block, k):
    monkeypatch.setattr(module, "BLOCK_PRODUCTS", block)
    assert np.array_equal(common_items(interactions, k).toarray(), naive_common_items(interactions, k))


def test_common_items_of_users_that_share_nothing():
    assert common_items(csr_array(np.eye(4, dtype=np.float32)), 2).nnz == 0


def test_softmax_of_counts_by_hand():
    # User 0 shares 2 items with user 1 and 1 with user 2; user 3 nothing with anybody.
    dense = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float32)
    graph = UserGraph(common_items(csr_array(dense), 2), 2)
    e = math.e
    expected = [[0, e / (e + 1), 1 / (e + 1), 0], [e / (e + 1), 0, 1 / (e + 1), 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]]
    assert np.allclose(weights_of(graph), expected, atol=1e-6)


def test_large_counts_do_not_overflow():
    graph = UserGraph(common_items(csr_array(np.ones((3, 500), dtype=np.float32)), 2), 2)
    assert np.allclose(weights_of(graph), (1 - np.eye(3)) / 2)


def test_padding_repeats_neighbors_up_to_k():
    # Users 0..2 share one item: two neighbors each, with equal counts, so that weights are repeats over k.
    interactions = csr_array(np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=np.float32))
    graph = UserGraph(common_items(interactions, 10), 10)
    torch.manual_seed(0)
    draws = []
    for _ in range(300):
        graph.pad()
        draws.append(weights_of(graph))
        repeats = draws[-1][:3] * 10
        assert np.allclose(repeats, repeats.round(), atol=1e-5)
        assert np.allclose(repeats.sum(axis=1), 10)
        assert (repeats[repeats > 0] > 0.99).all()
        assert not draws[-1][3].any()
    assert np.allclose(np.mean(draws, axis=0)[0], [0, 0.5, 0.5, 0], atol=0.03)
    assert np.std(draws, axis=0)[0, 1] == pytest.approx(math.sqrt(8) / 2 / 10, rel=0.2)


def test_users_with_k_neighbors_get_no_repeats(interactions):
    graph = UserGraph(common_items(interactions, 2), 2)
    before = weights_of(graph)
    graph.pad()
    assert np.array_equal(before, weights_of(graph))


def test_gradient_goes_through_the_transpose_of_the_drawn_weights(interactions):
    graph = UserGraph(common_items(interactions, 50), 50)
    graph.pad()
    tastes = torch.randn(N_USERS, 3, requires_grad=True)
    output = torch.randn(N_USERS, 3)
    (gradient,) = torch.autograd.grad(graph.propagate(tastes), tastes, output)
    assert np.allclose(gradient, weights_of(graph).T @ output.numpy(), atol=1e-5)


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
