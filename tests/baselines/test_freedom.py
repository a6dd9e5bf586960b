import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import logsigmoid

from baselines.freedom import FREEDOM, SampledGraph, frozen_item_graph, graph_weights

N_USERS, N_ITEMS = 40, 30


def build(interactions, features, **settings):
    torch.manual_seed(0)
    return FREEDOM(interactions, features, **{"embedding_dim": 6, "n_neighbors": 4, **settings})


def dense_adjacency(edges):
    """Normalized adjacency of a list of (user, item), entry by entry."""
    a = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS)
    users, items = [u for u, _ in edges], [i for _, i in edges]
    for u, i in edges:
        a[u, N_USERS + i] = a[N_USERS + i, u] = (users.count(u) * items.count(i)) ** -0.5
    return a


def edges_of(interactions):
    return list(zip(*(c.tolist() for c in interactions.tocoo().coords), strict=True))


def dense_item_graph(features, k, weights):
    graph = torch.zeros(N_ITEMS, N_ITEMS)
    for name, weight in zip(sorted(features), weights, strict=True):
        rows = features[name] / features[name].norm(dim=1, keepdim=True).clamp_min(1e-12)
        cosines = np.round((rows @ rows.T).double().numpy(), 6)
        for i in range(N_ITEMS):
            for j in sorted(range(N_ITEMS), key=lambda j: (-cosines[i, j], j))[:k]:
                graph[i, j] += weight / k
    return graph


def dense_encode(model, adjacency, item_graph):
    layers = [model.embedding]
    for _ in range(model.n_layers):
        layers.append(adjacency @ layers[-1])
    nodes = sum(layers) / len(layers)
    signal = model.embedding[N_USERS:]
    for _ in range(model.n_item_layers):
        signal = item_graph @ signal
    return nodes[:N_USERS], nodes[N_USERS:] + signal


def bpr(users, table, batch):
    chosen = users[batch.users]
    return -logsigmoid((chosen * (table[batch.positives] - table[batch.negatives])).sum(1)).mean()


def test_item_graph_is_a_weighted_mean_over_the_nearest_items(features):
    graph = frozen_item_graph(features, 4, [0.9, 0.1]).toarray()
    assert graph == pytest.approx(dense_item_graph(features, 4, [0.9, 0.1]).numpy())
    assert graph.sum(axis=1) == pytest.approx(1.0)
    assert not np.allclose(graph, graph.T), "the graph is directed"


def test_more_neighbors_than_items_make_a_plain_mean(features):
    assert frozen_item_graph(features, 99, [0.5, 0.5]).toarray() == pytest.approx(1 / N_ITEMS)


def test_graph_weights():
    assert graph_weights(["text", "visual"]) == pytest.approx([0.9, 0.1])
    assert graph_weights(["acoustic", "text", "visual"]) == pytest.approx([0.45, 0.45, 0.1])
    assert graph_weights(["visual"]) == [1.0]
    assert graph_weights(["a", "b"]) == [0.5, 0.5]
    assert graph_weights(["text", "visual"], (1.0, 3.0)) == [0.25, 0.75]
    with pytest.raises(ValueError, match="one weight for each of text, visual"):
        graph_weights(["text", "visual"], (1.0,))
    with pytest.raises(ValueError, match="not all 0"):
        graph_weights(["text", "visual"], (0.0, 0.0))


def test_the_sampled_graph_has_all_edges_at_first_and_the_chosen_ones_then(interactions):
    graph = SampledGraph(interactions)
    identity = torch.eye(N_USERS + N_ITEMS)
    assert torch.allclose(graph.multiply(identity), dense_adjacency(edges_of(interactions)), atol=1e-6)
    chosen = torch.rand(interactions.nnz, generator=torch.Generator().manual_seed(1)) < 0.3
    graph.keep(chosen)
    kept = [edge for edge, keep in zip(edges_of(interactions), chosen.tolist(), strict=True) if keep]
    assert torch.allclose(graph.multiply(identity), dense_adjacency(kept), atol=1e-6)
    graph.keep(torch.zeros_like(chosen))
    assert not graph.multiply(identity).any()
    assert not graph.state_dict()


def test_shares_count_in_the_degrees_alone():
    graph = SampledGraph(csr_array(np.array([[1, 1], [0, 1]], dtype=np.float32)))
    graph.keep(torch.tensor([True, True, True]), torch.tensor([1.0, 3.0, 6.0]))
    expected = torch.tensor([[4 * 1, 4 * 9], [0, 6 * 9]]).float().rsqrt()
    expected[1, 0] = 0.0
    assert torch.allclose(graph.multiply(torch.eye(4))[:2, 2:], expected)


def test_edges_are_drawn_without_replacement_by_inverse_root_degrees():
    dense = np.zeros((4, 3), dtype=np.float32)
    dense[:, 0] = 1
    dense[0, 1] = dense[3, 2] = 1
    graph = SampledGraph(csr_array(dense))
    edges = edges_of(csr_array(dense))
    weights = np.array([1 / np.sqrt(dense[u].sum() * dense[:, i].sum()) for u, i in edges])
    weights /= weights.sum()
    torch.manual_seed(0)
    n_draws = 4000
    both = torch.stack([graph.draw(2) for _ in range(n_draws)])
    assert (both.sum(dim=1) == 2).all()
    # An edge is drawn first, or second after another one.
    expected = [p + sum(q * p / (1 - q) for j, q in enumerate(weights) if j != i) for i, p in enumerate(weights)]
    assert both.float().mean(dim=0).numpy() == pytest.approx(np.array(expected), abs=0.03)


def test_every_epoch_has_a_graph_of_its_own_with_its_share_of_edges(interactions, features):
    model = build(interactions, features, dropout=0.8)
    whole = model.graph.weights.clone()
    seen = []
    for epoch in (1, 2):
        model.begin_epoch(epoch)
        assert len(model.sampled_graph.neighbors) == 2 * int(interactions.nnz * 0.2 + 1e-6)
        seen.append(model.sampled_graph.multiply(torch.eye(N_USERS + N_ITEMS)))
    assert not torch.equal(*seen)
    assert torch.equal(model.graph.weights, whole), "scoring uses the whole graph"
    full = build(interactions, features, dropout=0.0)
    full.begin_epoch(1)
    assert len(full.sampled_graph.neighbors) == 2 * interactions.nnz


def test_a_fifth_of_ten_edges_are_two():
    model = build(csr_array(np.ones((2, 5), dtype=np.float32)), {"text": torch.eye(5)}, dropout=0.8)
    assert model.n_kept_edges == 2


@pytest.mark.parametrize(("n_layers", "n_item_layers"), [(2, 1), (1, 2)])
def test_scores_agree_with_dense_products_over_the_whole_graph(interactions, features, n_layers, n_item_layers):
    model = build(interactions, features, n_layers=n_layers, n_item_layers=n_item_layers)
    model.begin_epoch(1)
    graph = dense_item_graph(features, 4, [0.9, 0.1])
    users, items = dense_encode(model, dense_adjacency(edges_of(interactions)), graph)
    wanted = torch.tensor([9, 0, 5])
    with torch.no_grad():
        model.begin_scoring()
        assert torch.allclose(model.score(wanted), users[wanted] @ items.T, atol=1e-6)


@pytest.mark.parametrize("finetune", [True, False])
def test_loss_and_gradient_agree_with_dense_products_over_the_kept_edges(interactions, features, batch, finetune):
    model = build(interactions, features, reg_weight=0.7, finetune_features=finetune)
    chosen = torch.rand(interactions.nnz, generator=torch.Generator().manual_seed(1)) < 0.4
    model.sampled_graph.keep(chosen)
    kept = [edge for edge, keep in zip(edges_of(interactions), chosen.tolist(), strict=True) if keep]
    users, items = dense_encode(model, dense_adjacency(kept), dense_item_graph(features, 4, [0.9, 0.1]))
    expected = bpr(users, items, batch)
    for modality in range(2):
        layer = model.heads.projections[modality]
        expected = expected + 0.7 * bpr(users, model.heads.raw(modality) @ layer.weight.T + layer.bias, batch)
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(model.parameters())
    assert len(parameters) == (7 if finetune else 5)
    actual = torch.autograd.grad(loss, parameters, allow_unused=True)
    for one, other in zip(actual, torch.autograd.grad(expected, parameters), strict=True):
        assert torch.allclose(torch.zeros_like(other) if one is None else one, other, atol=1e-6)


def test_without_modality_terms_there_are_no_modality_parameters(interactions, features, batch):
    model = build(interactions, features, reg_weight=0.0)
    assert list(model.state_dict()) == ["embedding"]
    assert max(buffer.numel() for buffer in model.buffers()) < N_ITEMS * N_ITEMS
    users, items = dense_encode(
        model, dense_adjacency(edges_of(interactions)), dense_item_graph(features, 4, [0.9, 0.1])
    )
    assert model.loss(batch).item() == pytest.approx(bpr(users, items, batch).item(), rel=1e-5)


def test_the_item_graph_keeps_the_raw_features(interactions, features, batch):
    model = build(interactions, features, reg_weight=1.0)
    before = model.item_graph.rows.weights.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.loss(batch).backward()
    optimizer.step()
    assert not torch.equal(model.heads.raw(0), features["text"])
    assert torch.equal(model.item_graph.rows.weights, before)


def test_training_outdates_what_was_encoded(interactions, features, batch):
    model = build(interactions, features, reg_weight=0.0)
    model.begin_scoring()
    before = model.score(torch.tensor([0]))
    model.loss(batch).backward()
    with torch.no_grad():
        model.embedding.mul_(2.0)
        assert torch.allclose(model.score(torch.tensor([0])), 4.0 * before, atol=1e-6)


def test_one_modality_and_no_modality(interactions, features):
    model = build(interactions, {"visual": features["visual"]}, reg_weight=0.1)
    assert torch.isfinite(model.score(torch.arange(3))).all()
    with pytest.raises(ValueError, match="found none"):
        build(interactions, {})
    with pytest.raises(ValueError, match="modality_weights"):
        build(interactions, features, modality_weights=(1.0,))


def test_initial_spread(interactions, features):
    model = build(interactions, features, embedding_dim=400)
    assert model.embedding[:N_USERS].abs().max().item() == pytest.approx((6 / 440) ** 0.5, rel=0.01)
    assert model.embedding[N_USERS:].abs().max().item() == pytest.approx((6 / 430) ** 0.5, rel=0.01)
