from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from baselines.graph import bipartite_adjacency, normalize_symmetric
from baselines.slmrec import SLMRec, chain_order, occurrences

N_USERS, N_ITEMS, D = 40, 30, 6


@pytest.fixture
def features():
    torch.manual_seed(3)
    return {
        "text": torch.randn(N_ITEMS, 7),
        "visual": 50 * torch.randn(N_ITEMS, 4),
        "acoustic": torch.randn(N_ITEMS, 3),
    }


@pytest.fixture
def batch():
    """Pairs with repeated users and items, beside the user and the item without edges."""
    return SimpleNamespace(
        users=torch.tensor([0, 3, 3, 7, 5, 9, 3]),
        positives=torch.tensor([1, 0, 2, 0, 11, 0, 1]),
        negatives=torch.tensor([4, 4, 9, 1, 1, 1, 1]),
    )


def dense_views(model, interactions, features, order):
    """u^0..u^M and i^0..i^M of all nodes, one dense LightGCN after the other."""
    a = torch.from_numpy(normalize_symmetric(bipartite_adjacency(interactions)).toarray())
    inputs = [model.item_embedding]
    for name, layer in zip(order, model.projections, strict=True):
        x = features[name] / features[name].norm(dim=1, keepdim=True)
        inputs.append(x @ layer.weight.T + layer.bias)
    outputs = []
    for items in inputs:
        layers = [torch.cat((model.user_embedding, items))]
        for _ in range(model.n_layers):
            layers.append(a @ layers[-1])
        outputs.append(sum(layers) / len(layers))
    return [out[:N_USERS] for out in outputs], [out[N_USERS:] for out in outputs]


def dense_vectors(model, users, items):
    if model.fusion == "mean":
        return model.user_fusion(sum(users) / len(users)), model.item_fusion(sum(items) / len(items))
    return model.user_fusion(torch.cat(users, dim=1)), model.item_fusion(torch.cat(items, dim=1))


def softmax_loss(logits):
    """-mean over rows b of log( exp(l_bb) / sum_c exp(l_bc) ), every row of the batch a candidate."""
    return -(logits.diagonal() - logits.exp().sum(dim=1).log()).mean()


def dense_loss(model, interactions, features, batch, order):
    users, items = dense_views(model, interactions, features, order)
    u, i = dense_vectors(model, users, items)
    u, i = u[batch.users], i[batch.positives]
    u, i = u / u.norm(dim=1, keepdim=True), i / i.norm(dim=1, keepdim=True)
    total = softmax_loss(u @ i.T / model.temperature)
    a = items[0]
    for link, partner, view in zip(model.chain, model.partners, items[1:], strict=True):
        a, b = link(a), partner(view)
        logits = a[batch.positives] @ b[batch.positives].T / model.ssl_temperature
        total = total + model.ssl_weight * softmax_loss(logits)
    return total


@pytest.mark.parametrize("order", [["visual"], ["visual", "text"], ["visual", "acoustic", "text"]])
@pytest.mark.parametrize(("n_layers", "fusion"), [(1, "concat"), (2, "mean"), (3, "concat")])
def test_loss_and_gradients_agree_with_the_equations(interactions, features, batch, order, n_layers, fusion):
    model = SLMRec(
        interactions,
        {name: features[name] for name in order},
        embedding_dim=D,
        n_layers=n_layers,
        fusion=fusion,
        temperature=0.3,
        ssl_weight=0.8,
        ssl_temperature=0.1,
    )
    loss, expected = model.loss(batch), dense_loss(model, interactions, features, batch, order)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(model.parameters())
    gradients = zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True)
    assert all(torch.allclose(found, right, atol=1e-5, rtol=1e-4) for found, right in gradients)


def test_the_two_losses_can_be_told_apart(interactions, features, batch):
    torch.manual_seed(0)
    main = SLMRec(interactions, features, embedding_dim=D, ssl_weight=0.0)
    views = main.views(main.propagate()[1], occurrences(batch.positives).distinct)
    chain = main.chain_loss(views, occurrences(batch.positives)).item()
    torch.manual_seed(0)
    both = SLMRec(interactions, features, embedding_dim=D, ssl_weight=0.5)
    assert both.loss(batch).item() == pytest.approx(main.loss(batch).item() + 0.5 * chain, rel=1e-5)


def test_occurrences_by_hand():
    found = occurrences(torch.tensor([7, 2, 7, 7, 5]))
    assert found.distinct.tolist() == [2, 5, 7]
    assert found.counts.tolist() == [1, 1, 3]
    assert found.places.tolist() == [2, 0, 2, 2, 1]
    assert found.shares().tolist() == pytest.approx([0.2, 0.2, 0.6])


@pytest.mark.parametrize("fusion", ["concat", "mean"])
@pytest.mark.parametrize("score_by", ["dot", "sigmoid", "cosine"])
def test_scores_agree_with_the_equations(interactions, features, fusion, score_by):
    model = SLMRec(interactions, features, embedding_dim=D, fusion=fusion, score_by=score_by)
    order = ["visual", "acoustic", "text"]
    users = torch.tensor([9, 0, 5])
    with torch.no_grad():
        u, i = dense_vectors(model, *dense_views(model, interactions, features, order))
        expected = u[users] @ i.T
        if score_by == "sigmoid":
            expected = 1 / (1 + (-expected).exp())
        if score_by == "cosine":
            expected = expected / (u[users].norm(dim=1)[:, None] * i.norm(dim=1))
        assert torch.allclose(model.score(users), expected, atol=1e-5)
        model.begin_scoring()
        assert torch.allclose(model.score(users), expected, atol=1e-5)
        assert torch.allclose(model.score(users), expected, atol=1e-5)


def test_training_outdates_what_was_propagated(interactions, features, batch):
    model = SLMRec(interactions, features, embedding_dim=D)
    model.begin_scoring()
    before = model.score(torch.tensor([0]))
    model.loss(batch)
    with torch.no_grad():
        model.user_fusion.weight.mul_(2.0)
        model.user_fusion.bias.mul_(2.0)
        assert torch.allclose(model.score(torch.tensor([0])), 2.0 * before, atol=1e-5)


def maps(model):
    """The widths of every link of the chain, map by map, and of every partner."""
    links = [[(layer.in_features, layer.out_features) for layer in link] for link in model.chain]
    return links, [(layer.in_features, layer.out_features) for layer in model.partners]


def test_maps_of_the_chain(interactions, features):
    build = lambda names, **more: SLMRec(interactions, {n: features[n] for n in names}, embedding_dim=8, **more)
    assert maps(build(["text"])) == ([[(8, 8)]], [(8, 8)])
    assert maps(build(["text", "visual"])) == ([[(8, 8)], [(8, 8), (8, 4)]], [(8, 8), (8, 4)])
    assert maps(build(["text", "visual"], extra_map=False)) == ([[(8, 8)], [(8, 4)]], [(8, 8), (8, 4)])
    three = ([[(8, 8)], [(8, 8)], [(8, 4)]], [(8, 8), (8, 8), (8, 4)])
    assert maps(build(["text", "visual", "acoustic"])) == three


def test_order_of_the_chain():
    assert chain_order(["acoustic", "brand", "audio", "text", "visual"], ()) == [
        "visual",
        "acoustic",
        "text",
        "audio",
        "brand",
    ]
    assert chain_order(["acoustic", "text"], ("text", "acoustic")) == ["text", "acoustic"]
    with pytest.raises(ValueError, match="every modality once, found text for the modalities acoustic, text"):
        chain_order(["acoustic", "text"], ("text",))


def test_the_order_reaches_the_model(interactions, features, batch):
    order = ("text", "visual", "acoustic")
    model = SLMRec(interactions, features, embedding_dim=D, modality_order=order)
    expected = dense_loss(model, interactions, features, batch, order)
    assert model.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_initial_values(interactions):
    torch.manual_seed(0)
    model = SLMRec(interactions, {"text": torch.randn(N_ITEMS, 300)}, embedding_dim=200)
    bound = lambda inputs, outputs: pytest.approx((6 / (inputs + outputs)) ** 0.5, rel=0.01)
    assert model.user_embedding.abs().max().item() == bound(N_USERS, 200)
    assert model.item_embedding.abs().max().item() == bound(N_ITEMS, 200)
    assert model.projections[0].weight.abs().max().item() == bound(300, 200)
    assert model.user_fusion.weight.abs().max().item() == bound(400, 200)
    assert model.chain[0][0].weight.abs().max().item() == bound(200, 200)


def test_features_are_data_of_unit_length(interactions, features):
    model = SLMRec(interactions, features, embedding_dim=D)
    assert not any("features" in name or "graph" in name for name in model.state_dict())
    assert all(torch.allclose(x.norm(dim=1), torch.ones(N_ITEMS)) for x in model.features.tables())
    assert features["visual"].norm(dim=1).mean() > 10


def test_rows_of_zeros_and_hot_chains_do_no_harm(interactions, batch):
    features = {"keys": torch.zeros(N_ITEMS, 3), "a.b": torch.randn(N_ITEMS, 1)}
    model = SLMRec(interactions, features, embedding_dim=D, ssl_temperature=1e-4)
    loss = model.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_without_features_there_is_nothing_to_learn(interactions):
    with pytest.raises(ValueError, match="SLMRec needs the item features of at least one modality"):
        SLMRec(interactions, {})


def test_learns_planted_groups():
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    held_out = [(user, (user % 8) + 8 * (user // 10)) for user in range(20)]
    for user, item in held_out:
        dense[user, item] = 0.0
    interactions = csr_array(dense)
    torch.manual_seed(0)
    model = SLMRec(interactions, {"text": torch.randn(16, 5)}, embedding_dim=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    users, items = (torch.from_numpy(c.astype(np.int64)) for c in interactions.tocoo().coords)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(SimpleNamespace(users=users, positives=items, negatives=items)).backward()
        optimizer.step()
    with torch.no_grad():
        scores = model.score(torch.arange(20))
    own = torch.tensor([scores[user, item] for user, item in held_out])
    other = torch.tensor([scores[user, (item + 8) % 16] for user, item in held_out])
    assert (own > other).all()
