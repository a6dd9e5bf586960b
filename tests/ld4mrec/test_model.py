"""LD4MRec's loss, inference and ablations against the paper's equations and algorithms."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import ld4mrec.model
from ld4mrec import LD4MRec
from ld4mrec.diffusion import corrupt, step_embedding
from ld4mrec.model import draw_positions

N_USERS, N_ITEMS = 60, 40
SMALL = {"hidden_dim": 16, "svd_rank": 6, "step_dim": 4, "mlp_dim": 8, "diffusion_steps": 4}


class Batch(NamedTuple):
    users: torch.Tensor


BATCH = Batch(torch.tensor([3, 0, 17, 59, 8]))


@pytest.fixture(scope="module")
def interactions():
    rng = np.random.default_rng(0)
    matrix = csr_array((rng.random((N_USERS, N_ITEMS)) < 0.2).astype(np.float32))
    matrix.sort_indices()
    return matrix


@pytest.fixture(scope="module")
def features():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(N_ITEMS, width, generator=generator) for name, width in (("text", 5), ("image", 3))}


@pytest.fixture
def build(interactions, features):
    """Build a small model whose PG blocks have left their start."""

    def build_model(interactions=interactions, features=features, **hyperparameters):
        torch.manual_seed(1)
        model = LD4MRec(interactions, features, **{**SMALL, **hyperparameters})
        with torch.no_grad():
            for block in model.network.pg_blocks:
                for mlp in (*block.scales, *block.shifts):
                    mlp[-1].weight.normal_(std=0.3)
        return model

    return build_model


@torch.no_grad()
def scores(model, users=BATCH.users):
    return model.eval().score(users)


def parameter_names(model):
    return {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
@pytest.mark.parametrize("soft_labels", [True, False])
def test_loss_and_gradients_equal_the_equations_written_out(build, interactions, soft_labels, output):
    p, gamma = 0.2, 0.3
    model = build(soft_labels=soft_labels, soft_probability=p, soft_intensity=gamma, output=output)
    # A full history with unequal losses, so that the weights of Eq. 8 differ from 1.
    model.sampler.record(torch.arange(4).repeat(10), torch.arange(1.0, 41.0))
    n_t = model.sampler.probabilities()
    users = BATCH.users

    torch.manual_seed(7)
    loss = model.loss(BATCH)
    gradients = torch.autograd.grad(loss, list(model.parameters()))

    model.sampler.losses.copy_(torch.arange(1.0, 41.0).view(10, 4).T)
    torch.manual_seed(7)
    x_in = torch.from_numpy(interactions[users.numpy()].toarray())
    steps, _ = model.sampler.sample(len(users))
    x_t = corrupt(x_in, model.variances[steps + 1])
    z = step_embedding(4, 4)[steps] + model.z_in[users]
    c, text, image = model.signals[users].split([12, 5, 3], dim=1)
    x_0 = model.network(model.network.fc_in(x_t), z, [c], [text, image])
    x_0 = torch.sigmoid(x_0) if output == "sigmoid" else x_0
    target = x_in.clone()
    if soft_labels:
        drawn = torch.zeros(x_in.numel(), dtype=torch.bool)
        drawn[draw_positions(x_in.numel(), p, x_in.device)] = True
        drawn = drawn.view_as(x_in)
        assert 0 < drawn.sum() < drawn.numel()
        target[drawn & (x_in == 1)] = 1 - gamma  # S+
        target[drawn & (x_in == 0)] = gamma  # S-
    l_rec = ((x_0 - target) ** 2).sum(dim=1)
    expected = (l_rec / (4 * n_t[steps])).mean()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(set((4 * n_t[steps]).tolist())) > 1
    for one, other in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)


def test_positions_are_drawn_independently_with_probability_p():
    torch.manual_seed(0)
    n, p, repeats = 200, 0.15, 4000
    drawn = [draw_positions(n, p, torch.device("cpu")) for _ in range(repeats)]
    assert all((positions.diff() > 0).all() for positions in drawn)
    frequencies = torch.bincount(torch.cat(drawn), minlength=n) / repeats
    assert len(frequencies) == n
    assert frequencies.mean().item() == pytest.approx(p, abs=0.002)
    assert torch.allclose(frequencies, torch.tensor(p), atol=5 * (p * (1 - p) / repeats) ** 0.5)
    counts = torch.tensor([float(len(positions)) for positions in drawn])
    assert counts.var().item() == pytest.approx(n * p * (1 - p), rel=0.1)


def test_softened_labels_average_to_their_expectation(build):
    p, gamma = 0.3, 0.4
    model = build(soft_probability=p, soft_intensity=gamma)
    x = torch.tensor([[1.0, 0.0]]).repeat(20_000, 1)
    expected = torch.tensor([1 - p * gamma, p * gamma])
    torch.manual_seed(0)
    drawn = model._soften(x.clone())
    assert torch.allclose(drawn.mean(dim=0), expected, atol=0.006)
    assert torch.allclose(drawn.unique(), torch.tensor([0.0, gamma, 1 - gamma, 1.0]))
    exact = build(soft_probability=p, soft_intensity=gamma, expected_soft_labels=True)
    assert torch.allclose(exact._soften(x.clone()), expected.expand_as(x))


def test_the_history_takes_one_mean_loss_per_step_and_batch(build):
    model = build()
    model.loss(Batch(torch.arange(N_USERS)))
    assert model.sampler.seen.tolist() == [1, 1, 1, 1]
    assert (model.sampler.losses[:, 0] > 0).all()
    one_step = build(step_draw="batch")
    one_step.loss(Batch(torch.arange(N_USERS)))
    assert sorted(one_step.sampler.seen.tolist()) == [0, 0, 0, 1]


def test_without_importance_sampling_all_steps_are_drawn_alike_with_weight_one(build):
    model = build(importance_sampling=False)
    torch.manual_seed(0)
    t, weights = model._draw_steps(40_000)
    assert torch.allclose(torch.bincount(t) / 40_000, torch.tensor([0.0, 0.25, 0.25, 0.25, 0.25]), atol=0.01)
    assert torch.equal(weights, torch.ones(40_000))
    assert torch.isfinite(model.loss(BATCH))


def test_clean_rows_are_seen_as_inference_sees_them(build):
    model = build(p_clean=1.0, soft_labels=False)
    loss = model.loss(BATCH)
    x_in = model.rows.dense(BATCH.users)
    assert loss.item() == pytest.approx((scores(model) - x_in).square().sum(dim=1).mean().item(), rel=1e-5)
    assert model.sampler.seen.sum() == 0
    torch.manual_seed(0)
    t, _ = build(p_clean=0.3)._draw_steps(20_000)
    assert (t == 0).float().mean().item() == pytest.approx(0.3, abs=0.015)


def test_row_weight_divides_by_the_number_of_interactions(build, interactions):
    clean = {"p_clean": 1.0, "soft_labels": False}
    plain, weighted = build(**clean), build(**clean, row_weight="interactions")
    one = Batch(torch.tensor([17]))
    n_u = interactions[[17]].sum()
    assert n_u > 1
    assert weighted.loss(one).item() == pytest.approx(plain.loss(one).item() / n_u, rel=1e-5)


def test_dropout_acts_in_training_only(build):
    model = build(p_clean=1.0, soft_labels=False, dropout=0.5)
    assert model.train().loss(BATCH).item() != pytest.approx(model.loss(BATCH).item(), rel=1e-6)
    assert torch.equal(scores(model), scores(model))


@pytest.fixture
def passes(monkeypatch):
    """Count the passes through the network."""
    counted = []
    forward = ld4mrec.model.CNet.forward

    def count(self, *args):
        counted.append(self)
        return forward(self, *args)

    monkeypatch.setattr(ld4mrec.model.CNet, "forward", count)
    return counted


def test_forward_free_inference_is_one_pass_without_noise(build, passes, monkeypatch):
    model = build()

    def refuse(*args):
        raise AssertionError("forward-free inference corrupted its input")

    monkeypatch.setattr(ld4mrec.model, "corrupt", refuse)
    state = torch.get_rng_state()
    first = scores(model)
    assert len(passes) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(scores(model), first)


def test_forward_free_inference_is_the_network_on_the_clicks_with_z_in_alone(build, interactions):
    model = build()
    users = BATCH.users
    x_in = torch.from_numpy(interactions[users.numpy()].toarray())
    c, text, image = model.signals[users].split([12, 5, 3], dim=1)
    expected = model.network(model.network.fc_in(x_in), model.z_in[users], [c], [text, image])
    assert torch.allclose(scores(model), expected, atol=1e-5)


@pytest.mark.parametrize(("reverse", "n_passes"), [("one_shot", 1), ("stepwise", 3)])
def test_inference_with_forward_steps_takes_noise_and_its_passes(build, passes, reverse, n_passes):
    model = build(forward_steps=3, reverse=reverse)
    first = scores(model)
    assert len(passes) == n_passes
    assert not torch.equal(scores(model), first)


def test_both_ways_back_agree_after_one_forward_step_and_differ_after_more(build):
    one_shot, stepwise = build(forward_steps=1), build(forward_steps=1, reverse="stepwise")
    for forward_steps, alike in ((1, True), (4, False)):
        one_shot.forward_steps = stepwise.forward_steps = forward_steps
        torch.manual_seed(3)
        first = scores(one_shot)
        torch.manual_seed(3)
        assert torch.allclose(scores(stepwise), first, atol=1e-6) == alike


def test_more_forward_steps_than_the_schedule_has_are_refused(build):
    with pytest.raises(ValueError, match=r"diffusion_steps=4.*found 5"):
        build(forward_steps=5)


@pytest.mark.parametrize(
    ("inference_step", "sinusoid"),
    [("none", [0, 0, 0, 0]), ("zero", [0, 1, 0, 1]), ("one", step_embedding(1, 4)[0].tolist())],
)
def test_the_embedding_of_inference_and_training(build, inference_step, sinusoid):
    model = build(inference_step=inference_step)
    z_in = model.z_in[BATCH.users]
    assert torch.allclose(model._step(BATCH.users, 0), z_in + torch.tensor(sinusoid))
    t = torch.tensor([1, 2, 3, 4, 1])
    assert torch.allclose(model._step(BATCH.users, t), z_in + step_embedding(4, 4)[t - 1])


def test_a_user_without_interactions_is_scored_with_the_mean_initial_step(build, interactions):
    emptied = interactions.toarray()
    emptied[17] = 0
    model = build(csr_array(emptied)).eval()
    known = torch.arange(N_USERS) != 17
    z = model._step(BATCH.users, 0)
    assert torch.allclose(z[2], model.z_in[known].mean(dim=0))
    assert torch.equal(z[0], model.z_in[3])
    assert torch.isfinite(scores(model)).all()


def test_sigmoid_output_lies_between_zero_and_one(build):
    x_0 = scores(build(output="sigmoid"))
    assert x_0.min() > 0
    assert x_0.max() < 1


def test_each_variant_drops_its_own_parameters(build):
    full = parameter_names(build())
    without_cg, without_pg = parameter_names(build(cg=False)), parameter_names(build(pg=False))
    pg = {name for name in full if "pg_blocks" in name}
    assert full - without_pg == pg != set()
    assert {name.split(".")[3] for name in full - without_cg if "cg_blocks" in name} == {"own", "w_2", "w_3"}
    assert {name.split(".")[3] for name in without_cg - full} == {"w_1h", "w_1z"}
    assert pg < without_cg
    assert full - parameter_names(build(initial_step="none")) == {"z_in"}
    assert parameter_names(build(soft_labels=False)) == parameter_names(build(importance_sampling=False)) == full


def test_the_initial_step_can_be_shared(build):
    model = build(initial_step="shared")
    assert model.z_in.shape == (1, 4)
    assert torch.equal(model._step(BATCH.users, 0), model.z_in.expand(5, 4))


@pytest.mark.parametrize(
    "variant",
    [
        {"cg": False},
        {"pg": False},
        {"cg": False, "pg": False},
        {"initial_step": "none"},
        {"initial_step": "shared"},
        {"svd_matrix": "raw", "svd_scale": "standardized"},
        {"svd_scale": "none"},
        {"diffusion_steps": 1},
        {"expected_soft_labels": True},
        {"step_draw": "batch"},
    ],
    ids=str,
)
def test_every_variant_trains_and_scores(build, variant):
    model = build(**variant)
    loss = model.loss(BATCH)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert scores(model).shape == (5, N_ITEMS)


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_any_number_of_modalities_acts_on_the_scores(build, n_modalities):
    generator = torch.Generator().manual_seed(2)
    features = {f"m{n}": torch.randn(N_ITEMS, 2 + n, generator=generator) for n in range(n_modalities)}
    model = build(features=features)
    assert model.signals.shape == (N_USERS, 12 + sum(2 + n for n in range(n_modalities)))
    assert torch.isfinite(model.loss(BATCH))
    for name in features:
        others = {key: value.flip(0) if key == name else value for key, value in features.items()}
        assert not torch.allclose(scores(build(features=others)), scores(model), atol=1e-4)


def test_no_modality_needs_pg_switched_off(build):
    with pytest.raises(ValueError, match="set pg=False"):
        build(features={})
    assert scores(build(features={}, pg=False)).shape == (5, N_ITEMS)


def test_features_of_other_items_are_refused(build):
    with pytest.raises(ValueError, match=r"\[40, width\]"):
        build(features={"text": torch.zeros(N_ITEMS + 1, 3)})


def test_the_state_holds_what_was_learned_and_nothing_else(build):
    model = build()
    assert set(model.state_dict()) == parameter_names(model)


def test_gate_means_by_block_and_step(build):
    model = build().eval()
    means = model.gate_means(BATCH.users)
    assert means.shape == (2, 5)
    gate = model.network.cg_blocks[1].gate(model.step_embeddings[3] + model.z_in[BATCH.users])
    assert means[1, 3].item() == pytest.approx(gate.mean().item())


def planted(seed=0, n_users=120, n_items=60, n_groups=4):
    """Return (train, test, features): users of a group click the items of their group, most popular first."""
    rng = np.random.default_rng(seed)
    user_group, item_group = np.arange(n_users) % n_groups, np.arange(n_items) % n_groups
    affinity = np.where(user_group[:, None] == item_group, 1.0, 0.08) * rng.uniform(0.4, 1.0, n_items)
    clicks = rng.random((n_users, n_items)) < affinity * 0.8
    held_out = clicks & (rng.random(clicks.shape) < 0.25)
    features = torch.from_numpy(np.eye(n_groups, dtype=np.float32)[item_group] + rng.normal(0, 0.3, (n_items, 4)))
    return csr_array((clicks & ~held_out).astype(np.float32)), held_out, {"group": features.float()}


def recall(ranking_scores, train, held_out, k=5):
    ranking_scores = np.where(train.toarray() > 0, -np.inf, ranking_scores)
    top = np.argsort(-ranking_scores, axis=1)[:, :k]
    counts = held_out.sum(axis=1)
    hits = np.take_along_axis(held_out, top, axis=1).sum(axis=1)
    return (hits[counts > 0] / counts[counts > 0]).mean()


def test_training_lowers_the_loss_and_beats_popularity_on_planted_tastes():
    train, held_out, features = planted()
    torch.manual_seed(0)
    model = LD4MRec(train, features, hidden_dim=32, svd_rank=8, mlp_dim=16, weight_decay=0.01)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=model.weight_decay)
    losses = []
    for _, users in itertools.product(range(40), torch.arange(120).split(40)):
        optimizer.zero_grad()
        loss = model.loss(Batch(users))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    popularity = np.tile(train.sum(axis=0), (120, 1))
    learned = scores(model, torch.arange(120)).numpy()
    assert recall(learned, train, held_out) > 1.3 * recall(popularity, train, held_out)
