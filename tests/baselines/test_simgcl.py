from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import logsigmoid

import baselines.simgcl
from baselines.graph import bipartite_adjacency, normalize_symmetric
from baselines.simgcl import SimGCL, draw_directions, multiply_rows

N_USERS, N_ITEMS = 40, 30


@pytest.fixture
def batch():
    return SimpleNamespace(
        users=torch.tensor([0, 3, 3, 7, 9]),
        positives=torch.tensor([1, 0, 2, 0, 6]),
        negatives=torch.tensor([4, 4, 9, 1, 11]),
    )


@pytest.fixture
def drawn(monkeypatch):
    """The directions drawn, in order, each [n, 2, D]."""
    record = []

    def remember(shape, device):
        record.append(draw_directions(shape, device))
        return record[-1].clone()

    monkeypatch.setattr(baselines.simgcl, "draw_directions", remember)
    return record


def dense_graph(interactions):
    return torch.from_numpy(normalize_symmetric(bipartite_adjacency(interactions)).toarray())


def touched_nodes(batch):
    items = torch.cat((batch.positives, batch.negatives)).unique()
    return torch.cat((batch.users.unique(), N_USERS + items))


def dense_views(model, interactions, nodes, drawn):
    """Z, Z' and Z'' of all nodes by dense products; rows that no noise was drawn for are wrong in Z' and Z''."""
    a, views = dense_graph(interactions), []
    for view in (None, 0, 1):
        layer, total = model.embedding, model.embedding if model.include_initial else 0.0
        for k, directions in enumerate(drawn):
            layer = a @ layer
            if view is not None:
                noise = torch.zeros_like(layer)
                rows = nodes if k == model.n_layers - 1 else torch.arange(len(layer))
                noise[rows] = directions[:, view]
                layer = layer + model.noise_scale * layer.detach().sign() * noise
            total = total + layer
        views.append(total / (model.n_layers + model.include_initial))
    return views


def naive_contrast(first, second, temperature):
    first, second = (z / z.norm(dim=1, keepdim=True) for z in (first, second))
    terms = []
    for b in range(len(first)):
        similar = torch.exp(second @ first[b] / temperature)
        terms.append(-torch.log(similar[b] / similar.sum()))
    return torch.stack(terms)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("n_layers", "initial"), [(1, False), (2, True), (3, False)])
def test_loss_and_gradient_agree_with_dense_propagation(interactions, batch, drawn, n_layers, initial, reduction):
    model = SimGCL(
        interactions,
        {},
        embedding_dim=6,
        n_layers=n_layers,
        include_initial=initial,
        noise_scale=0.3,
        cl_weight=0.7,
        cl_reduction=reduction,
        temperature=0.4,
        reg_weight=0.3,
    )
    loss = model.loss(batch)
    (gradient,) = torch.autograd.grad(loss, model.embedding)
    assert len(drawn) == n_layers
    clean, first, second = dense_views(model, interactions, touched_nodes(batch), drawn)
    u, i, j = clean[batch.users], clean[40 + batch.positives], clean[40 + batch.negatives]
    ego = model.embedding[torch.cat((batch.users, 40 + batch.positives, 40 + batch.negatives))]
    users, positives = batch.users.unique(), 40 + batch.positives.unique()
    contrast = [naive_contrast(first[nodes], second[nodes], 0.4) for nodes in (users, positives)]
    contrast = sum(terms.mean() if reduction == "mean" else terms.sum() for terms in contrast)
    ranking = -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()
    expected = ranking + 0.7 * contrast + 0.3 * ego.square().sum() / (2 * len(batch.users))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(expected, model.embedding)[0], atol=1e-6)


def test_noise_is_drawn_for_the_batch_alone_in_the_last_layer(interactions, batch, drawn):
    SimGCL(interactions, {}, embedding_dim=4, n_layers=3).loss(batch)
    assert [len(directions) for directions in drawn] == [70, 70, len(touched_nodes(batch))]


def test_noise_has_its_length_and_stays_in_the_orthant(interactions):
    model = SimGCL(interactions, {}, embedding_dim=16, n_layers=1, noise_scale=0.01)
    nodes = torch.tensor([0, 3, 41, 60])
    with torch.no_grad():
        clean, first, second = model.views(nodes)
    for view in (first, second):
        assert torch.allclose((view - clean).norm(dim=1), torch.full((4,), 0.01), rtol=1e-3)
        assert torch.equal(view.sign(), clean.sign())
    assert not torch.allclose(first, second)


def test_directions_are_uniform_draws_of_length_one():
    torch.manual_seed(0)
    directions = draw_directions(torch.Size((500, 2, 8)), torch.device("cpu"))
    assert torch.allclose(directions.norm(dim=-1), torch.ones(500, 2))
    assert directions.min() >= 0
    # Of all directions with positive entries, cubes have theirs closer to the diagonal than normal draws do.
    assert directions.mean().item() == pytest.approx(0.31, abs=0.01)


def test_without_noise_the_views_are_one(interactions):
    model = SimGCL(interactions, {}, embedding_dim=4, noise_scale=0.0)
    nodes = torch.arange(70)
    with torch.no_grad():
        clean, first, second = model.views(nodes)
    assert torch.equal(clean, first)
    assert torch.equal(clean, second)
    assert torch.allclose(clean, model.propagate(), atol=1e-6)


def test_node_without_edges_is_zero_in_every_view(interactions):
    model = SimGCL(interactions, {}, embedding_dim=4, n_layers=3)
    with torch.no_grad():
        assert not any(view.any() for view in model.views(torch.tensor([5, 40 + 11])))
        model.begin_scoring()
        scores = model.score(torch.tensor([5, 6]))
    assert torch.equal(scores[0], torch.zeros(30))
    assert scores[1, 11] == 0


@pytest.mark.parametrize("initial", [True, False])
def test_scores_agree_with_dense_propagation(interactions, initial):
    model = SimGCL(interactions, {}, embedding_dim=6, n_layers=3, include_initial=initial)
    a, layers = dense_graph(interactions), [model.embedding.detach()]
    for _ in range(3):
        layers.append(a @ layers[-1])
    nodes = torch.stack(layers if initial else layers[1:]).mean(dim=0)
    users = torch.tensor([9, 0, 5])
    with torch.no_grad():
        plain = model.score(users)
        model.begin_scoring()
        assert torch.allclose(model.score(users), nodes[users] @ nodes[40:].T, atol=1e-6)
        assert torch.allclose(plain, model.score(users), atol=1e-6)


def test_training_outdates_what_was_propagated(interactions, batch):
    model = SimGCL(interactions, {}, embedding_dim=4)
    model.begin_scoring()
    before = model.score(torch.tensor([0]))
    model.loss(batch).backward()
    with torch.no_grad():
        model.embedding.mul_(2.0)
        assert torch.allclose(model.score(torch.tensor([0])), 4.0 * before)


def test_rows_of_the_product(interactions):
    model = SimGCL(interactions, {})
    table, nodes = torch.randn(70, 5), torch.tensor([51, 5, 0, 40, 5])
    assert torch.allclose(multiply_rows(model.graph, nodes, table), dense_graph(interactions)[nodes] @ table, atol=1e-6)
    assert not multiply_rows(model.graph, torch.tensor([5, 51]), table).any()


def test_one_triple_is_enough(interactions):
    model = SimGCL(interactions, {}, embedding_dim=4)
    one = SimpleNamespace(users=torch.tensor([2]), positives=torch.tensor([0]), negatives=torch.tensor([3]))
    loss = model.loss(one)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(model.embedding.grad).all()


def test_initial_spread(interactions):
    torch.manual_seed(0)
    xavier = SimGCL(interactions, {}, embedding_dim=400).embedding.detach()
    assert xavier[:40].abs().max().item() == pytest.approx((6 / 440) ** 0.5, rel=0.01)
    assert xavier[40:].abs().max().item() == pytest.approx((6 / 430) ** 0.5, rel=0.01)
    normal = SimGCL(interactions, {}, embedding_dim=400, init="normal").embedding
    assert normal.std().item() == pytest.approx(0.1, rel=0.05)


def test_unsquared_penalty(interactions, batch):
    squared, norm = (
        SimGCL(interactions, {}, embedding_dim=4, cl_weight=0.0, reg_weight=1.0, reg=reg) for reg in ("squared", "norm")
    )
    with torch.no_grad():
        norm.embedding.copy_(squared.embedding)
        roles = [squared.embedding[n] for n in (batch.users, 40 + batch.positives, 40 + batch.negatives)]
        expected = sum(role.norm() / 5 - role.square().sum() / 10 for role in roles)
        assert (norm.loss(batch) - squared.loss(batch)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_state_dict_holds_what_was_learned(interactions):
    assert set(SimGCL(interactions, {}).state_dict()) == {"embedding"}


def test_learns_planted_groups():
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    held_out = [(user, (user % 8) + 8 * (user // 10)) for user in range(20)]
    for user, item in held_out:
        dense[user, item] = 0.0
    interactions = csr_array(dense)
    torch.manual_seed(0)
    model = SimGCL(interactions, {}, embedding_dim=8, cl_weight=0.05)
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
