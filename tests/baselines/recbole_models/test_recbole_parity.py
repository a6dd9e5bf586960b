"""RecBole's BPR, LightGCN and DiffRec compute what our own do, given the same weights, batch and noise."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.testing import assert_close

import baselines.recbole
from baselines.diffrec import DiffRec
from baselines.lightgcn import LightGCN
from baselines.mf_bpr import MFBPR
from bench.training.protocol import PairBatch, UserBatch, begin_scoring
from ld4mrec.diffusion import step_embedding


@pytest.fixture(scope="module")
def train():
    rng = np.random.default_rng(11)
    dense = (rng.random((20, 12)) < 0.3).astype(np.float32)
    dense[:, 0] = 1.0
    return csr_array(dense)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(5)
    return PairBatch(*(torch.randint(high, (64,), generator=generator) for high in (20, 12, 12)))


def scores(model):
    model.eval()
    with torch.no_grad():
        begin_scoring(model)
        return model.score(torch.arange(20))


def copy(theirs, table, values):
    """Put values into one of RecBole's embedding tables, behind the row of the padding."""
    with torch.no_grad():
        getattr(theirs.model, table).weight[1:] = values


def test_bpr_is_mf_bpr_without_penalty(train, batch):
    theirs = baselines.recbole.BPR(train, {}, embedding_size=8)
    ours = MFBPR(train, {}, embedding_dim=8, reg_weight=0.0, init="xavier")
    with torch.no_grad():
        for table in (ours.user_embedding.weight, ours.item_embedding.weight):
            table.mul_(2.0)
    copy(theirs, "user_embedding", ours.user_embedding.weight)
    copy(theirs, "item_embedding", ours.item_embedding.weight)
    assert_close(theirs.loss(batch), ours.loss(batch))
    assert_close(scores(theirs), scores(ours))


@pytest.mark.parametrize(("require_pow", "reg"), [(False, "norm"), (True, "squared")])
def test_lightgcn_is_lightgcn_with_the_penalty_of_the_same_form(train, batch, require_pow, reg):
    settings = {"n_layers": 3, "reg_weight": 0.5}
    theirs = baselines.recbole.LightGCN(train, {}, embedding_size=8, require_pow=require_pow, **settings)
    ours = LightGCN(train, {}, embedding_dim=8, reg=reg, init="normal", **settings)
    copy(theirs, "user_embedding", ours.embedding[:20])
    copy(theirs, "item_embedding", ours.embedding[20:])
    # RecBole adds 1e-7 to every degree.
    assert_close(theirs.loss(batch), ours.loss(batch), rtol=1e-5, atol=1e-6)
    assert_close(scores(theirs), scores(ours), rtol=1e-5, atol=1e-6)


@pytest.fixture
def pair_of_diffrecs(train):
    """RecBole's DiffRec and ours with the same weights; those of RecBole's padding column are zero."""
    schedule = {"noise_scale": 0.5, "noise_min": 0.01, "noise_max": 0.4}
    theirs = baselines.recbole.DiffRec(train, {}, dims_dnn=(6,), steps=4, noise_schedule="linear-var", **schedule)
    ours = DiffRec(train, {}, hidden_dims=(6,), diffusion_steps=4, dropout=0.0, **schedule)
    ours.begin_epoch = None
    theirs.model.mlp.drop.p = 0.0
    first, last = (each for each in theirs.model.mlp.mlp_layers.mlp_layers if isinstance(each, torch.nn.Linear))
    with torch.no_grad():
        first.weight.zero_()
        first.weight[:, 1:13] = ours.item_weights.T
        first.weight[:, 13:] = ours.step_input.T
        first.bias.copy_(ours.input_bias)
        last.weight.zero_()
        last.weight[1:] = ours.output.weight
        last.bias.zero_()
        last.bias[1:] = ours.output.bias
        # Theirs counts steps from 0 and lays cosines before sines: a linear map between the two.
        from recbole.model.general_recommender.diffrec import timestep_embedding

        wanted = step_embedding(4, 10) @ ours.step_layer.weight.T
        here = timestep_embedding(torch.arange(4), 10)
        theirs.model.mlp.emb_layer.weight.copy_(torch.linalg.lstsq(here.double(), wanted.double()).solution.T)
        theirs.model.mlp.emb_layer.bias.copy_(ours.step_layer.bias)
    return theirs, ours


def test_diffrec_has_the_same_schedule_and_weights(pair_of_diffrecs):
    theirs, ours = pair_of_diffrecs
    assert_close(1.0 - theirs.model.alphas_cumprod, ours.variances.double(), rtol=1e-6, atol=0.0)
    steps = torch.arange(1, 4)
    assert_close(
        theirs.model.SNR(steps - 1) - theirs.model.SNR(steps), ours.step_weights[1:].double(), rtol=1e-5, atol=0
    )


def test_diffrec_gives_the_same_scores(pair_of_diffrecs):
    theirs, ours = pair_of_diffrecs
    assert_close(scores(theirs), scores(ours), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reweight", [True, False])
def test_diffrec_gives_the_same_loss_for_the_same_noise(pair_of_diffrecs, reweight, monkeypatch):
    theirs, ours = pair_of_diffrecs
    theirs.model.reweight = reweight
    if not reweight:
        ours.step_weights.fill_(1.0)
    generator = torch.Generator().manual_seed(2)
    steps = torch.randint(4, (20,), generator=generator)
    # The noise on RecBole's padding column enters nothing: its weights are zero.
    noise = torch.randn(20, 13, generator=generator)
    monkeypatch.setattr(torch, "randn_like", lambda x: noise[:, -x.shape[1] :].clone())
    monkeypatch.setattr(theirs.model, "sample_timesteps", lambda n, device, method: (steps, torch.ones(n)))
    monkeypatch.setattr(ours.sampler, "sample", lambda n: (steps, torch.ones(n)))
    batch = UserBatch(torch.arange(20))
    # RecBole's mean over items has the padding in its denominator, 13 for 12.
    assert_close(theirs.loss(batch).float() * 13 / 12, ours.loss(batch), rtol=1e-4, atol=1e-6)
