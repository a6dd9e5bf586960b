"""Every general recommender of RecBole that is said to work, trained and asked for scores in this harness."""

import random
from functools import cache
from itertools import count

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import baselines.recbole
from baselines.recbole import classes, installation
from baselines.recbole.catalogue import ENTRIES
from baselines.recbole.schedules import NCLModel
from bench.models import find_model, hyperparameters_of, load_class
from bench.training import TrainingProtocol, borrowed, fit, load_checkpoint, save_checkpoint
from bench.training.protocol import PairBatch, begin_scoring

CPU = torch.device("cpu")
WORKS = [name for name, entry in ENTRIES.items() if entry.status == "works"]
TRAINED = [name for name in WORKS if ENTRIES[name].batches != "none"]
SMALL = {
    "ADMMSLIM": {"k": 5},
    "ConvNCF": {"embedding_size": 4, "cnn_channels": (1, 4, 4), "cnn_kernels": (2, 2), "cnn_strides": (2, 2)},
    "DGCF": {"train_batch_size": 64},
    "GCMC": {"gcn_output_dim": 20},
    "NCEPLRec": {"rank": 10},
    "NNCF": {"num_conv_kernel": 4, "mlp_hidden_size": (8,)},
    "SimpleX": {"history_len": 3},
}
# ADMMSLIM breaks ties by noise of this size, another for each block of users.
NOISE = {"ADMMSLIM": 1e-5}


def planted():
    """40 users and 30 items in two groups that keep to themselves; the last user and item have no interaction."""
    rng = np.random.default_rng(3)
    own = np.arange(40)[:, None] % 2 == np.arange(30) % 2
    dense = (rng.random((40, 30)) < np.where(own, 0.5, 0.03)).astype(np.float32)
    dense[-1], dense[:, -1] = 0, 0
    return csr_array(dense)


INTERACTIONS = planted()


def build(name, seed=1, **settings):
    with borrowed(seed, "init", CPU):
        return load_class(find_model(f"recbole:{name}"))(INTERACTIONS, {}, **SMALL.get(name, {}) | settings)


def scores(model, users):
    model.eval()
    with torch.no_grad():
        begin_scoring(model)
        return model.score(users)


def train(name, seed=1, epochs=2, **settings):
    quick = {"train_batch_size": 64, "learning_rate": 0.01} if name in TRAINED else {}
    model = build(name, seed, **quick | settings)
    # Each epoch counts as better than the one before, so that the last one's weights are kept.
    result = fit(model, INTERACTIONS, count().__next__, TrainingProtocol(max_epochs=epochs), seed=seed, device=CPU)
    return model, [epoch.loss for epoch in result.history]


trained = cache(train)


def host_state():
    kind, words, *place = np.random.get_state()  # noqa: NPY002
    return random.getstate(), (kind, words.tolist(), place)


@pytest.mark.parametrize("name", WORKS)
def test_it_trains_and_scores(name):
    before = host_state()
    model, losses = trained(name)
    if name in TRAINED:
        assert np.isfinite(losses).all()
    users = torch.tensor([5, 39, 17, 3])
    together = scores(model, users)
    assert together.shape == (4, 30)
    assert together.dtype == torch.float32
    assert torch.isfinite(together).all()
    assert together.std() > 0
    alone = torch.cat([scores(model, users[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=max(1e-5, 2 * NOISE.get(name, 0.0)), rtol=1e-4)
    assert torch.equal(together, scores(model, users))
    assert host_state() == before


@pytest.mark.parametrize("name", WORKS)
def test_the_same_seed_gives_the_same_numbers(name):
    (first, losses), (second, others) = trained(name), train(name)
    assert losses == others or np.isnan(losses).all()
    assert torch.equal(scores(first, torch.arange(10)), scores(second, torch.arange(10)))


@pytest.mark.parametrize("name", TRAINED)
def test_another_seed_gives_others(name):
    (first, losses), (second, others) = trained(name), train(name, seed=2)
    assert losses != others
    assert not torch.equal(scores(first, torch.arange(10)), scores(second, torch.arange(10)))


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_restores_the_scores(name, tmp_path):
    model, _ = trained(name)
    save_checkpoint(model, tmp_path / "model.safetensors")
    fresh = build(name, seed=9)
    scores(fresh, torch.arange(10))
    load_checkpoint(fresh, tmp_path / "model.safetensors")
    # The order in which NAIS adds a user's items up is drawn anew.
    assert torch.allclose(scores(model, torch.arange(10)), scores(fresh, torch.arange(10)), atol=1e-6)


# Small rates and many items are what the defaults are made for; here are a few large steps.
LEARNING = {
    "BPR": {"learning_rate": 0.05, "embedding_size": 4},
    "LightGCN": {"learning_rate": 0.05},
    "SGL": {"learning_rate": 0.05, "ssl_weight": 0.0},
    "NeuMF": {"learning_rate": 0.02, "dropout_prob": 0.0},
    "MultiVAE": {},
    "RecVAE": {},
    "DiffRec": {"reweight": False},
    "EASE": {},
    "ItemKNN": {},
}


@pytest.mark.parametrize("name", LEARNING)
def test_it_puts_unseen_items_of_a_users_own_group_first(name):
    model, losses = train(name, epochs=20, **LEARNING[name])
    assert losses[-1] < losses[0] or np.isnan(losses).all()
    found, seen = scores(model, torch.arange(38))[:, :-1], torch.from_numpy(INTERACTIONS.toarray()[:38, :-1] > 0)
    own = (torch.arange(38) % 2)[:, None] == torch.arange(29) % 2
    shares = [
        (found[user, own[user] & ~seen[user]][:, None] > found[user, ~own[user]]).float().mean() for user in range(38)
    ]
    assert torch.stack(shares).mean() > 0.8


def test_a_parameter_for_recboles_trainer_alone_is_not_counted():
    assert not list(build("EASE").parameters())
    assert not build("Pop").state_dict()


def test_pop_counts_every_training_interaction_once():
    found = scores(build("Pop"), torch.tensor([0]))[0]
    counts = INTERACTIONS.sum(axis=0)
    np.testing.assert_allclose(found.numpy(), counts / counts.max(), rtol=1e-6)


def test_random_gives_every_user_another_list_whatever_the_block():
    found = scores(build("Random"), torch.arange(40))
    assert len(found.argsort(dim=1).unique(dim=0)) == 40
    assert torch.equal(found[7:9], scores(build("Random"), torch.arange(7, 9)))


def test_ease_is_the_closed_form():
    dense = torch.from_numpy(INTERACTIONS.toarray()).double()
    inverse = torch.linalg.inv(dense.T @ dense + 2.5 * torch.eye(30))
    weights = -inverse / inverse.diagonal()
    weights.fill_diagonal_(0.0)
    expected = (dense @ weights).float()
    assert torch.allclose(scores(build("EASE", reg_weight=2.5), torch.arange(40)), expected, atol=1e-4)


def test_what_is_kept_from_a_scoring_does_not_outlive_the_weights():
    model, _ = trained("LightGCN")
    before = scores(model, torch.arange(4))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.zeros_like(value) for name, value in weights.items()})
    assert not scores(model, torch.arange(4)).any()
    model.load_state_dict(weights)
    assert torch.equal(scores(model, torch.arange(4)), before)


@pytest.mark.parametrize(
    ("name", "sample_num", "positives"),
    [("BPR", 1, 64), ("NeuMF", 1, 32), ("SimpleX", 4, 16), ("NeuMF", 3, 16), ("BPR", 100, 1)],
)
def test_a_batch_counts_rows_as_recboles_loader_does(name, sample_num, positives):
    assert build(name, train_batch_size=64, sample_num=sample_num).batch_size == positives


def test_users_count_one_by_one_where_whole_users_are_learned_from():
    assert build("MultiVAE", train_batch_size=64).batch_size == 64


def test_more_negatives_change_what_is_learned():
    _, one = train("SimpleX")
    _, four = train("SimpleX", sample_num=4)
    assert np.isfinite(four).all()
    assert one != four


@pytest.mark.parametrize("learner", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_the_optimizer_is_the_one_named(learner):
    model = build("BPR", learner=learner, learning_rate=0.25, weight_decay=0.125)
    (optimizer,) = model.optimizers()
    assert type(optimizer).__name__.lower() == learner
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.25, 0.125)


def test_recvae_alternates_between_encoder_and_decoder(monkeypatch):
    model = build("RecVAE", train_batch_size=20, n_enc_epochs=2, n_dec_epochs=2)
    calls = []
    inner, update = model.model.calculate_loss, model.model.update_prior
    monkeypatch.setattr(
        model.model, "calculate_loss", lambda b, encoder_flag: calls.append(encoder_flag) or inner(b, encoder_flag)
    )
    monkeypatch.setattr(model.model, "update_prior", lambda: calls.append("prior") or update())
    fit(model, INTERACTIONS, lambda: 0.0, TrainingProtocol(max_epochs=1), seed=1, device=CPU)
    # 39 active users are two batches.
    assert calls == [True] * 4 + ["prior"] + [False] * 4


@pytest.mark.parametrize("size", [10**6, 1000, 300, 266, 150, 7])
def test_dgcf_says_which_batch_size_the_data_allow(size):
    few_users = INTERACTIONS[:12]
    allowed = few_users.nnz * 13 // 31
    if size > few_users.nnz:
        with pytest.raises(ValueError, match=f"train_batch_size to {allowed} or less"):
            baselines.recbole.DGCF(few_users, {}, train_batch_size=size)
    model = baselines.recbole.DGCF(few_users, {}, train_batch_size=min(size, allowed))
    fit(model, few_users, lambda: 0.0, TrainingProtocol(max_epochs=1), seed=1, device=CPU)


def test_ncl_refuses_more_clusters_than_there_are_users(monkeypatch):
    monkeypatch.setattr("baselines.recbole.classes.check_available", lambda entry: installation.package_folder())
    with pytest.raises(ValueError, match="num_clusters of at most 31 here.*found 1000"):
        classes.class_of.__wrapped__("NCL")(INTERACTIONS, {})


def test_ncl_clusters_in_turn_and_warms_up_without_the_clusters(monkeypatch):
    model = load_class(find_model("recbole:BPR"))(INTERACTIONS, {})
    parts = (torch.tensor(1.0), torch.tensor(10.0), torch.tensor(100.0))
    ncl = NCLModel.__new__(NCLModel)
    torch.nn.Module.__init__(ncl)
    vars(ncl).update({k: v for k, v in vars(model).items() if not k.startswith("_")}, m_step=2, warm_up_step=2)
    clustered = []

    class Inner(torch.nn.Module):
        def e_step(self):
            clustered.append(ncl.epoch)

        def calculate_loss(self, batch):
            return parts

    ncl.model, ncl.negatives = Inner(), model.negatives
    batch = PairBatch(*(torch.tensor([0]) for _ in range(3)))
    monkeypatch.setattr(NCLModel, "entry", ENTRIES["NCL"], raising=False)
    losses = []
    for epoch in range(1, 5):
        ncl.begin_epoch(epoch)
        losses.append(float(ncl.loss(batch)))
    assert clustered == [1, 3]
    assert losses == [11.0, 11.0, 111.0, 111.0]


@pytest.mark.parametrize("name", ENTRIES)
def test_hyperparameters_fit_their_own_types(name, monkeypatch):
    monkeypatch.setattr(installation, "check_packages", lambda packages, user: None)
    cls = classes.class_of.__wrapped__(name)
    for parameter in hyperparameters_of(cls).values():
        assert parameter.validate(parameter.default, name) == parameter.default
        assert type(parameter.default) is type(parameter.validate(parameter.default, name))


def test_an_unknown_hyper_parameter_is_refused_by_the_class_itself():
    with pytest.raises(TypeError, match="width.*known: .*embedding_size"):
        baselines.recbole.BPR(INTERACTIONS, {}, width=3)
    with pytest.raises(AttributeError, match="Bprr"):
        getattr(baselines.recbole, "Bprr")  # noqa: B009


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", WORKS)
def test_it_runs_on_a_gpu(name):
    device = torch.device("cuda")
    quick = {"train_batch_size": 64} if name in TRAINED else {}
    model = build(name, **quick).to(device)
    fit(model, INTERACTIONS, lambda: 0.0, TrainingProtocol(max_epochs=1), seed=1, device=device)
    found = scores(model, torch.arange(4, device=device))
    assert found.device.type == "cuda"
    assert torch.isfinite(found).all()
