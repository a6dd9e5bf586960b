import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.metrics.pairwise import cosine_similarity

from baselines.itemknn_cbf import ItemKNNCBF, nearest_neighbors


@pytest.fixture
def features():
    """Two modalities of very different scale; item 11 lacks one, item 4 both, items 20 to 24 are the same."""
    rng = np.random.default_rng(3)
    visual, text = 100.0 * rng.normal(size=(30, 8)), rng.normal(size=(30, 5))
    visual[11] = visual[4] = text[4] = 0.0
    visual[20:25], text[20:25] = visual[20], text[20]
    return {"visual": torch.from_numpy(visual).float(), "text": torch.from_numpy(text).float()}


def keep_largest(similarity, k):
    """Return a copy with the k largest of each row but its own place, lower places first, as plain loops."""
    kept = np.zeros_like(similarity)
    for i, row in enumerate(np.round(similarity.astype(np.float64), 6)):
        order = [j for j in np.argsort(-row, kind="stable") if j != i][:k]
        kept[i, order] = row[order]
    return kept


def unit(matrix):
    rows = matrix.numpy().astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize("k", [1, 3, 29, 30, 100])
@pytest.mark.parametrize("fusion", ["concat", "mean"])
def test_agrees_with_dense_arithmetic(interactions, features, k, fusion):
    model = ItemKNNCBF(interactions, features, n_neighbors=k, fusion=fusion)
    units = [unit(features[name]) for name in ("text", "visual")]
    blocks = [np.concatenate(units, axis=1)] if fusion == "concat" else units
    neighbors = np.mean([keep_largest(cosine_similarity(block), k) for block in blocks], axis=0)
    users = torch.tensor([3, 5, 0, 39])
    expected = interactions.toarray()[users.numpy()] @ neighbors.T
    scores = model.score(users)
    assert scores.dtype == torch.float32
    assert np.allclose(scores.numpy(), expected, atol=1e-4)


def test_hand_computed_scores():
    # Cosines: items 0 and 1 0.8, items 1 and 2 0.6, items 0 and 2 0.
    features = {"text": torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])}
    interactions = csr_array(np.array([[1, 0, 0], [1, 0, 1]], dtype=np.float32))
    # With one neighbor each, items 0 and 2 keep item 1, which keeps item 0.
    scores = ItemKNNCBF(interactions, features, n_neighbors=1).score(torch.arange(2))
    assert scores.numpy() == pytest.approx(np.array([[0.0, 0.8, 0.0], [0.0, 0.8, 0.0]]), abs=1e-6)
    scores = ItemKNNCBF(interactions, features, n_neighbors=2).score(torch.arange(2))
    assert scores.numpy() == pytest.approx(np.array([[0.0, 0.8, 0.0], [0.0, 1.4, 0.0]]), abs=1e-6)


def test_no_item_is_its_own_neighbor_though_many_are_the_same(features):
    same = torch.ones(12, 3)
    neighbors = nearest_neighbors(same, 4)
    assert not neighbors.diagonal().any()
    # An item that its equals push out of its own list gives up the last place, so all have 4 neighbors.
    assert np.array_equal(np.diff(neighbors.indptr), np.full(12, 4))
    assert neighbors[[11], :].indices.tolist() == [0, 1, 2, 3]
    assert neighbors[[2], :].indices.tolist() == [0, 1, 3, 4]


def test_no_modality_counts_more_for_its_scale(interactions, features):
    louder = {"visual": features["visual"] * 1e4, "text": features["text"] * 1e-3}
    users = torch.arange(40)
    expected = ItemKNNCBF(interactions, features, n_neighbors=5).score(users)
    assert torch.allclose(ItemKNNCBF(interactions, louder, n_neighbors=5).score(users), expected, atol=1e-4)


def test_order_of_the_modalities_changes_nothing(interactions, features):
    turned = dict(reversed(features.items()))
    users = torch.arange(40)
    for fusion in ("concat", "mean"):
        one, two = (ItemKNNCBF(interactions, given, fusion=fusion, n_neighbors=3) for given in (features, turned))
        assert torch.equal(one.score(users), two.score(users))


def test_mean_keeps_items_that_are_close_in_one_modality(interactions):
    # Item 1 equals item 0 in one modality and opposes it in the other; items 2 and up are a little like it in both.
    base = torch.zeros(30, 31)
    base[:, 0], base[torch.arange(2, 30), torch.arange(2, 30)] = 1.0, 2.0
    opposed = base.clone()
    opposed[1, 0] = -1.0
    modalities = {"a": base, "b": opposed}
    concat = ItemKNNCBF(interactions, modalities, n_neighbors=1).similarity.toarray()
    mean = ItemKNNCBF(interactions, modalities, n_neighbors=1, fusion="mean").similarity.toarray()
    assert concat[1, 0] == 0.0
    assert concat[2, 0] == pytest.approx(5**-0.5, abs=1e-5)
    assert mean[1, 0] == pytest.approx(0.5, abs=1e-5)
    assert mean[2, 0] == pytest.approx(5**-0.5 / 2, abs=1e-5)


def test_item_without_features_and_user_without_items_score_zero(interactions, features):
    for fusion in ("concat", "mean"):
        scores = ItemKNNCBF(interactions, features, fusion=fusion, n_neighbors=5).score(torch.arange(40))
        assert torch.isfinite(scores).all()
        assert not scores[:, 4].any()
        assert not scores[5].any()


def test_a_missing_modality_leaves_the_others_to_compare(interactions, features):
    kept = ItemKNNCBF(interactions, {"text": features["text"]}, n_neighbors=100).similarity.toarray()
    both = ItemKNNCBF(interactions, features, n_neighbors=100).similarity.toarray()
    # Item 11 is compared by its text alone; the other item's picture only lengthens that item's row.
    assert both[11, 7] == pytest.approx(kept[11, 7] / 2**0.5, abs=1e-5)


def test_only_neighbors_are_stored(interactions, features):
    model = ItemKNNCBF(interactions, features, n_neighbors=3)
    assert model.similarity.nnz <= 3 * 30
    assert model.state_dict() == {}


def test_no_features_and_features_that_do_not_fit_are_refused(interactions, features):
    with pytest.raises(ValueError, match="at least one modality, found none"):
        ItemKNNCBF(interactions, {})
    with pytest.raises(ValueError, match=r"modality 'text' to have shape \[30, width\].*found \[29, 5\]"):
        ItemKNNCBF(interactions, {"text": features["text"][:29], "visual": features["visual"]})
