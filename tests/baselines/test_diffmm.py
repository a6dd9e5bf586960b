from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import leaky_relu, logsigmoid

from baselines.diffmm import DiffMM, contrast
from baselines.diffrec import snr_weights
from baselines.graph import SparseMatrix, SymmetricGraph
from baselines.modality_denoiser import diffmm_variances
from baselines.seen_items import Seen
from ld4mrec.diffusion import posterior_mean_weights

N_USERS, N_ITEMS = 40, 30


def build(interactions, features, **settings):
    torch.manual_seed(0)
    return DiffMM(interactions, features, **{"embedding_dim": 6, "hidden_dim": 16, **settings})


def unit(table):
    return table / table.norm(dim=1, keepdim=True).clamp_min(1e-12)


def dense_graph(n_users, n_items, edges):
    """D^{-1/2} (A + Id) D^{-1/2} entry by entry."""
    a = torch.eye(n_users + n_items)
    for user, item in edges:
        a[user, n_users + item] = a[n_users + item, user] = 1.0
    degrees = a.sum(dim=1)
    return a / (degrees[:, None] * degrees[None, :]).sqrt()


def observed(interactions):
    return dense_graph(*interactions.shape, zip(*interactions.tocoo().coords, strict=True))


def dense_model(model, interactions, features):
    """(H, [Z^m]) by the equations, one modality at a time, with the generated graphs as they stand."""
    a = observed(interactions)
    projected = []
    for name, layer in zip(sorted(features), model.projections, strict=True):
        table = features[name] @ layer.weight.T
        projected.append(leaky_relu(table, 0.2) if layer.bias is None else table + layer.bias)
    shares = torch.softmax(model.modality_logits, dim=0)
    nodes = torch.cat((model.user_embedding, model.item_embedding))
    h_0, views = 0.0, []
    for share, table, graph in zip(shares, projected, model.generated_graphs, strict=True):
        b = graph.propagate(torch.eye(len(nodes)))
        modal = torch.cat((model.user_embedding, unit(table)))
        s_1 = a @ modal
        s_2 = a @ torch.cat((s_1[: model.n_users], model.item_embedding))
        h_0 = h_0 + share * (s_1 + s_2 + model.modality_graph_weight * b @ nodes)
        layers = [b @ modal]
        for _ in range(model.n_layers):
            layers.append(a @ layers[-1])
        views.append(sum(layers))
    layers = [h_0]
    for _ in range(model.n_layers):
        layers.append(a @ layers[-1])
    return sum(layers) + model.residual_weight * unit(h_0), views


def dense_contrast(a, b, nodes, temperature):
    a, b = unit(a), unit(b)
    total = 0.0
    for node in nodes.tolist():
        similar = torch.exp(b @ a[node] / temperature)
        total = total - torch.log(similar[node] / similar.sum())
    return total / len(nodes)


def test_schedule_and_weights_of_the_defaults():
    variances = diffmm_variances(5, 0.1, 1e-4, 0.02)
    assert variances.tolist() == pytest.approx([1.00e-4, 5.97e-4, 1.095e-3, 1.592e-3, 2.090e-3], rel=2e-3)
    assert snr_weights(variances).tolist() == pytest.approx([1, 8326, 760, 285, 149], rel=5e-3)
    assert posterior_mean_weights(variances)[0].tolist() == pytest.approx([1, 0.833, 0.454, 0.313, 0.238], abs=2e-3)


def test_contrast_against_a_loop_with_repeated_nodes():
    torch.manual_seed(1)
    a, b = torch.randn(9, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    nodes = torch.tensor([8, 2, 2, 2, 5])
    value, expected = contrast(a, b, nodes, 0.3), dense_contrast(a, b, nodes, 0.3)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, wanted in zip(torch.autograd.grad(value, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("projection", ["matrix", "linear"])
@pytest.mark.parametrize("contrast_with", ["modalities", "main"])
@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_loss_gradient_and_scores_by_the_equations(interactions, features, batch, projection, contrast_with, n_layers):
    weights = {"cl_weight": 0.7, "reg_weight": 0.02, "temperature": 0.4, "modality_graph_weight": 0.6}
    model = build(
        interactions, features, projection=projection, contrast_with=contrast_with, n_layers=n_layers, **weights
    )
    with torch.no_grad():
        model.modality_logits.copy_(torch.tensor([0.4, -0.6]))
    model.begin_epoch(1)
    h, views = dense_model(model, interactions, features)
    u, i, j = h[batch.users], h[N_USERS + batch.positives], h[N_USERS + batch.negatives]
    expected = -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()
    pairs = [(h, view) for view in views] if contrast_with == "main" else combinations(views, 2)
    for a, b in pairs:
        expected = expected + 0.7 * dense_contrast(a[:N_USERS], b[:N_USERS], batch.users, 0.4)
        expected = expected + 0.7 * dense_contrast(a[N_USERS:], b[N_USERS:], batch.positives, 0.4)
    expected = expected + 0.02 * (model.user_embedding.square().sum() + model.item_embedding.square().sum())
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    learned = [p for name, p in model.named_parameters() if not name.startswith("denoisers")]
    found = torch.autograd.grad(loss, learned)
    for gradient, wanted in zip(found, torch.autograd.grad(expected, learned), strict=True):
        assert torch.allclose(gradient, wanted, atol=2e-5)
    with torch.no_grad():
        users = torch.tensor([9, 0, 5])
        assert torch.allclose(model.score(users), h[users] @ h[N_USERS:].T, atol=1e-5)


def dense_denoiser(denoiser, x, step):
    told = denoiser.sinusoids[step] @ denoiser.step_layer.weight.T + denoiser.step_layer.bias
    inputs = torch.cat((x, told.expand(len(x), -1)), dim=1)
    weights = torch.cat((denoiser.item_weights, denoiser.step_input))
    return torch.tanh(inputs @ weights + denoiser.input_bias) @ denoiser.output.weight.T + denoiser.output.bias


@pytest.mark.parametrize("reweight", ["snr", "none"])
def test_denoiser_loss_and_gradients_by_the_equations(interactions, features, reweight, monkeypatch):
    model = build(interactions, features, dropout=0.0, reweight=reweight, diffusion_steps=3)
    denoiser, x = model.denoisers[0], torch.from_numpy(interactions.toarray())
    torch.nn.init.normal_(denoiser.output.bias)
    steps, table, wanted = torch.arange(40) % 3, torch.randn(N_ITEMS, 6), torch.randn(40, 6)
    denoiser.variances.zero_()
    monkeypatch.setattr(torch, "randint", lambda *_, **__: steps)
    loss = denoiser.loss(Seen.of(model.rows, torch.arange(40)), table, wanted, 0.3)
    predictions = torch.stack([dense_denoiser(denoiser, x, step) for step in range(3)])[steps, torch.arange(40)]
    scale = snr_weights(diffmm_variances(3, 0.1, 1e-4, 0.02)).float() if reweight == "snr" else torch.ones(3)
    per_row = scale[steps] * (predictions - x).square().mean(1) + 0.3 * (predictions @ table - wanted).square().mean(1)
    expected = per_row.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    named = dict(denoiser.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()))
    for gradient, other in zip(found, torch.autograd.grad(expected, list(named.values())), strict=True):
        assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_noisy_rows_have_the_moments_of_their_step_and_dropout(interactions, features):
    model = build(interactions, features, noise_scale=1.0, noise_min=0.1, noise_max=0.6, dropout=0.25)
    denoiser = model.denoisers[0].train()
    users, step = torch.zeros(20_000, dtype=torch.int64), 3
    steps, seen = torch.full_like(users, step), Seen.of(model.rows, users)
    variance, x = denoiser.variances[step].item(), torch.from_numpy(interactions.toarray())[0]
    rows = denoiser.noisy_rows(seen, steps)
    assert (rows == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.allclose(rows.mean(dim=0), (1 - variance) ** 0.5 * x, atol=0.05)
    assert torch.allclose(rows.square().mean(dim=0), ((1 - variance) * x + variance) / 0.75, atol=0.08)
    denoiser.eval()
    assert not (denoiser.noisy_rows(seen, steps) == 0).any()


def test_generated_rows_agree_with_the_plain_reverse_loop(interactions, features):
    model = build(interactions, features, noise_scale=1.0, noise_min=0.1, noise_max=0.9).eval()
    of_x_0, of_x_t = posterior_mean_weights(diffmm_variances(5, 1.0, 0.1, 0.9))
    users = torch.tensor([7, 5, 0])
    with torch.no_grad():
        for denoiser in model.denoisers:
            x = torch.from_numpy(interactions.toarray())[users]
            for step in reversed(range(5)):
                x = of_x_0[step].float() * dense_denoiser(denoiser, x, step) + of_x_t[step].float() * x
            found = denoiser.generate(model.rows, users, 0, denoiser.folded_layers())
            assert torch.allclose(found, x, atol=1e-5)
            noisy = denoiser.generate(model.rows, users, 3, denoiser.folded_layers())
            assert not torch.allclose(noisy, x, atol=1e-3)


@pytest.mark.parametrize("n_generated", [1, 4])
def test_generated_graphs_hold_the_largest_entries_normalized(interactions, features, n_generated):
    model = build(interactions, features, n_generated=n_generated, edge_dropout=0.0)
    model.begin_epoch(1)
    for index, (denoiser, graph) in enumerate(zip(model.denoisers, model.generated_graphs, strict=True)):
        rows = denoiser.generate(model.rows, torch.arange(N_USERS), 0, denoiser.folded_layers())
        items = rows.argsort(dim=1, descending=True)[:, :n_generated]
        assert torch.equal(items.sort(dim=1).values, model.generated_items[index].sort(dim=1).values)
        edges = [(user, item) for user in range(N_USERS) for item in items[user].tolist()]
        assert torch.allclose(graph.propagate(torch.eye(70)), dense_graph(N_USERS, N_ITEMS, edges), atol=1e-6)


def test_dropped_entries_are_gone_and_the_others_grow(interactions, features):
    torch.manual_seed(0)
    model = build(interactions, features, n_generated=3, edge_dropout=0.25)
    model.begin_epoch(1)
    edges = [(user, item) for user in range(N_USERS) for item in model.generated_items[0, user].tolist()]
    full, kept = dense_graph(N_USERS, N_ITEMS, edges), model.generated_graphs[0].propagate(torch.eye(70))
    assert torch.allclose(kept[kept > 0], full[kept > 0] / 0.75, atol=1e-6)
    share = (kept > 0).sum() / (full > 0).sum()
    assert 0.65 < share < 0.85
    assert not torch.equal(kept > 0, (kept > 0).T)


def test_seen_items_can_be_excluded_from_generation(interactions, features):
    seen = torch.from_numpy(interactions.toarray()) > 0
    settings = {"learning_rate": 0.01, "reweight": "none", "dropout": 0.0, "msi_weight": 0.0, "hidden_dim": 64}
    free, barred = (build(interactions, features, exclude_seen=e, **settings) for e in (False, True))
    for model in (free, barred):
        for epoch in range(80):
            model.begin_epoch(epoch)
    assert not seen.gather(1, barred.generated_items[0]).any()
    # A trained denoiser gives back what it was given; one user has nothing.
    assert seen.gather(1, free.generated_items[0]).sum() > 35


def test_denoisers_learn_in_begin_epoch_and_the_model_in_steps(interactions, features, batch):
    model = build(interactions, features, learning_rate=0.01)
    main, denoisers = model.optimizers()

    def state():
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    start = state()
    model.begin_epoch(1)
    generated = state()
    assert {name.split(".")[0] for name in start if not torch.equal(start[name], generated[name])} == {"denoisers"}
    for optimizer in (main, denoisers):
        optimizer.zero_grad()
    model.loss(batch).backward()
    for optimizer in (main, denoisers):
        optimizer.step()
    after = state()
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], generated[name])}
    assert moved == {"user_embedding", "item_embedding", "projections", "modality_logits"}


def test_denoising_error_falls(interactions, features):
    model = build(interactions, features, learning_rate=0.01, reweight="none", dropout=0.0, msi_weight=0.0)
    x, errors = torch.from_numpy(interactions.toarray()), []
    for epoch in range(60):
        model.begin_epoch(epoch)
        rows = model.denoisers[0].generate(model.rows, torch.arange(N_USERS), 0, model.denoisers[0].folded_layers())
        errors.append((rows - x).square().mean().item())
    assert errors[-1] < 0.5 * errors[0]


def test_loading_brings_the_generated_graphs_back(interactions, features):
    model, fresh = (
        build(interactions, features, n_generated=2),
        DiffMM(interactions, features, embedding_dim=6, hidden_dim=16, n_generated=2),
    )
    model.begin_epoch(1)
    fresh.begin_scoring()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model.score(torch.arange(9)), fresh.score(torch.arange(9)))


def test_state_dict_holds_parameters_and_what_was_generated(interactions, features):
    model = build(interactions, features)
    names = {name for name, _ in model.named_parameters()}
    assert set(model.state_dict()) == names | {"generated_items", "generated_weights"}


def test_nothing_is_as_large_as_users_times_items(features):
    interactions = csr_array((np.ones(3, np.float32), ([0, 1, 2], [0, 1, 2])), shape=(5000, N_ITEMS))
    model = build(interactions, features)
    tensors = [*model.parameters(), *model.buffers()]
    assert max(tensor.numel() for tensor in tensors) < 5000 * N_ITEMS
    assert isinstance(model.graph, SymmetricGraph)
    assert all(isinstance(graph, SparseMatrix) for graph in model.generated_graphs)


@pytest.mark.parametrize("names", [["visual"], ["text"], ["visual", "text"], ["visual", "text", "third.one"]])
@pytest.mark.parametrize("contrast_with", ["modalities", "main"])
def test_any_modalities_and_empty_rows_stay_finite(interactions, features, batch, names, contrast_with):
    features["third.one"] = torch.zeros(N_ITEMS, 3)
    model = build(
        interactions, {name: features[name] for name in names}, contrast_with=contrast_with, n_generated=N_ITEMS + 5
    )
    (optimizer, _) = model.optimizers()
    for epoch in (1, 2, 3):
        model.begin_epoch(epoch)
        optimizer.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    model.begin_scoring()
    assert torch.isfinite(model.score(torch.arange(N_USERS))).all()
    assert model.generated_items.shape[2] == N_ITEMS


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise_min": 0.1, "noise_max": 0.01}, r"noise_min <= noise_max, found 0\.1 > 0\.01"),
        ({"diffusion_steps": 3, "forward_steps": 4}, r"forward_steps <= diffusion_steps, found 4 > 3"),
    ],
)
def test_contradictions_are_refused(interactions, features, wrong, message):
    with pytest.raises(ValueError, match=message):
        DiffMM(interactions, features, **wrong)


def test_features_are_asked_for(interactions):
    with pytest.raises(ValueError, match="at least one modality, found none"):
        DiffMM(interactions, {})
