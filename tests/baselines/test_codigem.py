from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import baselines.codigem
from baselines.codigem import CODIGEM, RowNetwork, gaussian_misfit, split_moments
from ld4mrec.diffusion import corrupt


@pytest.fixture
def latents(monkeypatch):
    """All rows that were corrupted and what became of them, in order."""
    record = []

    def remember(x, variance):
        record.append((x, corrupt(x, variance)))
        return record[-1][1]

    monkeypatch.setattr(baselines.codigem, "corrupt", remember)
    return record


def plain_network(network, z):
    """The same network layer by layer, each PReLU written out."""
    layers = [(network.item_weights.T, network.input_bias), *((layer.weight, layer.bias) for layer in network.hidden)]
    for (weight, bias), activation in zip(layers, network.activations, strict=True):
        z = z @ weight.T + bias
        z = torch.where(z > 0, z, activation.weight * z)
    return z @ network.output.weight.T + network.output.bias


def gaussian(z, mean, variance):
    return torch.distributions.Normal(mean, variance**0.5).log_prob(z)


def batch_of(*users):
    return SimpleNamespace(users=torch.tensor(users))


@pytest.mark.parametrize("n_layers", [2, 3, 6])
def test_network_is_a_chain_of_linear_layers(n_layers):
    network = RowNetwork(30, 8, n_layers, 12)
    assert len(network.hidden) == n_layers - 2
    z = torch.randn(5, 30)
    assert torch.allclose(network(z), plain_network(network, z), atol=1e-6)
    assert all(activation.weight.item() == 0.25 for activation in network.activations)
    assert network.item_weights.abs().max().item() == pytest.approx(30**-0.5, rel=0.1)


def test_official_loss_is_that_of_a_denoising_autoencoder(interactions, latents):
    model = CODIGEM(interactions, {}, hidden_dim=8, noise_variance=0.2)
    x = torch.from_numpy(interactions.toarray()[[7, 5, 0]])
    loss = model.loss(batch_of(7, 5, 0))
    ((given, z_0),) = latents
    assert torch.equal(given, x)
    expected = 0.5 * (x - torch.tanh(plain_network(model.decoder, z_0))).square().sum() / 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(model.parameters())
    for own, plain in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert torch.allclose(own, plain, atol=1e-5)


def test_each_step_shrinks_and_adds_noise(interactions, latents):
    torch.manual_seed(0)
    wide = csr_array(np.ones((3, 4000), dtype=np.float32))
    model = CODIGEM(wide, {}, hidden_dim=2, n_layers=2, variant="paper", diffusion_steps=3, noise_variance=0.36)
    model.loss(batch_of(0, 1, 2))
    assert len(latents) == 3
    for (before, after), (following, _) in pairwise(latents):
        assert following is after
        assert (after - 0.8 * before).std().item() == pytest.approx(0.6, rel=0.05)
        assert (after - 0.8 * before).mean().item() == pytest.approx(0.0, abs=0.02)


def test_paper_loss_is_the_bound_up_to_what_has_no_gradient(interactions, latents):
    beta = 0.2
    model = CODIGEM(interactions, {}, hidden_dim=8, variant="paper", diffusion_steps=4, noise_variance=beta)
    assert len(model.reverse) == 3
    loss = model.loss(batch_of(7, 5, 0))
    x, z = latents[0][0], [after for _, after in latents]
    bound, log_q = gaussian(x, torch.tanh(plain_network(model.decoder, z[0])), 1.0), 0.0
    for i, network in enumerate(model.reverse):
        mean, log_variance = plain_network(network, z[i + 1]).split(30, dim=1)
        log_variance = 10 * torch.tanh(log_variance / 10)
        bound = bound + gaussian(z[i], mean, log_variance.exp())
        log_q = log_q + gaussian(z[i], (1 - beta) ** 0.5 * (z[i - 1] if i else x), beta)
    assert not log_q.requires_grad
    # Left out beside log q: the constants of the four normal densities.
    constants = 4 * 30 * 0.5 * np.log(2 * np.pi)
    assert loss.item() == pytest.approx(-bound.sum().item() / 3 - constants, rel=1e-4)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(-bound.sum() / 3, parameters)
    for own, plain in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        assert torch.allclose(own, plain, atol=1e-5)


def test_chain_has_no_gradient_for_the_decoder(interactions):
    """The claim behind the official variant: the decoder learns the same with and without the chain."""

    def gradient(variant):
        torch.manual_seed(0)
        model = CODIGEM(interactions, {}, hidden_dim=8, variant=variant)
        torch.manual_seed(1)
        return torch.autograd.grad(model.loss(batch_of(7, 5, 0)), list(model.decoder.parameters()))

    assert all(torch.equal(a, b) for a, b in zip(gradient("official"), gradient("paper"), strict=True))


def test_misfit_of_a_hand_computed_normal():
    misfit = gaussian_misfit(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, np.log(4.0)]]))
    assert misfit.item() == pytest.approx(0.5 * (0 + 1) + 0.5 * (np.log(4.0) + 4 / 4), rel=1e-5)


def test_log_variance_is_bounded_and_still_learns():
    output = torch.tensor([[3.0, -2.0, 50.0, -12.0]], requires_grad=True)
    mean, log_variance = split_moments(output)
    assert mean.tolist() == [[3.0, -2.0]]
    assert log_variance.abs().max() <= 10
    (gradient,) = torch.autograd.grad(log_variance.sum(), output)
    assert (gradient[0, 2:] > 0).all()


def test_official_scores_are_the_decoder_of_clean_rows(interactions):
    model = CODIGEM(interactions, {}, hidden_dim=8, noise_variance=0.19).eval()
    users = torch.tensor([7, 5, 0])
    with torch.no_grad():
        expected = torch.tanh(plain_network(model.decoder, 0.9 * model.rows.dense(users)))
        assert torch.allclose(model.score(users), expected, atol=1e-6)


def test_paper_scores_walk_the_chain(interactions):
    model = CODIGEM(interactions, {}, hidden_dim=8, variant="paper", diffusion_steps=3, noise_variance=0.19).eval()
    users = torch.tensor([7, 5, 0])
    with torch.no_grad():
        z = 0.9**3 * model.rows.dense(users)
        for network in (model.reverse[1], model.reverse[0]):
            z = plain_network(network, z)[:, :30]
        expected = torch.tanh(plain_network(model.decoder, z))
        assert torch.allclose(model.score(users), expected, atol=1e-6)


def test_one_latent_makes_the_variants_one(interactions):
    torch.manual_seed(0)
    official = CODIGEM(interactions, {}, hidden_dim=8)
    paper = CODIGEM(interactions, {}, hidden_dim=8, variant="paper", diffusion_steps=1)
    paper.load_state_dict(official.state_dict())
    with torch.no_grad():
        assert torch.equal(official.score(torch.arange(40)), paper.score(torch.arange(40)))


def test_official_variant_has_no_reverse_networks(interactions):
    few, many = (CODIGEM(interactions, {}, hidden_dim=8, diffusion_steps=steps) for steps in (1, 9))
    assert set(few.state_dict()) == set(many.state_dict()) == {name for name, _ in few.named_parameters()}


def test_optimizer_is_adamax(interactions):
    (optimizer,) = CODIGEM(interactions, {}, learning_rate=0.02, weight_decay=0.1).optimizers()
    assert isinstance(optimizer, torch.optim.Adamax)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.02, 0.1)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_learns_planted_groups(variant):
    dense = np.kron(np.eye(2), np.ones((10, 8))).astype(np.float32)
    held_out = [(user, (user % 8) + 8 * (user // 10)) for user in range(20)]
    for user, item in held_out:
        dense[user, item] = 0.0
    torch.manual_seed(0)
    model = CODIGEM(csr_array(dense), {}, hidden_dim=16, n_layers=3, learning_rate=0.02, variant=variant)
    (optimizer,) = model.optimizers()
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = model.loss(batch_of(*range(20)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    with torch.no_grad():
        scores = model.score(torch.arange(20))
    own = torch.tensor([scores[user, item] for user, item in held_out])
    other = torch.tensor([scores[user, (item + 8) % 16] for user, item in held_out])
    assert (own > other).all()
