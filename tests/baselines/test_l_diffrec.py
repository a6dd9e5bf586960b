from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import baselines.l_diffrec
from baselines.diffrec import diffrec_variances, snr_weights
from baselines.l_diffrec import LDiffRec, split_dims
from ld4mrec.diffusion import noise_variances, posterior_mean_weights

SMALL = {"latent_dim": 12, "hidden_dims": (8,)}
NOISY = {"diffusion_steps": 4, "noise_scale": 0.5, "noise_min": 0.1, "noise_max": 0.9}


def everyone():
    return SimpleNamespace(users=torch.arange(40))


def dense_moments(model, x):
    """Mean and log variance from dense rows, cluster by cluster."""
    means, log_variances = [], []
    for number, encoder in enumerate(model.encoders):
        members = (model.cluster == number).nonzero()[:, 0]
        hidden = torch.tanh(x[:, members] @ encoder.item_weights + encoder.bias)
        half = hidden.shape[1] // 2
        means.append(hidden[:, :half])
        log_variances.append(hidden[:, half:])
    return torch.cat(means, dim=1), torch.cat(log_variances, dim=1)


def dense_denoiser(model, z, step):
    net = model.denoiser
    steps = net.sinusoids[step] @ net.step_layer.weight.T + net.step_layer.bias
    hidden = torch.cat((z, steps.expand(len(z), -1)), dim=1)
    for layer in net.layers[:-1]:
        hidden = torch.tanh(hidden @ layer.weight.T + layer.bias)
    return hidden @ net.layers[-1].weight.T + net.layers[-1].bias


@pytest.mark.parametrize("n_clusters", [1, 2, 5])
def test_encoder_of_sparse_rows_equals_dense(interactions, n_clusters):
    model = LDiffRec(interactions, {}, n_clusters=n_clusters, **SMALL)
    users = torch.tensor([7, 5, 0, 5])
    rows, items = model.rows.coordinates(users)
    values = torch.rand(len(items))
    x = torch.zeros(4, 30)
    x[rows, items] = values
    with torch.no_grad():
        own, expected = model.encode(rows, items, values, 4), dense_moments(model, x)
    assert own[0].shape == (4, 12)
    assert torch.allclose(own[0], expected[0], atol=1e-6)
    assert torch.allclose(own[1], expected[1], atol=1e-6)


def test_every_item_has_its_own_place(interactions):
    model = LDiffRec(interactions, {}, n_clusters=3, **SMALL)
    for number, encoder in enumerate(model.encoders):
        places = model.place[model.cluster == number]
        assert sorted(places.tolist()) == list(range(len(encoder.item_weights)))


@pytest.mark.parametrize("reweight", ["snr", "none"])
def test_loss_and_gradient_agree_with_dense_arithmetic(interactions, monkeypatch, reweight):
    drawn, steps, importance = [], torch.arange(40) % 4, torch.linspace(0.5, 2.0, 40)
    torch.manual_seed(0)
    model = LDiffRec(interactions, {}, n_clusters=3, dropout=0.0, reweight=reweight, **SMALL, **NOISY)
    recorded = []
    model.sampler.sample = lambda n: (steps, importance)
    model.sampler.record = lambda _, losses: recorded.append(losses)
    model._steps = 30

    def corrupted(z, variance):
        drawn.append((torch.randn_like(z), variance))
        return (1 - variance[:, None]).sqrt() * z + variance[:, None].sqrt() * drawn[-1][0]

    def thinned(values, p, training):
        drawn.append(values * (torch.arange(len(values)) % 3 > 0) * 1.5)
        return drawn[-1]

    monkeypatch.setattr(baselines.l_diffrec, "corrupt", corrupted)
    with monkeypatch.context() as first_call:
        # The denoiser's dropout is off, so only the encoder's call is replaced.
        real = baselines.l_diffrec.dropout
        first_call.setattr(
            baselines.l_diffrec, "dropout", lambda v, p, t: thinned(v, p, t) if v.dim() == 1 else real(v, p, t)
        )
        torch.manual_seed(1)
        loss = model.loss(everyone())
    values, (noise, variance) = drawn
    torch.manual_seed(1)
    epsilon = torch.randn(40, 12)

    v = noise_variances(*NOISY.values()).float()
    assert torch.allclose(variance, v[steps])
    x = torch.zeros(40, 30)
    x[model.rows.coordinates(torch.arange(40))] = values
    mean, log_variance = dense_moments(model, x)
    z_0 = mean + epsilon * torch.exp(log_variance / 2)
    z_t = (1 - v[steps, None]).sqrt() * z_0 + v[steps, None].sqrt() * noise
    estimate = torch.stack([dense_denoiser(model, z_t[u : u + 1], steps[u])[0] for u in range(40)])
    w = snr_weights(noise_variances(*NOISY.values())).float() if reweight == "snr" else torch.ones(4)
    diffusion = w[steps] * (z_0 - estimate).square().mean(dim=1)
    scores = estimate @ model.decoder.weight.T + model.decoder.bias
    probabilities = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
    likelihood = (x * probabilities.log()).sum(dim=1).mean()
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1).mean()
    expected = -likelihood + 30 / 200 * divergence + 0.03 * (diffusion * importance).mean()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(recorded[0], diffusion, rtol=1e-4)
    assert not recorded[0].requires_grad
    parameters = list(model.parameters())
    for own, plain in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert torch.allclose(own, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("hidden_dims", "diffusion_steps"), [((8,), 4), ((8, 16), 3), ((8,), 1)])
def test_scores_walk_the_reverse_chain(interactions, hidden_dims, diffusion_steps):
    schedule = {**NOISY, "diffusion_steps": diffusion_steps}
    model = LDiffRec(interactions, {}, latent_dim=12, hidden_dims=hidden_dims, **schedule).eval()
    of_z_0, of_z_t = posterior_mean_weights(diffrec_variances(*schedule.values(), False))
    users = torch.tensor([7, 5, 0])
    with torch.no_grad():
        z, _ = dense_moments(model, model.rows.dense(users))
        for step in reversed(range(diffusion_steps)):
            z = of_z_0[step].float() * dense_denoiser(model, z, step) + of_z_t[step].float() * z
        expected = z @ model.decoder.weight.T + model.decoder.bias
        assert torch.allclose(model.score(users), expected, atol=1e-5)


def test_the_schedule_is_the_printed_one(interactions):
    model = LDiffRec(interactions, {}, **SMALL, noise_scale=0.5, noise_min=0.001, noise_max=0.005)
    assert torch.allclose(model.variances, noise_variances(5, 0.5, 0.001, 0.005).float())


def test_dropout_thins_the_target_too_and_only_in_training(interactions):
    def likelihoods(training):
        torch.manual_seed(0)
        model = LDiffRec(
            interactions,
            {},
            encoder_dropout=0.9,
            diffusion_weight=0.0,
            diffusion_weight_min=0.0,
            kl_weight=0.0,
            **SMALL,
        ).train(training)
        with torch.no_grad():
            # All scores alike, so the loss is log(30) times the mean number of items, dropped out or not.
            model.decoder.weight.zero_()
            return [model.loss(everyone()).item() / np.log(30) for _ in range(3)]

    items_per_user = interactions.nnz / 40
    assert likelihoods(False) == pytest.approx([items_per_user] * 3, rel=1e-4)
    thinned = likelihoods(True)
    assert len(set(thinned)) > 1
    assert all(round(40 * n / 10, 3).is_integer() for n in thinned)


def test_weights_of_the_losses_over_time(interactions):
    model = LDiffRec(interactions, {}, **SMALL, diffusion_weight=0.03)
    assert model.loss_weights() == (0.03, 0.0)
    model.begin_epoch(101)
    assert model.loss_weights()[0] == pytest.approx(0.8 * 0.03)
    model.begin_epoch(490)
    assert model.loss_weights()[0] == 0.005
    for _ in range(2):
        model.loss(everyone())
    assert model.loss_weights()[1] == pytest.approx(2 / 200)
    model.eval().loss(everyone())
    assert model.loss_weights()[1] == pytest.approx(2 / 200)
    model._steps = 61
    assert model.loss_weights()[1] == 0.3
    assert LDiffRec(interactions, {}, **SMALL, kl_warmup_steps=0).loss_weights()[1] == 0.3


@pytest.mark.parametrize(
    ("sizes", "latent_dim", "expected"),
    [
        ([50, 50], 300, [150, 150]),
        ([1718, 4992], 300, [76, 224]),
        ([1, 999], 300, [1, 299]),
        ([999, 1], 300, [299, 1]),
        ([1, 1, 1, 997], 4, [1, 1, 1, 1]),
        ([997, 1, 1, 1], 6, [3, 1, 1, 1]),
        ([10], 7, [7]),
    ],
)
def test_dimensions_follow_the_clusters_sizes(sizes, latent_dim, expected):
    assert split_dims(sizes, latent_dim) == expected


def test_two_step_sizes(interactions):
    model = LDiffRec(interactions, {}, **SMALL, learning_rate=0.1, denoiser_learning_rate=0.2, weight_decay=0.3)
    (optimizer,) = model.optimizers()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["weight_decay"] == 0.3 for group in optimizer.param_groups)
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == (0.2 if name.startswith("denoiser") else 0.1)


def test_initial_spread(interactions):
    torch.manual_seed(0)
    model = LDiffRec(interactions, {}, latent_dim=300, hidden_dims=(200,), n_clusters=1)
    assert model.encoders[0].item_weights.std().item() == pytest.approx((2 / 630) ** 0.5, rel=0.05)
    assert model.decoder.weight.std().item() == pytest.approx((2 / 330) ** 0.5, rel=0.05)
    assert model.denoiser.layers[0].weight.std().item() == pytest.approx((2 / 510) ** 0.5, rel=0.05)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_dropout_of_the_code_only_in_training(interactions):
    denoiser = LDiffRec(interactions, {}, **SMALL).denoiser
    z, steps = torch.randn(5, 12), torch.zeros(5, dtype=torch.int64)
    with torch.no_grad():
        assert torch.equal(denoiser.eval()(z, steps), denoiser(z, steps))
        assert not torch.equal(denoiser.train()(z, steps), denoiser.eval()(z, steps))


def test_state_dict_holds_what_was_learned(interactions):
    model = LDiffRec(interactions, {}, **SMALL)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_shapes_do_not_depend_on_the_seed(interactions):
    shapes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        shapes.append([p.shape for p in LDiffRec(interactions, {}, n_clusters=4, **SMALL).parameters()])
    assert shapes[0] == shapes[1]


def test_learns_planted_groups():
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    held_out = [(user, (user % 8) + 8 * (user // 10)) for user in range(20)]
    for user, item in held_out:
        dense[user, item] = 0.0
    torch.manual_seed(0)
    model = LDiffRec(
        csr_array(dense), {}, latent_dim=16, hidden_dims=(32,), learning_rate=0.02, denoiser_learning_rate=0.02
    )
    assert model.cluster[:8].unique().numel() == model.cluster[8:].unique().numel() == 1
    (optimizer,) = model.optimizers()
    for epoch in range(1, 81):
        model.begin_epoch(epoch)
        optimizer.zero_grad()
        loss = model.loss(SimpleNamespace(users=torch.arange(20)))
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        scores = model.eval().score(torch.arange(20))
    own = torch.tensor([scores[user, item] for user, item in held_out])
    other = torch.tensor([scores[user, (item + 8) % 16] for user, item in held_out])
    assert (own > other).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise_min": 0.1, "noise_max": 0.01}, r"noise_min <= noise_max, found 0\.1 > 0\.01"),
        ({"hidden_dims": ()}, r"at least one hidden width.*found \(\)"),
        ({"n_clusters": 31}, r"as items \(30\) and latent dimensions \(300\), found n_clusters=31"),
        ({"n_clusters": 9, "latent_dim": 8}, r"latent dimensions \(8\), found n_clusters=9"),
    ],
)
def test_contradictions_are_refused(interactions, wrong, message):
    with pytest.raises(ValueError, match=message):
        LDiffRec(interactions, {}, **wrong)
