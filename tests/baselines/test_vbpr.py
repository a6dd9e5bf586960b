from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import logsigmoid

from baselines.vbpr import VBPR

N_USERS, N_ITEMS, D = 40, 30, 4


@pytest.fixture
def features():
    torch.manual_seed(3)
    return {"visual": torch.randn(N_ITEMS, 7), "audio": 5 * torch.randn(N_ITEMS, 3)}


@pytest.fixture
def batch():
    """Triples in which items occur several times, as positives and as negatives."""
    return SimpleNamespace(
        users=torch.tensor([0, 3, 3, 7]), positives=torch.tensor([1, 0, 2, 0]), negatives=torch.tensor([0, 4, 9, 1])
    )


def with_biases(model):
    with torch.no_grad():
        model.item_bias.normal_()
        model.feature_bias.normal_()
    return model


def dense_items(model, features):
    """q_i of all items and their biases from the concatenated features, audio first."""
    x = torch.cat((features["audio"], features["visual"]), dim=1)
    visual = x @ model.projection.weight.T + model.projection.bias
    items = torch.cat((model.item_embedding, visual), dim=1)
    return items, model.item_bias[:, 0] + x @ model.feature_bias[0] if model.biases else torch.zeros(N_ITEMS)


def test_score_by_hand():
    interactions = csr_array(np.eye(2, dtype=np.float32))
    model = VBPR(interactions, {"b": torch.tensor([[1.0], [3.0]]), "a": torch.tensor([[2.0], [0.0]])}, embedding_dim=1)
    with torch.no_grad():
        model.user_embedding.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        model.item_embedding.copy_(torch.tensor([[10.0], [20.0]]))
        model.projection.weight.copy_(torch.tensor([[0.5, 4.0]]))
        model.projection.bias.fill_(0.25)
        # E x + b: 0.5 * 2 + 4 * 1 + 0.25 and 4 * 3 + 0.25.
        expected = torch.tensor([[10 + 2 * 5.25, 20 + 2 * 12.25], [-5.25, -12.25]])
        assert torch.allclose(model.score(torch.arange(2)), expected)


@pytest.mark.parametrize("biases", [False, True])
def test_scores_agree_with_the_equation(interactions, features, biases):
    model = VBPR(interactions, features, embedding_dim=D, biases=biases)
    model = with_biases(model) if biases else model
    items, bias = dense_items(model, features)
    users = torch.tensor([9, 0, 5])
    with torch.no_grad():
        expected = model.user_embedding[users] @ items.T + bias
        assert torch.allclose(model.score(users), expected, atol=1e-4)
        model.begin_scoring()
        assert torch.allclose(model.score(users), expected, atol=1e-4)


@pytest.mark.parametrize("reg", ["norm", "squared"])
@pytest.mark.parametrize("biases", [False, True])
def test_loss_and_gradients_agree_with_the_equation(interactions, features, batch, biases, reg):
    model = VBPR(interactions, features, embedding_dim=D, biases=biases, reg_weight=0.7, reg=reg)
    model = with_biases(model) if biases else model
    items, bias = dense_items(model, features)
    p, positives, negatives = model.user_embedding[batch.users], items[batch.positives], items[batch.negatives]
    of_positives, of_negatives = bias[batch.positives], bias[batch.negatives]
    difference = (p * positives).sum(1) + of_positives - (p * negatives).sum(1) - of_negatives
    blocks = [p, positives, negatives] + ([of_positives, of_negatives] if biases else [])
    squares = [block.square().sum() for block in blocks]
    penalty = sum(squares) / 8 if reg == "squared" else sum(square.sqrt() for square in squares) / 4
    expected = -logsigmoid(difference).mean() + 0.7 * penalty
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(model.parameters())
    assert len(parameters) == (6 if biases else 4)
    gradients = zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True)
    assert all(torch.allclose(found, right, atol=1e-5) for found, right in gradients)


def test_only_the_batch_s_distinct_items_are_projected(interactions, features, batch, monkeypatch):
    model = VBPR(interactions, features, embedding_dim=D)
    seen = []
    project = model.item_vectors
    monkeypatch.setattr(model, "item_vectors", lambda rows, x: seen.append(len(rows)) or project(rows, x))
    model.loss(batch)
    assert seen == [5]


def test_training_outdates_what_was_projected(interactions, features, batch):
    model = VBPR(interactions, features, embedding_dim=D)
    model.begin_scoring()
    before = model.score(torch.tensor([0]))
    model.loss(batch)
    with torch.no_grad():
        model.projection.weight.mul_(2.0)
        model.item_embedding.mul_(2.0)
        assert torch.allclose(model.score(torch.tensor([0])), 2.0 * before, atol=1e-5)


def test_features_are_data_and_no_parameters(interactions, features):
    model = VBPR(interactions, features, embedding_dim=D, biases=True)
    names = {"user_embedding", "item_embedding", "projection.weight", "projection.bias", "item_bias", "feature_bias"}
    assert set(model.state_dict()) == names
    assert model.features.tables()[0].data_ptr() == features["audio"].data_ptr()


def test_initial_values(interactions):
    torch.manual_seed(0)
    model = VBPR(interactions, {"text": torch.randn(N_ITEMS, 600)}, embedding_dim=400)
    assert model.user_embedding.abs().max().item() == pytest.approx((6 / (N_USERS + 800)) ** 0.5, rel=0.01)
    assert model.item_embedding.abs().max().item() == pytest.approx((6 / (N_ITEMS + 400)) ** 0.5, rel=0.01)
    assert model.projection.weight.std().item() == pytest.approx((2 / 1000) ** 0.5, rel=0.02)
    # A uniform distribution of the same spread ends at 1.73 standard deviations.
    assert model.projection.weight.abs().max().item() > 3 * (2 / 1000) ** 0.5
    assert not model.projection.bias.any()


def test_rows_of_zeros_do_no_harm(interactions, batch):
    model = VBPR(interactions, {"text": torch.zeros(N_ITEMS, 3)}, embedding_dim=D, biases=True)
    loss = model.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_without_features_there_is_nothing_to_learn(interactions):
    with pytest.raises(ValueError, match="VBPR needs the item features of at least one modality"):
        VBPR(interactions, {})


def test_an_item_nobody_has_seen_is_ranked_by_its_features():
    """Two tastes; the last item of each never occurs in training and has the features of its group."""
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    dense[:, [7, 15]] = 0.0
    interactions = csr_array(dense)
    features = {"text": torch.eye(2).repeat_interleave(8, dim=0)}
    torch.manual_seed(0)
    model = VBPR(interactions, features, embedding_dim=8, reg_weight=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    users, items = (torch.from_numpy(c.astype(np.int64)) for c in interactions.tocoo().coords)
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(SimpleNamespace(users=users, positives=items, negatives=(items + 8) % 16)).backward()
        optimizer.step()
    with torch.no_grad():
        scores = model.score(torch.arange(20))
    assert (scores[:10, 7] > scores[:10, 15]).all()
    assert (scores[10:, 15] > scores[10:, 7]).all()
