import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from baselines.contrastive import info_nce
from baselines.mgcn import MGCN, repeated_info_nce, similarity_graph

N_USERS, N_ITEMS, K = 40, 30, 4


def build(interactions, features, **settings):
    torch.manual_seed(0)
    return MGCN(interactions, features, **{"embedding_dim": 6, "n_neighbors": K, **settings})


def dense_adjacency(interactions):
    r = torch.from_numpy(interactions.toarray())
    a = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS)
    a[:N_USERS, N_USERS:], a[N_USERS:, :N_USERS] = r, r.T
    scale = a.sum(dim=1) ** -0.5
    scale[scale.isinf()] = 0.0
    return scale[:, None] * a * scale


def dense_similarity(table, k):
    rows = table / table.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosines = np.round((rows @ rows.T).double().numpy(), 6)
    graph = torch.zeros(N_ITEMS, N_ITEMS)
    for i in range(N_ITEMS):
        for j in sorted(range(N_ITEMS), key=lambda j: (-cosines[i, j], j))[:k]:
            graph[i, j] = cosines[i, j]
    sums = graph.sum(dim=1)
    scale = torch.where(sums > 0, sums.clamp_min(1e-12) ** -0.5, torch.zeros_like(sums))
    return scale[:, None] * graph * scale


def dense_forward(model, interactions, features):
    """Final, side and content embeddings of all nodes, written as in the paper."""
    a = dense_adjacency(interactions)
    layers = [model.embedding]
    for _ in range(model.n_layers):
        layers.append(a @ layers[-1])
    content = sum(layers) / len(layers)
    views = []
    for m, name in enumerate(sorted(features)):
        layer, gate = model.features.projections[m], model.purifiers[m]
        projected = model.features.raw(m) @ layer.weight.T + layer.bias
        items = model.embedding[N_USERS:] * (1 / (1 + torch.exp(-(projected @ gate.weight.T + gate.bias))))
        for _ in range(model.n_item_layers):
            items = dense_similarity(features[name], K) @ items
        views.append(torch.cat((a[:N_USERS, N_USERS:] @ items, items)))
    hidden, last = model.attention[0], model.attention[2]
    exponents = [torch.exp(torch.tanh(z @ hidden.weight.T + hidden.bias) @ last.weight.T) for z in views]
    common = sum(e * z for e, z in zip(exponents, views, strict=True)) / sum(exponents)
    side = common
    for z, gate in zip(views, model.preferences, strict=True):
        side = side + torch.sigmoid(content @ gate.weight.T + gate.bias) * (z - common)
    side = side / (len(views) + 1)
    return content + side, side, content


def dense_nce(anchors, others, temperature):
    anchors, others = (t / t.norm(dim=1, keepdim=True).clamp_min(1e-12) for t in (anchors, others))
    pairs = torch.exp(anchors @ others.T / temperature)
    return -torch.log(pairs.diagonal() / pairs.sum(dim=1)).mean()


def dense_loss(model, interactions, features, batch, unique=False):
    final, side, content = dense_forward(model, interactions, features)
    u, i, j = final[batch.users], final[N_USERS + batch.positives], final[N_USERS + batch.negatives]
    loss = -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()
    loss = loss + model.reg_weight * (u.square().sum() + i.square().sum() + j.square().sum()) / 2 / model.batch_size
    for nodes in (N_USERS + batch.positives, batch.users):
        chosen = nodes.unique() if unique else nodes
        loss = loss + model.contrast_weight * dense_nce(side[chosen], content[chosen], model.temperature)
    return loss


def test_item_graph_by_hand():
    graph = similarity_graph(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0]]), 2).toarray()
    c = 0.5**0.5
    same, other = 1 / (1 + c), c / (1 + c)
    expected = [[same, 0, other, 0], [0, same, other, 0], [other, 0, same, 0], [0, 0, 0, 0]]
    assert graph == pytest.approx(np.array(expected), abs=1e-6)


def test_item_graph_agrees_with_all_pairs(features):
    for table in features.values():
        assert similarity_graph(table, 4).toarray() == pytest.approx(dense_similarity(table, 4).numpy(), abs=1e-5)
        assert similarity_graph(table, 99).shape == (N_ITEMS, N_ITEMS)


def test_contrast_of_distinct_rows_is_that_of_the_repeated_ones():
    torch.manual_seed(1)
    anchors, others = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    counts = torch.tensor([1, 3, 2, 1])
    again = torch.repeat_interleave(torch.arange(4), counts)
    loss = repeated_info_nce(anchors, others, counts, 0.2)
    expected = info_nce(anchors[again], others[again], 0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(
        torch.autograd.grad(loss, (anchors, others)), torch.autograd.grad(expected, (anchors, others)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)
    sharp = repeated_info_nce(anchors, -anchors, counts, 1e-3)
    assert torch.isfinite(sharp)


@pytest.mark.parametrize("settings", [{}, {"n_item_layers": 2, "n_layers": 1}, {"n_layers": 3}])
def test_scores_agree_with_dense_matrices(interactions, features, settings):
    model = build(interactions, features, **settings)
    final, _, _ = dense_forward(model, interactions, features)
    wanted = torch.tensor([9, 0, 5])
    with torch.no_grad():
        model.begin_scoring()
        assert torch.allclose(model.score(wanted), final[wanted] @ final[N_USERS:].T, atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{}, {"unique_contrast": True}, {"finetune_features": False}, {"contrast_weight": 0.0}]
)
def test_loss_and_gradient_agree_with_dense_matrices(interactions, features, batch, settings):
    settings = {"contrast_weight": 0.8, "reg_weight": 0.5, "batch_size": 8, **settings}
    model = build(interactions, features, **settings)
    unique = settings.get("unique_contrast", False)
    loss, expected = model.loss(batch), dense_loss(model, interactions, features, batch, unique)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    names, parameters = zip(*model.named_parameters(), strict=True)
    assert len(names) == (18 if settings.get("finetune_features", True) else 16)
    actual = torch.autograd.grad(loss, parameters)
    for name, one, other in zip(names, actual, torch.autograd.grad(expected, parameters), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name
        assert one.any(), name


def test_repeats_in_a_batch_count_unless_told_otherwise(interactions, features, batch):
    plain, unique = (
        build(interactions, features, contrast_weight=1.0, unique_contrast=u).loss(batch) for u in (False, True)
    )
    assert plain.item() != pytest.approx(unique.item(), rel=1e-4)


def test_item_graphs_keep_the_raw_features(interactions, features, batch):
    model = build(interactions, features, learning_rate=0.1)
    before = [graph.rows.weights.clone() for graph in model.item_graphs]
    (optimizer,) = model.optimizers()
    model.loss(batch).backward()
    optimizer.step()
    assert not torch.equal(model.features.raw(0), features["text"])
    assert all(torch.equal(graph.rows.weights, old) for graph, old in zip(model.item_graphs, before, strict=True))


def test_the_step_size_decays(interactions, features):
    model = build(interactions, features, learning_rate=0.1, learning_rate_decay=0.5)
    (optimizer,) = model.optimizers()
    model.begin_epoch(51)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_training_outdates_what_was_encoded(interactions, features, batch):
    model = build(interactions, features)
    model.begin_scoring()
    before = model.score(torch.tensor([0]))
    model.loss(batch)
    with torch.no_grad():
        model.embedding.mul_(2.0)
        assert not torch.allclose(model.score(torch.tensor([0])), before)


def test_one_modality_is_its_own_common_view(interactions, features, batch):
    single = {"visual": features["visual"]}
    model = build(interactions, single)
    final, side, content = dense_forward(model, interactions, single)
    assert torch.allclose(model.encode(), final, atol=1e-6)
    assert torch.allclose(side[N_USERS:], (final - content)[N_USERS:], atol=1e-6)
    assert torch.isfinite(model.loss(batch))


def test_zero_features_give_finite_numbers(interactions, batch):
    model = build(interactions, {"text": torch.zeros(N_ITEMS, 3)})
    loss = model.loss(batch)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, list(model.parameters())))
    assert torch.isfinite(model.score(torch.arange(3))).all()


def test_graphs_and_frozen_features_stay_out_of_the_state_dict(interactions, features):
    model = build(interactions, features, finetune_features=False)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert max(buffer.numel() for buffer in model.buffers()) < N_ITEMS * N_ITEMS
    with pytest.raises(ValueError, match="found none"):
        build(interactions, {})


def test_initial_spread(interactions, features):
    model = build(interactions, features, embedding_dim=400)
    assert model.embedding[:N_USERS].abs().max().item() == pytest.approx((6 / 440) ** 0.5, rel=0.01)
    assert model.embedding[N_USERS:].abs().max().item() == pytest.approx((6 / 430) ** 0.5, rel=0.01)
