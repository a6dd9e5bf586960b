"""What every registered model promises, checked on the planted dataset."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from bench.errors import UsageError
from bench.evaluation import PROTOCOLS, RankingEvaluator, mean_metrics, per_user_metrics
from bench.models import REGISTRY, hyperparameters_of, load_class
from bench.training import TrainingProtocol, borrowed, fit, load_checkpoint, save_checkpoint
from bench.training.protocol import begin_scoring, check_recommender

CPU = torch.device("cpu")
TRAINED = [name for name in REGISTRY if load_class(REGISTRY[name]).batching != "none"]
QUICK = {
    "mf-bpr": {"learning_rate": 0.01, "batch_size": 512},
    "lightgcn": {"learning_rate": 0.01, "n_layers": 2},
    "simgcl": {"learning_rate": 0.01, "batch_size": 1024},
    "codigem": {"learning_rate": 0.01, "batch_size": 64, "hidden_dim": 64},
    "l-diffrec": {"learning_rate": 0.003, "denoiser_learning_rate": 0.003, "batch_size": 64},
    "diffrec-1step": {"learning_rate": 0.001, "hidden_dims": (64,), "batch_size": 64},
    "itemknn-cbf": {"n_neighbors": 20},
    "vbpr": {"learning_rate": 0.01, "batch_size": 512, "reg_weight": 0.1},
    "bm3": {"learning_rate": 0.01, "batch_size": 512, "n_layers": 2},
    "slmrec": {"batch_size": 1024, "embedding_dim": 32},
    "mmgcn": {"learning_rate": 0.01, "batch_size": 1024, "compressed": ("text", "visual"), "compressed_dim": 32},
    "dualgnn": {"learning_rate": 0.01, "batch_size": 512},
    "mmssl": {"learning_rate": 0.02, "batch_size": 1024, "embedding_dim": 32, "critic_dims": (32, 16)},
    "diffmm": {"learning_rate": 0.01, "batch_size": 512, "hidden_dim": 64, "reg_weight": 1e-3},
    # One step of diffusion skips the chain; its own tests have longer ones.
    "mcdrec-freedom": {"learning_rate": 0.05, "batch_size": 4096, "embedding_dim": 16, "diffusion_steps": 1},
    # Its inputs share a large mean as published, which hides what the few toy items have of their own.
    "mcdrec-bm3": {
        "learning_rate": 0.01,
        "embedding_dim": 16,
        "diffusion_steps": 1,
        "dropout": 0.0,
        "center_inputs": True,
        "finetune_features": False,
    },
    "freedom": {"learning_rate": 0.01, "batch_size": 512},
    "lattice": {"learning_rate": 0.01, "batch_size": 512},
    "mgcn": {"learning_rate": 0.01, "batch_size": 512},
    "diffrec": {"learning_rate": 0.001, "hidden_dims": (64,), "batch_size": 64},
    "ld4mrec": {"learning_rate": 0.001, "hidden_dim": 64, "svd_rank": 16, "batch_size": 64},
}


def build(name, toy, seed=1, order=slice(None)):
    features = {modality: torch.from_numpy(np.array(matrix)[order]) for modality, matrix in toy.features.items()}
    with borrowed(seed, "init", CPU):
        return load_class(REGISTRY[name])(toy.matrix("train"), features, **QUICK.get(name, {}))


def scores(model, users):
    model.eval()
    with torch.no_grad():
        begin_scoring(model)
        return model.score(users)


def trained(name, toy, epochs, seed=1, order=slice(None)):
    model = build(name, toy, seed, order)
    result = fit(
        model,
        toy.matrix("train"),
        lambda: recall(model, toy, "valid"),
        TrainingProtocol(max_epochs=epochs),
        seed=seed,
        device=CPU,
    )
    return model, result


def recall(model, toy, split):
    train, target = toy.matrix("train"), toy.matrix(split)
    evaluator = RankingEvaluator(train, target, exclude=None, protocol=PROTOCOLS["mmrec"], device=CPU)
    users = per_user_metrics(evaluator.ranks(lambda u: scores(model, u)), PROTOCOLS["mmrec"])
    return mean_metrics(users)["recall@20"]


@pytest.mark.parametrize("name", REGISTRY)
def test_hyperparameters_are_typed_and_have_defaults(name):
    for parameter in hyperparameters_of(load_class(REGISTRY[name])).values():
        assert parameter.validate(parameter.default, name) == parameter.default


@pytest.mark.parametrize("name", REGISTRY)
def test_scores_have_their_shape_and_do_not_depend_on_the_batch(name, toy):
    model = build(name, toy)
    users = torch.tensor([5, 0, 17, 3])
    together = scores(model, users)
    assert together.shape == (4, toy.n_items)
    assert torch.isfinite(together).all()
    alone = torch.cat([scores(model, users[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", REGISTRY)
def test_scoring_changes_nothing(name, toy):
    model = build(name, toy)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = scores(model, torch.arange(6)), scores(model, torch.arange(6))
    assert torch.equal(first, second)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", TRAINED)
def test_loss_falls_and_stays_finite(name, toy):
    _, result = trained(name, toy, epochs=8)
    losses = [epoch.loss for epoch in result.history]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(name, toy):
    (first, one), (second, two), (other, three) = (trained(name, toy, epochs=2, seed=s) for s in (1, 1, 2))
    assert [e.loss for e in one.history] == [e.loss for e in two.history]
    assert [e.loss for e in one.history] != [e.loss for e in three.history]
    users = torch.arange(10)
    assert torch.equal(scores(first, users), scores(second, users))
    assert not torch.equal(scores(first, users), scores(other, users))


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_restores_the_scores(name, toy, tmp_path):
    model, _ = trained(name, toy, epochs=2)
    save_checkpoint(model, tmp_path / "model.safetensors")
    fresh = build(name, toy, seed=9)
    load_checkpoint(fresh, tmp_path / "model.safetensors")
    users = torch.arange(10)
    assert torch.equal(scores(model, users), scores(fresh, users))


@pytest.fixture(scope="module")
def reached(toy):
    """Test recall@20 of a model trained on the planted data, by name and seed; trained once for all tests."""

    @cache
    def reached(name, seed=1):
        model, _ = trained(name, toy, epochs=30, seed=seed)
        return recall(model, toy, "test")

    return reached


@pytest.mark.parametrize("name", [name for name in REGISTRY if name != "popularity"])
def test_ranking_beats_popularity_on_planted_tastes(name, reached):
    assert reached(name) > reached("popularity") * 1.2


@pytest.mark.parametrize("name", REGISTRY)
def test_a_user_and_an_item_without_training_interactions_do_no_harm(name, toy):
    train = toy.matrix("train").toarray()
    train[3, :] = 0
    train[:, 7] = 0
    features = {modality: torch.from_numpy(np.array(matrix)) for modality, matrix in toy.features.items()}
    model = load_class(REGISTRY[name])(csr_array(train), features, **QUICK.get(name, {}))
    result = fit(model, csr_array(train), lambda: 0.0, TrainingProtocol(max_epochs=2), seed=1, device=CPU)
    assert result.history
    assert torch.isfinite(scores(model, torch.tensor([3, 4]))).all()


@pytest.mark.parametrize("name", [n for n, spec in REGISTRY.items() if "features" in spec.inputs])
@pytest.mark.parametrize("modalities", [["text"], ["visual"], ["text", "visual"]])
def test_any_non_empty_set_of_modalities_works(name, toy, modalities):
    features = {modality: torch.from_numpy(np.array(toy.features[modality])) for modality in modalities}
    model = load_class(REGISTRY[name])(toy.matrix("train"), features, **QUICK.get(name, {}))
    assert torch.isfinite(scores(model, torch.arange(3))).all()


@pytest.mark.parametrize("name", [n for n, spec in REGISTRY.items() if "features" in spec.inputs])
def test_features_of_other_items_hurt(name, toy, reached):
    # BM3 scores without features, which only shape its embeddings: less than one seed differs from another.
    seeds = range(1, 5) if name == "bm3" else [1]
    order = np.random.default_rng(1).permutation(toy.n_items)
    shuffled = [recall(trained(name, toy, epochs=30, seed=seed, order=order)[0], toy, "test") for seed in seeds]
    assert np.mean(shuffled) < 0.99 * np.mean([reached(name, seed) for seed in seeds])


def test_a_class_that_breaks_the_contract_is_told_everything_at_once():
    class Nothing(torch.nn.Module):
        batching = "rows"

    with pytest.raises(UsageError, match="batching must be one of.*score.*loss"):
        check_recommender(Nothing, "mine:Nothing")
