import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn.functional import logsigmoid, normalize

import baselines.modality_views as modality_views
from baselines.mmssl import MMSSL
from baselines.modality_views import BestItems, ModalityAttention, contrast, unit
from baselines.row_critic import REAL_SCORES, Learned, Predicted, RowCritic, observed_rows
from baselines.seen_items import Seen
from ld4mrec.rows import UserRows

N_USERS, N_ITEMS = 40, 30


@pytest.fixture
def features():
    torch.manual_seed(3)
    matrices = {"visual": torch.randn(N_ITEMS, 7), "acoustic": torch.randn(N_ITEMS, 5)}
    matrices["visual"][4] = 0.0
    return matrices


def small(interactions, features, **settings):
    torch.manual_seed(0)
    return MMSSL(interactions, features, **{"embedding_dim": 8, "n_heads": 2, **settings})


def dense_half_rows(interactions):
    r = torch.from_numpy(interactions.toarray())
    return tuple(m * m.sum(dim=1, keepdim=True).clamp_min(1e-8).rsqrt() for m in (r, r.T))


def dense_encoding(model, interactions, features):
    """Final users and items, and the lists of fu_m, fi_m and eu_m, one modality at a time with dense matrices."""
    au, ai = dense_half_rows(interactions)
    fu = [au @ layer(features[name]) for layer, name in zip(model.projections, sorted(features), strict=True)]
    fi = [ai @ users for users in fu]
    u, i, eu = model.user_embedding, model.item_embedding, None
    if model.modality_graph != "released":
        eu, ei = [], []
        for m in range(len(fu)):
            graphs = (au, ai)
            if model.modality_graph == "refresh":
                g = torch.zeros(N_USERS, N_ITEMS).scatter_(1, model.best_items.chosen[:, m], 1.0)
                graphs = dense_half_rows(csr_array(g.numpy()))
            eu.append(graphs[0] @ model.item_embedding)
            ei.append(graphs[1] @ model.user_embedding)
        u = u + 0.36 * normalize(naive_attention(model.attention, eu), dim=1)
        i = i + 0.36 * normalize(naive_attention(model.attention, ei), dim=1)
    u1 = au @ i
    i1 = ai @ u1
    u2 = (au @ i1).softmax(dim=1)
    i2 = (ai @ u2).softmax(dim=1)
    users = (u + u1 + u2) / 3 + 0.55 * sum(normalize(x, dim=1) for x in fu)
    items = (i + i1 + i2) / 3 + 0.55 * sum(normalize(x, dim=1) for x in fi)
    return users, items, fu, fi, eu


def naive_attention(attention, nodes):
    d, n_heads = nodes[0].shape[1], attention.n_heads
    mixed = []
    for m in range(len(nodes)):
        heads = []
        for h in range(n_heads):
            if attention.kind == "identity":
                heads.append(nodes[m])
                continue
            columns = slice(h * attention.key_dim, (h + 1) * attention.key_dim)
            wq, wk = (w[:, columns] for w in attention.queries_keys)
            logits = [((nodes[m] @ wq) * (other @ wk)).sum(1) / math.sqrt(attention.key_dim) for other in nodes]
            weights = torch.stack(logits).softmax(dim=0)
            heads.append(sum(w[:, None] * other for w, other in zip(weights, nodes, strict=True)))
        mixed.append(torch.cat(heads, dim=1) @ attention.mixing)
    assert attention.mixing.shape == (n_heads * d, d)
    return sum(mixed) / len(mixed)


def naive_contrast(views, users, t):
    cos = lambda a, b: (a @ b / (a.norm() * b.norm()).clamp_min(1e-12)).div(t).exp()
    losses = []
    for b in range(len(views)):
        intra = sum(cos(views[b], other) for c, other in enumerate(views) if c != b)
        inter = sum(cos(views[b], other) for other in users)
        losses.append(-(cos(views[b], users[b]) / (intra + inter)).log())
    return sum(losses) / len(losses)


def naive_rows(users, items, seen):
    """N as dense rows."""
    return normalize((users @ items.T) * (1 - seen), dim=1)


SETTINGS = [
    {},
    {"modality_graph": "train"},
    {"modality_graph": "refresh", "neighbor_share": 0.1, "attention": "cross_modal"},
    {"modality_graph": "refresh", "neighbor_share": 0.1},
    {"modality_graph": "train", "attention": "cross_modal"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_agree_with_dense_matrices(interactions, features, settings):
    model = small(interactions, features, **settings)
    with torch.no_grad():
        users, items, *_ = dense_encoding(model, interactions, features)
        model.begin_scoring()
        assert torch.allclose(model.score(torch.tensor([9, 5, 0])), users[[9, 5, 0]] @ items.T, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_loss_and_gradients_agree_with_dense_matrices(interactions, features, batch, settings):
    weights_of_terms = {"reg_weight": 0.1, "feature_reg_weight": 0.2, "cl_weight": 0.3, "adversarial_weight": 0.01}
    model = small(interactions, features, **weights_of_terms, **settings).eval()
    users, items, fu, fi, eu = dense_encoding(model, interactions, features)
    u, i, j = users[batch.users], items[batch.positives], items[batch.negatives]
    expected = -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()
    expected = expected + 0.1 * sum(x.square().sum() for x in (u, i, j)) / 10
    expected = expected + 0.2 * sum(x.square().sum() for x in (*fu, *fi)) / (2 * N_ITEMS)
    distinct = torch.tensor([0, 3, 5, 7])
    if eu is not None:
        expected = expected + 0.3 * sum(naive_contrast(e[distinct], users[distinct], 0.5) for e in eu)
    seen = torch.from_numpy(interactions.toarray())[distinct]
    fake = [naive_rows(p[distinct], y, seen) @ model.critic.weight for p, y in zip(fu, fi, strict=True)]
    expected = expected - 0.01 * model.critic(torch.cat(fake)).mean()
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    own = [parameter for name, parameter in model.named_parameters() if not name.startswith("critic")]
    found = torch.autograd.grad(loss, own, allow_unused=True)
    wanted = torch.autograd.grad(expected, own, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_critic_loss_agrees_with_dense_rows_and_their_gradients(interactions, features, seed):
    model = small(interactions, features, critic_slope=0.2, critic_dims=(6, 4)).eval()
    encoded, users, critic = model.encode(), torch.tensor([1, 4, 6, 8, 20]), model.critic
    torch.manual_seed(seed)
    features = Predicted.of(encoded.feature_users[users], encoded.feature_items, Seen.of(model.rows, users))
    own = Predicted.of(encoded.users[users][:, None], encoded.items[:, None], features.seen)
    loss = critic.loss(own, features, 0.3)

    seen = torch.from_numpy(interactions.toarray())[users]
    rows = naive_rows(encoded.users[users], encoded.items, seen)
    real = normalize(seen.softmax(dim=1) + REAL_SCORES * rows, dim=1)
    fakes = [naive_rows(encoded.feature_users[users, m], encoded.feature_items[:, m], seen) for m in range(2)]
    fake = torch.stack(fakes, dim=1).flatten(0, 1).detach()
    real = real.repeat_interleave(2, dim=0).detach()
    torch.manual_seed(seed)
    share = torch.rand(10, 1)
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(mixed @ critic.weight).sum(), mixed, create_graph=True)
    expected = critic(fake @ critic.weight).mean() - critic(real @ critic.weight).mean()
    expected = expected + 0.3 * (slopes.norm(dim=1) - 1).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    # The bias in front of a normalization by the batch has no gradient but rounding errors.
    weights = [critic.weight, critic.hidden.weight, critic.output.weight, critic.norms[0].weight]
    found, wanted = torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_rows_of_predicted_and_observed_interactions_by_hand():
    rows = UserRows(csr_array(np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1]], dtype=np.float32)))
    seen = Seen.of(rows, torch.arange(3))
    users, items = torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([[5.0], [3.0], [4.0]])
    rows = Predicted.of(users[:, None], items[:, None], seen)
    predicted, totals = rows.through(torch.eye(3)), rows.totals()
    root = math.sqrt(50)
    expected = torch.tensor([[0.0, 0.6, 0.8], [5 / root, 3 / root, 4 / root], [0.0, 0.0, 0.0]])
    assert torch.allclose(predicted[:, 0], expected, atol=1e-6)
    assert torch.allclose(totals[:, 0], expected.sum(dim=1), atol=1e-6)
    learned = Learned.of(torch.eye(3), rows)
    assert torch.allclose(rows.join(learned.products, learned.sums), predicted)
    real = observed_rows(predicted[:, 0], totals[:, 0], 2.0, seen.counts(), learned, 3)
    r = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 1, 1]])
    assert torch.allclose(real, normalize(r.softmax(dim=1) + 2.0 * expected, dim=1), atol=1e-6)


def test_noise_left_out_of_real_rows_is_rounding_error():
    torch.manual_seed(0)
    seen = (torch.rand(4, 5000, dtype=torch.float64) < 0.002).double()
    own = normalize(torch.randn(4, 5000, dtype=torch.float64) * (1 - seen), dim=1)
    gumbel = -torch.log(-torch.log(torch.rand(4, 5000, dtype=torch.float64) + 1e-8) + 1e-8)
    with_noise = normalize((seen + 0.002 * gumbel).softmax(dim=1) + REAL_SCORES * own, dim=1)
    without = normalize(seen.softmax(dim=1) + REAL_SCORES * own, dim=1)
    assert (with_noise - without).norm(dim=1).max() < 1e-6


def test_one_step_updates_the_critic_by_its_own_loss_and_the_model_by_its_own(interactions, features, batch):
    model = small(interactions, features, adversarial_weight=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizers = model.optimizers()
    assert optimizers[0].defaults["weight_decay"] == 0.01
    assert optimizers[1].defaults["betas"] == (0.5, 0.9)
    model.training_step(batch, optimizers)
    assert all(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.zero_grad()
    model.loss(batch).backward()
    assert all((p.grad is None) == name.startswith("critic.") for name, p in model.named_parameters())


def test_adversarial_term_reaches_the_projections_alone(interactions, features, batch):
    settings = {"reg_weight": 0.0, "feature_reg_weight": 0.0}
    with_critic = small(interactions, features, adversarial_weight=5.0, **settings).eval()
    without = small(interactions, features, adversarial_weight=0.0, **settings).eval()
    without.load_state_dict(with_critic.state_dict())
    for model in (with_critic, without):
        model.loss(batch).backward()
    pairs = zip(with_critic.named_parameters(), without.named_parameters(), strict=True)
    changed = {n.split(".")[0] for (n, a), (_, b) in pairs if a.grad is not None and not torch.equal(a.grad, b.grad)}
    assert changed == {"projections"}


def test_without_adversarial_there_is_no_critic(interactions, features, batch):
    model = small(interactions, features, adversarial=False)
    assert model.critic is None
    assert len(model.optimizers()) == 1
    assert torch.isfinite(model.training_step(batch, model.optimizers()))


def test_a_batch_of_one_user_skips_the_critic(interactions, features):
    model = small(interactions, {"text": features["visual"]})
    one = torch.tensor([3])
    batch = SimpleNamespace(users=one, positives=one, negatives=one)
    assert torch.isfinite(model.training_step(batch, model.optimizers()))


def test_critic_is_no_wider_than_a_share_of_the_catalog(interactions, features):
    assert small(interactions, features).critic.weight.shape == (N_ITEMS, N_ITEMS // 4)
    narrow = small(interactions, features, critic_dims=(3, 2)).critic
    assert (narrow.weight.shape, narrow.hidden.weight.shape) == ((N_ITEMS, 3), (2, 3))
    assert RowCritic(N_ITEMS, (3, 2), 1.0)(torch.randn(5, 3)).shape == (5,)


def test_contrast_agrees_with_loops_and_falls_as_views_meet_their_users():
    torch.manual_seed(0)
    views, users = torch.randn(6, 4), torch.randn(6, 4)
    assert contrast(views, users, 0.5).item() == pytest.approx(naive_contrast(views, users, 0.5).item(), rel=1e-5)
    assert contrast(users, users, 0.5) < contrast(views, users, 0.5)
    # An empty graph: a constant, log(2 B - 1), without effect on anybody.
    users.requires_grad_()
    constant = contrast(torch.zeros(6, 4), users, 0.5)
    assert constant.item() == pytest.approx(math.log(11))
    assert not torch.autograd.grad(constant, users)[0].any()


def test_best_items_and_their_graph_by_hand(monkeypatch):
    monkeypatch.setattr(modality_views, "BLOCK_ENTRIES", 3)  # one user at a time
    interactions = UserRows(csr_array(np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=np.float32)))
    graph = BestItems(3, 2, 1)
    users = torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, -1.0]])[:, :, None]
    items = torch.tensor([[9.0, 9.0], [5.0, 5.0], [2.0, 2.0]])[:, :, None]
    graph.choose(users, items, interactions)
    # An own item scores 0: never first among positive scores, always among negative ones.
    assert graph.chosen[:, :, 0].tolist() == [[1, 0], [0, 2], [0, 1]]
    ids = torch.tensor([[1.0], [2.0], [4.0]])
    of_users, of_items = graph.smooth(ids, 10.0 * ids)
    assert of_users[:, :, 0].tolist() == [[20.0, 10.0], [10.0, 40.0], [10.0, 20.0]]
    root = math.sqrt(0.5)
    assert torch.allclose(of_items[:, :, 0], torch.tensor([[6.0 * root, 1.0], [1.0, 4.0], [0.0, 2.0]]))


def test_refresh_follows_the_features_from_the_second_epoch_on(interactions, features):
    model = small(interactions, features, modality_graph="refresh", neighbor_share=0.1)
    first = model.best_items.chosen.clone()
    assert first.shape == (N_USERS, 2, 3)
    assert "best_items.chosen" in model.state_dict()
    with torch.no_grad():
        for layer in model.projections:
            layer.weight.normal_()
    model.begin_epoch(1)
    assert torch.equal(model.best_items.chosen, first)
    model.begin_epoch(2)
    assert not torch.equal(model.best_items.chosen, first)


def test_attention_over_equal_modalities_returns_them_whatever_its_kind():
    torch.manual_seed(0)
    identity, cross = (ModalityAttention(8, 4, kind) for kind in ("identity", "cross_modal"))
    cross.mixing.data.copy_(identity.mixing.data)
    same = torch.randn(5, 1, 8).repeat(1, 3, 1)
    assert torch.allclose(identity(same), cross(same), atol=1e-5)
    other = torch.randn(5, 3, 8)
    assert not torch.allclose(identity(other), cross(other), atol=1e-2)


def test_unit_rows_by_hand():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    units = unit(rows)
    assert units.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
    assert torch.isfinite(torch.autograd.grad(units.sum(), rows)[0]).all()


def test_dropout_acts_in_training_alone(interactions, features, batch):
    model = small(interactions, features, dropout=0.5)
    assert model.train().loss(batch).item() != model.loss(batch).item()
    model.begin_scoring()
    first = model.score(torch.arange(3))
    model.begin_scoring()
    assert torch.equal(first, model.score(torch.arange(3)))
    assert model.eval().loss(batch).item() == model.loss(batch).item()


def test_wrong_features_and_widths_are_refused(interactions, features):
    with pytest.raises(ValueError, match="at least one modality"):
        MMSSL(interactions, {})
    with pytest.raises(ValueError, match="two widths"):
        MMSSL(interactions, features, critic_dims=(8,))


def test_learns_planted_groups():
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    held_out = [(user, (user % 8) + 8 * (user // 10)) for user in range(20)]
    for user, item in held_out:
        dense[user, item] = 0.0
    interactions = csr_array(dense)
    torch.manual_seed(0)
    model = MMSSL(interactions, {"text": torch.randn(16, 3)}, embedding_dim=8, learning_rate=0.02)
    optimizers = model.optimizers()
    users, items = (torch.from_numpy(c.astype(np.int64)) for c in interactions.tocoo().coords)
    for _ in range(40):
        model.training_step(SimpleNamespace(users=users, positives=items, negatives=(items + 8) % 16), optimizers)
    with torch.no_grad():
        scores = model.score(torch.arange(20))
    own = torch.tensor([scores[user, item] for user, item in held_out])
    other = torch.tensor([scores[user, (item + 8) % 16] for user, item in held_out])
    assert (own > other).all()
