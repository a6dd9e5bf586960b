from types import SimpleNamespace

import numpy as np
import pytest
import torch

from baselines.diffrec import DiffRec, diffrec_variances, snr_weights
from ld4mrec.diffusion import noise_variances, posterior_mean_weights

AMAZON_BOOK = (5, 1e-4, 5e-4, 5e-3, True)
YELP = (5, 1e-2, 1e-3, 1e-2, True)
ML_1M_NOISY = (5, 0.5, 1e-3, 1e-2, True)


def everyone(interactions):
    return SimpleNamespace(users=torch.arange(interactions.shape[0]))


def dense_network(model, x, step):
    """f(x, t) for one step, from one concatenated input and plain matrices."""
    steps = model.sinusoids[step] @ model.step_layer.weight.T + model.step_layer.bias
    inputs = torch.cat((x, steps.expand(len(x), -1)), dim=1)
    hidden = torch.tanh(inputs @ torch.cat((model.item_weights, model.step_input)) + model.input_bias)
    for layer in model.hidden:
        hidden = torch.tanh(layer(hidden))
    return model.output(hidden)


def test_amazon_book_schedule():
    variances = diffrec_variances(*AMAZON_BOOK)
    assert variances.dtype == torch.float64
    assert variances[0].item() == pytest.approx(1.0e-5, rel=1e-9)
    assert variances[-1].item() == pytest.approx(1.045e-5, rel=1e-4)
    weights = snr_weights(variances)
    assert weights[0] == 1.0
    assert weights[1:].min().item() == pytest.approx(1.04e3, rel=0.01)
    assert weights[1:].max().item() == pytest.approx(1.11e3, rel=0.01)
    of_x_0, of_x_t = posterior_mean_weights(variances)
    assert of_x_0[1:].mean().item() == pytest.approx(0.011, abs=5e-4)
    assert of_x_t[1:].mean().item() == pytest.approx(0.989, abs=5e-4)


@pytest.mark.parametrize(
    ("setting", "published"), [(YELP, [6.92e4, 1.26e4, 5.3e3, 2.9e3]), (ML_1M_NOISY, [9.9e4, 438, 147, 74])]
)
def test_weights_of_released_settings(setting, published):
    assert snr_weights(diffrec_variances(*setting)).tolist() == pytest.approx([1.0, *published], rel=0.02)


def test_posterior_ends_at_the_prediction():
    of_x_0, of_x_t = posterior_mean_weights(diffrec_variances(*YELP))
    assert of_x_0[0].item() == pytest.approx(1.0)
    assert of_x_t[0].item() == pytest.approx(0.0)


def test_posterior_coefficients_from_betas():
    kept = 1.0 - diffrec_variances(*ML_1M_NOISY).numpy()
    before = np.concatenate(([1.0], kept[:-1]))
    beta = 1.0 - kept / before
    of_x_0, of_x_t = posterior_mean_weights(diffrec_variances(*ML_1M_NOISY))
    assert np.allclose(of_x_0, beta * np.sqrt(before) / (1.0 - kept))
    assert np.allclose(of_x_t, (1.0 - before) * np.sqrt(1.0 - beta) / (1.0 - kept))


def test_without_the_override_the_schedule_is_the_printed_one():
    variances = diffrec_variances(5, 0.1, 1e-3, 1e-2, False)
    assert torch.allclose(variances, noise_variances(5, 0.1, 1e-3, 1e-2), rtol=1e-10)


def test_first_layer_of_sparse_rows_equals_dense(interactions):
    model = DiffRec(interactions, {}, hidden_dims=(16,), reverse_steps=1).eval()
    users = torch.tensor([0, 5, 39, 5])
    with torch.no_grad():
        expected = dense_network(model, model.rows.dense(users), 0)
        assert torch.allclose(model.score(users), expected, atol=1e-5)
        zeros = torch.zeros(4, dtype=torch.int64)
        assert torch.allclose(model.denoise(model.rows.dense(users), zeros), expected, atol=1e-5)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(("hidden_dims", "reverse_steps"), [((16,), 0), ((8, 16), 0), ((16,), 3)])
def test_reverse_chain_agrees_with_the_plain_loop(interactions, fold, hidden_dims, reverse_steps):
    schedule = {"diffusion_steps": 5, "noise_scale": 0.5, "noise_min": 0.1, "noise_max": 0.9}
    model = DiffRec(
        interactions, {}, hidden_dims=hidden_dims, reverse_steps=reverse_steps, fold_reverse_steps=fold, **schedule
    ).eval()
    of_x_0, of_x_t = posterior_mean_weights(diffrec_variances(*schedule.values(), True))
    users = torch.tensor([7, 5, 0])
    with torch.no_grad():
        x = model.rows.dense(users)
        for step in reversed(range(reverse_steps or 5)):
            x = of_x_0[step].float() * dense_network(model, x, step) + of_x_t[step].float() * x
        assert torch.allclose(model.score(users), x, atol=1e-5)
        model.begin_scoring()
        assert torch.allclose(model.score(users), x, atol=1e-5)


def test_training_outdates_the_folded_layers(interactions):
    model = DiffRec(interactions, {}, hidden_dims=(16,))
    with torch.no_grad():
        model.begin_scoring()
        model.loss(everyone(interactions))
        model.output.bias.add_(1.0)
        expected = model.score(torch.arange(4))
        model.begin_scoring()
        assert torch.equal(model.score(torch.arange(4)), expected)


def test_hidden_widths_mirror(interactions):
    model = DiffRec(interactions, {}, hidden_dims=(4, 8))
    assert model.item_weights.shape == (30, 8)
    assert [tuple(layer.weight.shape) for layer in model.hidden] == [(4, 8), (8, 4)]
    assert model.output.weight.shape == (30, 8)


def test_loss_weighs_rows_and_records_them_undivided(interactions):
    model = DiffRec(interactions, {}, hidden_dims=(16,), diffusion_steps=3, dropout=0.0)
    recorded, importance = [], torch.linspace(0.5, 2.0, 40)
    steps = torch.arange(40) % 3
    model.sampler.sample = lambda n: (steps, importance)
    model.sampler.record = lambda _, losses: recorded.append(losses)
    model.variances.zero_()
    loss = model.loss(everyone(interactions))
    x = model.rows.dense(torch.arange(40))
    errors = torch.stack([(dense_network(model, x, step) - x).square().mean(dim=1) for step in range(3)])
    expected = snr_weights(diffrec_variances(3, 0.01, 0.001, 0.01, True)).float()[steps] * errors[steps, range(40)]
    assert torch.allclose(recorded[0], expected, rtol=1e-4)
    assert not recorded[0].requires_grad
    assert loss.item() == pytest.approx((expected * importance).mean().item(), rel=1e-4)


@pytest.mark.parametrize("reweight", ["snr", "none"])
@pytest.mark.parametrize("diffusion_steps", [1, 4])
def test_loss_is_finite_and_falls(interactions, reweight, diffusion_steps):
    torch.manual_seed(0)
    model = DiffRec(
        interactions,
        {},
        hidden_dims=(32,),
        diffusion_steps=diffusion_steps,
        reweight=reweight,
        learning_rate=1e-2,
        dropout=0.1,
    )
    (optimizer,) = model.optimizers()
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(everyone(interactions))
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            errors.append((model.score(torch.arange(40)) - model.rows.dense(torch.arange(40))).square().mean().item())
    assert errors[-1] < 0.6 * errors[0]


def test_same_seed_same_numbers(interactions):
    def run():
        torch.manual_seed(3)
        model = DiffRec(interactions, {}, hidden_dims=(16,))
        (optimizer,) = model.optimizers()
        losses = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = model.loss(everyone(interactions))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    assert run() == run()


def test_noise_and_dropout_only_in_training(interactions):
    model = DiffRec(interactions, {}, hidden_dims=(16,))
    users = torch.arange(6)
    with torch.no_grad():
        assert torch.equal(model.train().score(users), model.eval().score(users))
        x = model.rows.dense(users)
        first_step = torch.zeros(6, dtype=torch.int64)
        assert not torch.equal(model.train().denoise(x, first_step), model.eval().denoise(x, first_step))


def test_state_dict_holds_what_was_learned(interactions):
    model = DiffRec(interactions, {}, hidden_dims=(16,))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise_min": 0.1, "noise_max": 0.01}, r"noise_min <= noise_max, found 0\.1 > 0\.01"),
        ({"diffusion_steps": 3, "reverse_steps": 4}, r"reverse_steps <= diffusion_steps, found 4 > 3"),
        ({"hidden_dims": ()}, r"at least one hidden width.*found \(\)"),
        ({"hidden_dims": (8, 0)}, r"found \(8, 0\)"),
    ],
)
def test_contradictions_are_refused(interactions, wrong, message):
    with pytest.raises(ValueError, match=message):
        DiffRec(interactions, {}, **wrong)
