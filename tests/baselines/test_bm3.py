from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from baselines.bm3 import BM3, mismatch
from baselines.graph import bipartite_adjacency, normalize_symmetric

U, I, D = 40, 30, 6  # noqa: E741


@pytest.fixture
def features():
    torch.manual_seed(3)
    return {"visual": torch.randn(I, 7), "audio": 5 * torch.randn(I, 4)}


@pytest.fixture
def batch():
    """Pairs with an item three times and a user twice, beside the item and the user without edges."""
    return SimpleNamespace(
        users=torch.tensor([0, 3, 3, 7, 5, 9]),
        positives=torch.tensor([1, 0, 2, 0, 11, 0]),
        negatives=torch.tensor([4, 4, 9, 1, 1, 1]),
    )


def cosine(a, b):
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def dense_parts(model, interactions):
    """H_u, H_i and every h_m for all nodes and items, by dense products in the words of the paper."""
    a = torch.from_numpy(normalize_symmetric(bipartite_adjacency(interactions)).toarray())
    layers = [model.embedding]
    for _ in range(model.n_layers):
        layers.append(a @ layers[-1])
    mean = sum(layers) / len(layers)
    modal = [
        table @ layer.weight.T + layer.bias
        for table, layer in zip(model.features.tables(), model.projections, strict=True)
    ]
    return mean[:U], mean[U:] + model.embedding[U:], modal


def dense_loss(model, interactions, batch, cl_weight, reg_weight):
    h_u, h_i, modal = dense_parts(model, interactions)
    q = lambda h: h @ model.predictor.weight.T + model.predictor.bias
    total = reg_weight * (h_u.square().sum().sqrt() + h_i.square().sum().sqrt()) / I
    n = len(batch.users)
    for u, i in zip(batch.users, batch.positives, strict=True):
        total = total + (1 - cosine(q(h_u[u]), h_i[i].detach())) / n + (1 - cosine(q(h_i[i]), h_u[u].detach())) / n
        for h_m in modal:
            total = total + cl_weight * (1 - cosine(q(h_m[i]), h_i[i].detach())) / n
            total = total + cl_weight * (1 - cosine(q(h_m[i]), h_m[i].detach())) / n
    return total


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("names", [["audio", "visual"], ["visual"]])
def test_loss_and_gradients_agree_with_the_equations(interactions, features, batch, n_layers, names):
    features = {name: features[name] for name in names}
    model = BM3(interactions, features, embedding_dim=D, n_layers=n_layers, dropout=0.0, cl_weight=1.7, reg_weight=3.0)
    loss = model.loss(batch)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = dense_loss(model, interactions, batch, 1.7, 3.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, right in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        assert torch.allclose(found, right, atol=1e-6)


def test_mismatch_by_hand():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]])
    b = torch.tensor([[6.0, 8.0], [0.0, 5.0], [-1.0, 0.0]])
    assert mismatch(a, b).item() == pytest.approx(1 - (1 + 0 - 1) / 3)
    assert mismatch(a, 100 * b).item() == pytest.approx(mismatch(a, b).item())
    assert mismatch(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 1.0


def test_targets_get_no_gradient(interactions, features, batch):
    """With a constant predictor nothing but the penalty could move an embedding: every other way leads to a target."""
    model = BM3(interactions, features, embedding_dim=D, dropout=0.5, reg_weight=0.0)
    with torch.no_grad():
        model.predictor.weight.zero_()
        model.predictor.bias.fill_(1.0)
    model.loss(batch).backward()
    assert not model.embedding.grad.any()
    assert not any(table.grad.any() for table in model.features.tables())
    assert model.predictor.bias.grad.any()


def test_dropout_hides_its_share_of_the_targets_in_training_only(interactions, features, batch):
    torch.manual_seed(0)
    model = BM3(interactions, features, embedding_dim=D, dropout=0.3)
    views = torch.ones(1000, 50)
    pairs = SimpleNamespace(users=torch.arange(250), positives=torch.arange(250))
    dropped = model.drop_out(views, pairs)
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert dropped.mean().item() == pytest.approx(0.7, abs=0.01)
    assert model.loss(batch).item() != model.loss(batch).item()
    model.eval()
    assert torch.equal(model.drop_out(views, pairs), views)
    assert model.loss(batch).item() == pytest.approx(dense_loss(model, interactions, batch, 2.0, 0.1).item(), rel=1e-5)


def test_a_user_or_item_that_repeats_has_one_mask_in_each_view(interactions, features, batch):
    model = BM3(interactions, features, embedding_dim=D, dropout=0.5)
    user, *items = model.drop_out(torch.ones(4 * 6, 200), batch).view(4, 6, 200)
    for view, rows in ((user, batch.users), *((item, batch.positives) for item in items)):
        for one in range(6):
            for other in range(6):
                assert torch.equal(view[one], view[other]) == (rows[one] == rows[other])
    assert not torch.equal(items[0], items[1])
    assert not torch.equal(items[1], items[2])


def test_loss_with_dropout_is_that_of_masked_targets(interactions, features, batch):
    """One mask per view: the item's target is the same for the user's and for the features' predictions."""
    torch.manual_seed(0)
    model = BM3(interactions, features, embedding_dim=D, dropout=0.5, reg_weight=0.0)
    state = torch.get_rng_state()
    loss = model.loss(batch)
    torch.set_rng_state(state)
    # The distinct users 0, 3, 5, 7, 9 and items 0, 1, 2, 11 in rising order.
    of_users, of_items = (torch.rand(1, 5, D) >= 0.5).float(), (torch.rand(3, 4, D) >= 0.5).float()
    mask_u = of_users[0][[0, 1, 1, 3, 2, 4]]
    mask_i, *mask_m = of_items[:, [1, 0, 2, 0, 3, 0]]
    all_users, all_items, modal = dense_parts(model, interactions)
    h_u, h_i, h_m = all_users[batch.users], all_items[batch.positives], [h[batch.positives] for h in modal]
    q, cosines = model.predictor, torch.nn.functional.cosine_similarity
    expected = 2 - cosines(q(h_u), mask_i * h_i).mean() - cosines(q(h_i), mask_u * h_u).mean()
    for h, mask in zip(h_m, mask_m, strict=True):
        expected = expected + 2 * (2 - cosines(q(h), mask_i * h_i).mean() - cosines(q(h), mask * h).mean())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_scores_are_inner_products_of_predictions(interactions, features):
    model = BM3(interactions, features, embedding_dim=D, n_layers=2).eval()
    h_u, h_i, _ = dense_parts(model, interactions)
    users = torch.tensor([9, 0, 5])
    with torch.no_grad():
        expected = model.predictor(h_u[users]) @ model.predictor(h_i).T
        assert torch.allclose(model.score(users), expected, atol=1e-5)
        model.begin_scoring()
        assert torch.allclose(model.score(users), expected, atol=1e-5)


def test_training_outdates_what_was_predicted(interactions, features, batch):
    model = BM3(interactions, features, embedding_dim=D)
    model.begin_scoring()
    before = model.score(torch.tensor([0]))
    model.loss(batch).backward()
    with torch.no_grad():
        model.predictor.bias.zero_()
        model.predictor.weight.zero_()
        assert not model.score(torch.tensor([0])).any()
    assert before.any()


def test_squared_penalty(interactions, features, batch):
    arguments = {"embedding_dim": D, "dropout": 0.0, "reg": "squared"}
    torch.manual_seed(0)
    free = BM3(interactions, features, reg_weight=0.0, **arguments)
    torch.manual_seed(0)
    held = BM3(interactions, features, reg_weight=4.0, **arguments)
    h_u, h_i, _ = dense_parts(held, interactions)
    expected = 4.0 * (h_u.square().sum() + h_i.square().sum()) / (2 * I)
    assert (held.loss(batch) - free.loss(batch)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_features_are_parameters_only_when_they_are_trained(interactions, features, batch):
    given = {name: matrix.clone() for name, matrix in features.items()}
    trained = BM3(interactions, features, embedding_dim=D)
    frozen = BM3(interactions, features, embedding_dim=D, finetune_features=False)
    width = sum(matrix.numel() for matrix in features.values())
    count = lambda model: sum(parameter.numel() for parameter in model.parameters())
    assert count(trained) - count(frozen) == width
    assert sum(tensor.numel() for tensor in frozen.state_dict().values()) == count(frozen)
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.1)
    trained.loss(batch).backward()
    optimizer.step()
    moved = (trained.features.tables()[0] != features["audio"]).any(dim=1).nonzero().flatten()
    assert moved.tolist() == [0, 1, 2, 11]
    assert all(torch.equal(features[name], given[name]) for name in features)


def test_initial_values(interactions):
    torch.manual_seed(0)
    model = BM3(interactions, {"text": torch.randn(I, 300)}, embedding_dim=400)
    embedding = model.embedding.detach()
    assert embedding[:U].abs().max().item() == pytest.approx((6 / (U + 400)) ** 0.5, rel=0.01)
    assert embedding[U:].abs().max().item() == pytest.approx((6 / (I + 400)) ** 0.5, rel=0.01)
    assert model.predictor.weight.std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.02)
    # A uniform distribution of the same spread ends at 1.73 standard deviations.
    assert model.predictor.weight.abs().max().item() > 3 * (2 / 800) ** 0.5
    assert model.projections[0].weight.std().item() == pytest.approx((2 / 700) ** 0.5, rel=0.02)


def test_rows_of_zeros_and_names_of_any_kind_do_no_harm(interactions, batch):
    features = {"keys": torch.zeros(I, 3), "a.b c": torch.randn(I, 1)}
    model = BM3(interactions, features, embedding_dim=D, dropout=0.9)
    for _ in range(20):
        loss = model.loss(batch)
        loss.backward()
        assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_without_features_there_is_nothing_to_learn(interactions):
    with pytest.raises(ValueError, match="BM3 needs the item features of at least one modality"):
        BM3(interactions, {})


def test_learns_planted_groups():
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    held_out = [(user, (user % 8) + 8 * (user // 10)) for user in range(20)]
    for user, item in held_out:
        dense[user, item] = 0.0
    interactions = csr_array(dense)
    torch.manual_seed(0)
    model = BM3(interactions, {"text": torch.randn(16, 5)}, embedding_dim=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    users, items = (torch.from_numpy(c.astype(np.int64)) for c in interactions.tocoo().coords)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(SimpleNamespace(users=users, positives=items, negatives=items)).backward()
        optimizer.step()
    with torch.no_grad():
        scores = model.eval().score(torch.arange(20))
    own = torch.tensor([scores[user, item] for user, item in held_out])
    other = torch.tensor([scores[user, (item + 8) % 16] for user, item in held_out])
    assert (own > other).all()
