from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import logsigmoid

from baselines.lattice import LATTICE, MeanPropagation, laplacian, near

N_USERS, N_ITEMS = 40, 30


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(5)
    tables = {
        "visual": torch.randn(N_ITEMS, 7, generator=generator) + 0.5,
        "text": torch.randn(N_ITEMS, 4, generator=generator) + 0.5,
    }
    tables["text"][3] = 0.0
    return tables


def build(interactions, features, **settings):
    torch.manual_seed(0)
    return LATTICE(interactions, features, **{"embedding_dim": 6, "hidden_dim": 5, "n_neighbors": 4, **settings})


def dense_near(table, k):
    """The k largest cosines of each row at their places, zero elsewhere."""
    rows = table / table.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosines = rows @ rows.T
    rounded = np.round(cosines.detach().double().numpy(), 6)
    mask = torch.zeros(len(table), len(table))
    for i in range(len(table)):
        mask[i, sorted(range(len(table)), key=lambda j: (-rounded[i, j], j))[:k]] = 1.0
    return cosines * mask


def dense_laplacian(graph):
    sums = graph.sum(dim=1)
    scale = torch.where(sums > 0, sums.clamp_min(1e-12) ** -0.5, torch.zeros_like(sums))
    return torch.diag(scale) @ graph @ torch.diag(scale)


def dense_item_graph(model, features):
    shares = model.modality_logits.softmax(dim=0)
    raw, learned = torch.zeros(N_ITEMS, N_ITEMS), torch.zeros(N_ITEMS, N_ITEMS)
    for m, name in enumerate(sorted(features)):
        layer = model.features.projections[m]
        raw = raw + shares[m] * dense_laplacian(dense_near(features[name], model.n_neighbors))
        learned = learned + shares[m] * dense_near(
            model.features.raw(m) @ layer.weight.T + layer.bias, model.n_neighbors
        )
    return model.raw_graph_share * raw + (1 - model.raw_graph_share) * dense_laplacian(learned)


def dense_encode(model, interactions, item_graph):
    layers = [model.embedding]
    if model.propagation is not None:
        r = torch.from_numpy(interactions.toarray())
        a = torch.eye(N_USERS + N_ITEMS)
        a[:N_USERS, N_USERS:], a[N_USERS:, :N_USERS] = r, r.T
        for _ in range(model.n_layers):
            layers.append((a / a.sum(dim=1, keepdim=True)) @ layers[-1])
    nodes = sum(layers) / len(layers)
    signal = model.embedding[N_USERS:]
    for _ in range(model.n_item_layers):
        signal = item_graph @ signal
    return nodes[:N_USERS], nodes[N_USERS:] + signal / signal.norm(dim=1, keepdim=True).clamp_min(1e-12)


def dense_loss(model, interactions, item_graph, batch):
    users, items = dense_encode(model, interactions, item_graph)
    u, i, j = users[batch.users], items[batch.positives], items[batch.negatives]
    penalty = (u.square().sum() + i.square().sum() + j.square().sum()) / 2 / model.batch_size
    return -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean() + model.reg_weight * penalty


def gradients(loss, model):
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    pairs = zip(model.named_parameters(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


def test_near_by_hand():
    places, cosines = near(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0]]), 2)
    assert places.tolist() == [[0, 2], [1, 2], [2, 0], [0, 1]]
    assert cosines.tolist() == [pytest.approx([1, 0.5**0.5])] * 3 + [[0, 0]]


def test_laplacian_by_hand():
    places = torch.tensor([[0, 1], [1, 1], [0, 2]])
    weights = torch.tensor([[1.0, 3.0], [0.5, 0.5], [-1.0, 0.5]], requires_grad=True)
    scaled = laplacian(places, weights)
    assert scaled.tolist() == [pytest.approx([0.25, 1.5]), pytest.approx([0.5, 0.5]), [0, 0]]
    scaled.sum().backward()
    assert torch.isfinite(weights.grad).all(), "a sum that is not positive gives no NaN"


def test_propagation_averages_over_neighbors_and_the_node_itself():
    propagation = MeanPropagation(csr_array(np.array([[1, 1, 0], [0, 1, 0]], dtype=np.float32)))
    nodes = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
    means = torch.tensor([[(1 + 4 + 8) / 3], [(2 + 8) / 2], [(4 + 1) / 2], [(8 + 1 + 2) / 3], [16.0]])
    actual = propagation.mean_of_layers(nodes, 1, torch.tensor([4, 1, 0, 2, 3]))
    assert torch.allclose(actual, ((nodes + means) / 2)[[4, 1, 0, 2, 3]])


@pytest.mark.parametrize(
    "settings",
    [{}, {"n_item_layers": 2, "n_layers": 1}, {"backbone": "mf"}, {"raw_graph_share": 0.0}, {"n_neighbors": 99}],
)
def test_scores_agree_with_dense_matrices(interactions, features, settings):
    model = build(interactions, features, **settings)
    with torch.no_grad():
        model.modality_logits.copy_(torch.tensor([0.1, 0.9]))
        users, items = dense_encode(model, interactions, dense_item_graph(model, features))
        model.begin_scoring()
        wanted = torch.tensor([9, 0, 5])
        assert torch.allclose(model.score(wanted), users[wanted] @ items.T, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"n_item_layers": 2}, {"finetune_features": False}, {"backbone": "mf"}])
def test_loss_and_gradient_of_the_first_batch_agree_with_dense_matrices(interactions, features, batch, settings):
    model = build(interactions, features, raw_graph_share=0.3, reg_weight=0.5, batch_size=8, **settings)
    with torch.no_grad():
        model.modality_logits.copy_(torch.tensor([0.1, 0.9]))
    expected = dense_loss(model, interactions, dense_item_graph(model, features), batch)
    model.begin_epoch(1)
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    actual, wanted = gradients(loss, model), gradients(expected, model)
    assert set(actual) == set(wanted)
    for name, gradient in actual.items():
        assert torch.allclose(gradient, wanted[name], atol=1e-6), name
        assert gradient.abs().max() > 1e-5, name


def test_later_batches_take_the_first_ones_item_graph_as_a_constant(interactions, features, batch):
    model = build(interactions, features, raw_graph_share=0.3)
    model.begin_epoch(1)
    model.loss(batch)
    graph = dense_item_graph(model, features).detach()
    with torch.no_grad():
        for layer in model.features.projections:
            layer.weight.mul_(-0.5).add_(0.3)
    loss, expected = model.loss(batch), dense_loss(model, interactions, graph, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    found = gradients(loss, model)
    assert torch.allclose(found.pop("embedding"), gradients(expected, model)["embedding"], atol=1e-6)
    assert not any(gradient.any() for gradient in found.values())
    model.begin_epoch(2)
    renewed = dense_loss(model, interactions, dense_item_graph(model, features), batch)
    assert model.loss(batch).item() == pytest.approx(renewed.item(), rel=1e-5)
    assert renewed.item() != pytest.approx(expected.item(), rel=1e-5)


def test_scoring_uses_the_parameters_of_now_and_leaves_the_epochs_graph(interactions, features, batch):
    model = build(interactions, features, raw_graph_share=0.3)
    model.begin_epoch(1)
    model.loss(batch)
    with torch.no_grad():
        for layer in model.features.projections:
            layer.weight.mul_(-0.5).add_(0.3)
        before = model.loss(batch)
        model.begin_scoring()
        users, items = dense_encode(model, interactions, dense_item_graph(model, features))
        assert torch.allclose(model.score(torch.arange(5)), users[:5] @ items.T, atol=1e-5)
        assert torch.equal(model.loss(batch), before)


@pytest.mark.parametrize("keep", [True, False])
def test_momentum_between_rebuilds(interactions, features, batch, keep):
    model = build(interactions, features, keep_momentum=keep, learning_rate=0.01, raw_graph_share=0.3)
    optimizers = model.optimizers()
    model.begin_epoch(1)
    weight = model.features.projections[0].weight
    positions = [weight.detach().clone()]
    for _ in range(3):
        model.training_step(batch, optimizers)
        positions.append(weight.detach().clone())
    moves = [(b - a).abs().max().item() for a, b in pairwise(positions)]
    assert moves[0] == pytest.approx(0.01, rel=1e-3)
    # Adam after one gradient and n - 1 zeros: m = 0.9^(n-1) 0.1 / (1 - 0.9^n), v likewise with 0.999.
    for n in (2, 3):
        m, v = 0.9 ** (n - 1) * 0.1 / (1 - 0.9**n), 0.999 ** (n - 1) * 0.001 / (1 - 0.999**n)
        assert moves[n - 1] == pytest.approx(0.01 * m / v**0.5 if keep else 0.0, rel=1e-2)


def test_gradients_do_not_add_up_over_steps(interactions, features, batch):
    model = build(interactions, features)
    optimizers = model.optimizers()
    model.begin_epoch(1)
    for _ in range(2):
        model.training_step(batch, optimizers)
        kept = model.embedding.detach().clone()
    model.training_step(batch, optimizers)
    taken = model.embedding.grad.clone()
    with torch.no_grad():
        model.embedding.copy_(kept)
    fresh = torch.autograd.grad(model.loss(batch), model.embedding)[0]
    assert torch.allclose(taken, fresh, atol=1e-6)
    assert not model.features.raw(0).grad.any()


def test_the_step_size_decays(interactions, features):
    model = build(interactions, features, learning_rate=0.1, learning_rate_decay=0.5)
    (optimizer,) = model.optimizers()
    model.begin_epoch(51)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_one_modality_needs_no_mixing(interactions, features, batch):
    single = {"visual": features["visual"]}
    model = build(interactions, single)
    expected = dense_loss(model, interactions, dense_item_graph(model, single), batch)
    assert model.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_zero_features_give_finite_numbers(interactions, batch):
    model = build(interactions, {"text": torch.zeros(N_ITEMS, 3)})
    loss = model.loss(batch)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, model).values())
    assert torch.isfinite(model.score(torch.arange(3))).all()


def test_graphs_and_frozen_features_stay_out_of_the_state_dict(interactions, features, batch):
    model = build(interactions, features, finetune_features=False)
    names = set(model.state_dict())
    model.begin_epoch(1)
    model.loss(batch)
    assert set(model.state_dict()) == names == {name for name, _ in model.named_parameters()}
    assert max(buffer.numel() for buffer in model.buffers()) < N_ITEMS * N_ITEMS
    with pytest.raises(ValueError, match="found none"):
        build(interactions, {})


def test_training_outdates_what_was_encoded(interactions, features, batch):
    model = build(interactions, features)
    model.begin_scoring()
    before = model.score(torch.tensor([0]))
    model.loss(batch)
    with torch.no_grad():
        model.embedding.mul_(2.0)
        assert not torch.allclose(model.score(torch.tensor([0])), before)


def test_initial_spread(interactions, features):
    model = build(interactions, features, embedding_dim=400)
    assert model.embedding[:N_USERS].abs().max().item() == pytest.approx((6 / 440) ** 0.5, rel=0.01)
    assert model.embedding[N_USERS:].abs().max().item() == pytest.approx((6 / 430) ** 0.5, rel=0.01)
    assert model.modality_logits.tolist() == [0.5, 0.5]
