"""Condition signals against hand-computed examples and the identities of the decomposition."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from ld4mrec.signals import collaborative_signals, modality_preference, normalize


@pytest.fixture
def interactions():
    rng = np.random.default_rng(0)
    return csr_array((rng.random((40, 25)) < 0.3).astype(np.float32))


# Two users, three items: user 0 has items 0 and 1, user 1 has items 1 and 2.
SMALL = csr_array(np.array([[1, 1, 0], [0, 1, 1]], dtype=np.float32))


def test_normalized_matrix_by_hand():
    # |N_u| = 2 for both users; |N_i| = 1, 2, 1.
    once, twice = 1 / math.sqrt(2), 1 / 2
    assert normalize(SMALL).toarray() == pytest.approx(np.array([[once, twice, 0], [0, twice, once]]))


def test_users_and_items_without_interactions_stay_zero():
    normalized = normalize(csr_array(np.array([[1, 0], [0, 0]], dtype=np.float32))).toarray()
    assert normalized.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_with_the_normalized_matrix_c_is_u_and_u_lambda(interactions):
    k = 24
    signals = collaborative_signals(interactions, k, "normalized", "none").numpy()
    singular_values = np.linalg.svd(normalize(interactions).toarray(), compute_uv=False)[:k]
    user_vectors = signals[:, :k]
    assert signals.shape == (40, 2 * k)
    assert user_vectors.T @ user_vectors == pytest.approx(np.eye(k), abs=1e-4)
    assert signals[:, k:] == pytest.approx(user_vectors * singular_values, abs=1e-4)


def test_with_the_raw_matrix_the_first_half_decomposes_r_and_the_second_follows_eq_15(interactions):
    k = 24
    signals = collaborative_signals(interactions, k, "raw", "none").numpy()
    user_vectors, dense = signals[:, :k], interactions.toarray()
    # R = U Lambda I^T gives Lambda I^T = U^T R and with it I, whose product with R~ is the second half.
    scaled_items = user_vectors.T @ dense
    singular_values = np.linalg.norm(scaled_items, axis=1)
    assert singular_values == pytest.approx(np.linalg.svd(dense, compute_uv=False)[:k], rel=1e-3)
    item_vectors = (scaled_items / singular_values[:, None]).T
    assert signals[:, k:] == pytest.approx(normalize(interactions).toarray() @ item_vectors, abs=1e-3)


def test_scales_of_the_collaborative_signals(interactions):
    plain = collaborative_signals(interactions, 5, scale="none")
    scaled = collaborative_signals(interactions, 5, scale="sqrt_users")
    standardized = collaborative_signals(interactions, 5, scale="standardized")
    assert torch.allclose(scaled, plain * math.sqrt(40), atol=1e-5)
    assert torch.allclose(scaled[:, :5].square().mean(dim=0), torch.ones(5), atol=1e-4)
    assert torch.allclose(standardized.mean(dim=0), torch.zeros(10), atol=1e-5)
    assert torch.allclose(standardized.std(dim=0, correction=0), torch.ones(10), atol=1e-4)


def test_the_decomposition_repeats_and_its_rank_is_capped(interactions):
    first, second = (collaborative_signals(interactions, 1000) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (40, 2 * 24)
    assert first.dtype == torch.float32


def test_modality_preference_by_hand():
    # One feature (2, 4, 6): standardized -a, 0, a with a = sqrt(3 / 2). Both sums have one item of |N_i| = 1:
    # m_0 = -a / sqrt(2), m_1 = a / sqrt(2). Standardized over the two users: -1 and 1.
    # A constant feature says nothing and becomes 0.
    features = torch.tensor([[2.0, 7.0], [4.0, 7.0], [6.0, 7.0]])
    assert modality_preference(SMALL, features).tolist() == [pytest.approx([-1, 0]), pytest.approx([1, 0])]


def test_modality_preference_is_the_degree_weighted_sum_of_eq_16(interactions):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(25, 3)).astype(np.float32)
    items = (features - features.mean(0)) / features.std(0)
    dense = interactions.toarray()
    user_degrees, item_degrees = dense.sum(1), dense.sum(0)
    expected = np.zeros((40, 3))
    for u, i in zip(*dense.nonzero(), strict=True):
        expected[u] += items[i] / math.sqrt(user_degrees[u] * item_degrees[i])
    expected = (expected - expected.mean(0)) / expected.std(0)
    assert modality_preference(interactions, torch.from_numpy(features)).numpy() == pytest.approx(expected, abs=1e-4)


def test_users_without_interactions_have_no_preference():
    interactions = csr_array(np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32))
    preference = modality_preference(interactions, torch.tensor([[1.0], [3.0]]))
    assert preference.tolist() == [pytest.approx([-1.0]), pytest.approx([1.0]), [0.0]]


def test_the_scale_and_offset_of_features_do_not_matter(interactions):
    features = torch.randn(25, 4, generator=torch.Generator().manual_seed(0))
    first = modality_preference(interactions, features)
    second = modality_preference(interactions, 50.0 * features + 3.0)
    assert torch.allclose(first, second, atol=1e-3)


def test_features_must_have_one_row_per_item(interactions):
    with pytest.raises(ValueError, match=r"shape \[25, width\].*found \[24, 3\]"):
        modality_preference(interactions, torch.zeros(24, 3))
