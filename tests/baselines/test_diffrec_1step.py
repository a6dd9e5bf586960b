from types import SimpleNamespace

import pytest
import torch

from baselines.diffrec import DiffRec
from baselines.diffrec_1step import DiffRecOneStep
from bench.models import hyperparameters_of

NOISY = {"hidden_dims": (16,), "diffusion_steps": 4, "noise_scale": 0.5, "noise_min": 0.1, "noise_max": 0.9}


def trained(cls, interactions, **settings):
    torch.manual_seed(0)
    model = cls(interactions, {}, learning_rate=1e-2, **NOISY, **settings)
    (optimizer,) = model.optimizers()
    for _ in range(5):
        optimizer.zero_grad()
        model.loss(SimpleNamespace(users=torch.arange(40))).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("reweight", ["snr", "none"])
def test_trains_as_diffrec_and_scores_by_one_pass(interactions, reweight):
    whole, one = (trained(cls, interactions, reweight=reweight) for cls in (DiffRec, DiffRecOneStep))
    weights = one.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in whole.state_dict().items())
    users = torch.tensor([7, 5, 0])
    with torch.no_grad():
        expected = one.denoise(one.rows.dense(users), torch.zeros(3, dtype=torch.int64))
        one.begin_scoring()
        assert torch.allclose(one.score(users), expected, atol=1e-5)
        assert not torch.allclose(whole.score(users), expected, atol=1e-3)


def test_takes_what_diffrec_takes_but_for_the_reverse_chain():
    own, whole = hyperparameters_of(DiffRecOneStep), hyperparameters_of(DiffRec)
    assert set(whole) - set(own) == {"reverse_steps", "fold_reverse_steps"}
    assert all(own[name] == whole[name] for name in own)


def test_every_hyperparameter_arrives(interactions):
    settings = {
        "hidden_dims": (8, 16),
        "diffusion_steps": 3,
        "noise_scale": 0.2,
        "noise_min": 0.02,
        "noise_max": 0.03,
        "fix_first_beta": False,
        "reweight": "none",
        "dropout": 0.25,
        "learning_rate": 0.02,
        "weight_decay": 0.3,
        "batch_size": 7,
    }
    assert set(settings) == set(hyperparameters_of(DiffRecOneStep))
    one, whole = DiffRecOneStep(interactions, {}, **settings), DiffRec(interactions, {}, **settings)
    assert torch.equal(one.variances, whole.variances)
    assert torch.equal(one.step_weights, whole.step_weights)
    assert [p.shape for p in one.parameters()] == [p.shape for p in whole.parameters()]
    (optimizer,) = one.optimizers()
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.02, 0.3)
    assert (one.dropout, one.batch_size, one.reverse_steps) == (0.25, 7, 1)
