from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import leaky_relu, logsigmoid, normalize

from baselines.mmgcn import MMGCN

N_USERS, N_ITEMS = 40, 30


@pytest.fixture
def features():
    torch.manual_seed(3)
    matrices = {"visual": torch.randn(N_ITEMS, 7), "text": torch.randn(N_ITEMS, 5)}
    matrices["text"][4] = 0.0
    return matrices


def small(interactions, features, **settings):
    torch.manual_seed(0)
    return MMGCN(interactions, features, **{"embedding_dim": 6, "compressed_dim": 4, **settings})


def dense_nodes(model, interactions, features):
    """Z of all nodes with one dense adjacency matrix, aggregating after the product with C_l as the paper writes it."""
    r = torch.from_numpy(interactions.toarray())
    a = torch.cat(
        (torch.cat((torch.zeros(N_USERS, N_USERS), r), 1), torch.cat((r.T, torch.zeros(N_ITEMS, N_ITEMS)), 1))
    )
    mean = a / a.sum(dim=1, keepdim=True).clamp_min(1.0)
    outputs = []
    for name, network in zip(sorted(features), model.networks, strict=True):
        f = network.compression(features[name]) if name == "visual" else features[name]
        x = normalize(torch.cat((network.preference, f)), dim=1)
        for layer in network.layers:
            h = leaky_relu(mean @ (x @ layer.aggregation.weight.T))
            s = leaky_relu(layer.itself(x)) + model.embedding
            if layer.concatenate:
                x = leaky_relu(layer.combination(torch.cat((h, s), dim=1)))
            else:
                x = leaky_relu(layer.combination(h) + s)
        outputs.append(x)
    return sum(outputs) / len(outputs)


@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_scores_agree_with_dense_networks(interactions, features, combine, n_layers):
    model = small(interactions, features, combine=combine, n_layers=n_layers)
    users = torch.tensor([9, 5, 0])
    with torch.no_grad():
        nodes = dense_nodes(model, interactions, features)
        model.begin_scoring()
        assert torch.allclose(model.score(users), nodes[users] @ nodes[N_USERS:].T, atol=1e-6)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_loss_and_gradients_agree_with_dense_networks(interactions, features, batch, combine, trainable):
    model = small(interactions, features, combine=combine, trainable_id=trainable, reg_weight=0.7)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    nodes = dense_nodes(model, interactions, features)
    u, i, j = nodes[batch.users], nodes[N_USERS + batch.positives], nodes[N_USERS + batch.negatives]
    expected = -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()
    if trainable:
        ids = model.embedding
        of_users = ids[torch.cat((batch.users, batch.users))]
        of_items = ids[N_USERS + torch.cat((batch.positives, batch.negatives))]
        expected = expected + 0.7 * (of_users.square() + of_items.square()).mean()
        for network in model.networks:
            expected = expected + 0.7 * network.preference.square().mean()
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    found, wanted = torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))


def test_ids_and_preferences_are_trained_only_on_wish(interactions, features):
    def trained(model):
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    fixed, free = (small(interactions, features, trainable_id=wish) for wish in (False, True))
    assert trained(free) - trained(fixed) == {"embedding", "networks.0.preference", "networks.1.preference"}
    assert "embedding" in fixed.state_dict()


def test_only_named_modalities_are_compressed(interactions, features):
    text, visual = small(interactions, features).networks
    assert (text.preference.shape, visual.preference.shape) == ((N_USERS, 5), (N_USERS, 4))
    text, visual = small(interactions, features, compressed=("text",)).networks
    assert (text.preference.shape, visual.preference.shape) == ((N_USERS, 4), (N_USERS, 7))
    assert not any("features" in key for key in small(interactions, features).state_dict())


def test_penalty_is_left_out_where_it_is_a_constant(interactions, features, batch):
    light, heavy = (small(interactions, features, reg_weight=weight) for weight in (0.0, 10.0))
    assert light.loss(batch).item() == heavy.loss(batch).item()


@pytest.mark.parametrize("trainable", [False, True])
def test_loading_brings_what_is_computed_once_in_line(interactions, features, trainable):
    model = small(interactions, features, trainable_id=trainable)
    torch.manual_seed(99)
    other = MMGCN(interactions, features, embedding_dim=6, compressed_dim=4, trainable_id=trainable)
    other.begin_scoring()
    users = torch.arange(N_USERS)
    assert not torch.allclose(model.score(users), other.score(users))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.score(users), other.score(users))


def test_training_outdates_what_was_propagated(interactions, features, batch):
    model = small(interactions, features)
    model.begin_scoring()
    before = model.score(torch.tensor([0]))
    model.loss(batch)
    with torch.no_grad():
        model.networks[0].layers[-1].combination.weight.mul_(3.0)
        assert not torch.allclose(model.score(torch.tensor([0])), before)


def test_no_features_and_features_that_do_not_fit_are_refused(interactions, features):
    with pytest.raises(ValueError, match="at least one modality"):
        MMGCN(interactions, {})
    with pytest.raises(ValueError, match="visual"):
        MMGCN(interactions, {"visual": torch.randn(N_ITEMS - 1, 3)})


def test_learns_planted_groups():
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    held_out = [(user, (user % 8) + 8 * (user // 10)) for user in range(20)]
    for user, item in held_out:
        dense[user, item] = 0.0
    interactions = csr_array(dense)
    torch.manual_seed(0)
    features = {"visual": torch.randn(16, 5), "text": torch.randn(16, 3)}
    model = MMGCN(interactions, features, embedding_dim=8, compressed_dim=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    users, items = (torch.from_numpy(c.astype(np.int64)) for c in interactions.tocoo().coords)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(SimpleNamespace(users=users, positives=items, negatives=(items + 8) % 16)).backward()
        optimizer.step()
    with torch.no_grad():
        scores = model.score(torch.arange(20))
    own = torch.tensor([scores[user, item] for user, item in held_out])
    other = torch.tensor([scores[user, (item + 8) % 16] for user, item in held_out])
    assert (own > other).all()
