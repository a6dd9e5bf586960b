import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import chisquare

import baselines.user_graph as module
from baselines.user_graph import UserGraph, common_items

N_USERS = 40


def weights_of(graph):
    shape = len(graph.starts) - 1, len(graph.starts) - 1
    return csr_array((graph.weights.numpy(), graph.neighbors.numpy(), graph.starts.numpy()), shape=shape).toarray()


def naive_common_items(interactions, k):
    counts = (interactions @ interactions.T).toarray()
    np.fill_diagonal(counts, 0)
    kept = np.zeros_like(counts)
    circle = list(np.random.default_rng(module.SEED).permutation(len(counts)))
    for user, row in enumerate(counts):
        place = circle.index(user)
        after = np.array(circle[place:] + circle[:place])
        best = after[np.argsort(-row[after], kind="stable")[:k]]
        kept[user, best] = row[best]
    return kept


@pytest.mark.parametrize("block", [1, 500, 1 << 23])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_common_items_agree_with_a_loop_over_users(interactions, monkeypatch, block, k):
    monkeypatch.setattr(module, "BLOCK_PRODUCTS", block)
    assert np.array_equal(common_items(interactions, k).toarray(), naive_common_items(interactions, k))


@pytest.mark.parametrize("digits", [2, 3, 256])
@pytest.mark.parametrize("k", [1, 2, 5, 500])
def test_neighbors_are_the_first_of_many_ties(monkeypatch, digits, k):
    monkeypatch.setattr(module, "DIGITS", digits)
    rng = np.random.default_rng(0)
    dense = rng.random((300, 12)) < np.linspace(0.02, 0.7, 12)
    interactions = csr_array(dense.astype(np.float32))
    assert np.array_equal(common_items(interactions, k).toarray(), naive_common_items(interactions, k))


def test_users_that_all_share_one_item_are_neighbors_equally_often():
    graph = common_items(csr_array(np.ones((30, 1), dtype=np.float32)), 4)
    assert (np.diff(graph.indptr) == 4).all()
    assert (np.bincount(graph.indices) == 4).all()
    # In an order that is not theirs by number.
    assert not {(user, (user + 1) % 30) for user in range(30)} <= set(zip(*graph.tocoo().coords, strict=True))


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
    assert np.allclose(np.mean(draws, axis=0)[0], [0, 0.5, 0.5, 0], atol=0.05)
    # Of two neighbors the first gets any number of the eight repeats equally often.
    amounts = np.rint(np.array(draws)[:, 0, 1] * 10).astype(int)
    assert chisquare(np.bincount(amounts, minlength=10)[1:]).pvalue > 0.001


@pytest.mark.parametrize("n_neighbors", [2, 3, 7])
def test_repeats_are_drawn_from_a_growing_list(n_neighbors):
    graph = UserGraph(common_items(csr_array(np.ones((n_neighbors + 1, 1), dtype=np.float32)), 10), 10)
    generator = np.random.default_rng(1)
    torch.manual_seed(1)
    found, wanted = [], []
    for _ in range(2000):
        graph.pad()
        found.append(round(weights_of(graph)[0, 1] * 10))
        chosen = list(range(n_neighbors))
        while len(chosen) < 10:
            chosen.append(chosen[generator.integers(len(chosen))])
        wanted.append(chosen.count(0))
    assert np.mean(found) == pytest.approx(np.mean(wanted), rel=0.1)
    assert np.std(found) == pytest.approx(np.std(wanted), rel=0.1)


def test_users_with_k_neighbors_get_no_repeats(interactions):
    graph = UserGraph(common_items(interactions, 2), 2)
    before = weights_of(graph)
    graph.pad()
    assert np.array_equal(before, weights_of(graph))


def test_some_users_are_smoothed_with_the_drawn_weights_and_their_transpose(interactions):
    graph = UserGraph(common_items(interactions, 50), 50)
    graph.pad()
    tastes, users = torch.randn(N_USERS, 3, requires_grad=True), torch.tensor([7, 5, 0])
    smoothed, output = graph.propagate(users, tastes), torch.randn(3, 3)
    weights = weights_of(graph)[users]
    assert np.allclose(smoothed.detach(), weights @ tastes.detach().numpy(), atol=1e-5)
    (gradient,) = torch.autograd.grad(smoothed, tastes, output)
    assert np.allclose(gradient, weights.T @ output.numpy(), atol=1e-5)
