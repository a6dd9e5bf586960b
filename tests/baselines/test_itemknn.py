import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.metrics.pairwise import cosine_similarity

import baselines.itemknn
from baselines.itemknn import ItemKNN, nearest_neighbors


def reference(interactions, k):
    """Top-k cosine per candidate item, from dense matrices and full sorts."""
    similarity = cosine_similarity(interactions.toarray().T).astype(np.float64)
    np.fill_diagonal(similarity, 0.0)
    for column in similarity.T:
        column[np.argsort(-column, kind="stable")[k:]] = 0.0
    return similarity


def test_hand_computed_similarities():
    # N_0 = {0, 1}, N_1 = {1, 2, 3}, N_2 = {0, 1, 2, 3}.
    dense = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 1, 1]], dtype=np.float32)
    cosines = {(0, 1): 1 / 6**0.5, (0, 2): 2 / 8**0.5, (1, 2): 3 / 12**0.5}
    expected = np.zeros((3, 3))
    # One neighbor each: item 0 keeps 2, item 1 keeps 2, item 2 keeps 1; column i holds what i kept.
    expected[2, 0], expected[2, 1], expected[1, 2] = cosines[0, 2], cosines[1, 2], cosines[1, 2]
    assert np.allclose(nearest_neighbors(csr_array(dense), 1, 0.0).toarray(), expected)


def test_shrink_damps_similarities():
    dense = np.array([[1, 1], [1, 1], [1, 0], [1, 0]], dtype=np.float32)
    assert nearest_neighbors(csr_array(dense), 1, 2.0).toarray()[1, 0] == pytest.approx(2 / (8**0.5 + 2.0))


@pytest.mark.parametrize("k", [1, 5, 29, 100])
def test_agrees_with_scikit_learn(interactions, k):
    model = ItemKNN(interactions, {}, n_neighbors=k)
    users = torch.tensor([3, 5, 0, 39])
    expected = interactions.toarray()[users.numpy()] @ reference(interactions, k)
    assert np.allclose(model.score(users).numpy(), expected, atol=1e-6)


def test_block_size_changes_nothing(interactions, monkeypatch):
    whole = nearest_neighbors(interactions, 4, 1.0)
    monkeypatch.setattr(baselines.itemknn, "BLOCK_ENTRIES", 7 * 30)
    assert (nearest_neighbors(interactions, 4, 1.0) != whole).nnz == 0


def test_lower_index_wins_a_tie():
    # Items 1, 2 and 3 are equally similar to item 0.
    dense = np.ones((2, 4), dtype=np.float32)
    kept = nearest_neighbors(csr_array(dense), 2, 0.0).toarray()
    assert kept[:, 0].tolist() == [0.0, 1.0, 1.0, 0.0]
    assert kept[:, 3].tolist() == [1.0, 1.0, 0.0, 0.0]
