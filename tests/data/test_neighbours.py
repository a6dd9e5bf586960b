from math import sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from bench.data import neighbours
from bench.data.neighbours import lift
from bench.errors import DataError


def train(users):
    """Return the train matrix of lists of items, one per user."""
    dense = np.zeros((len(users), 1 + max(item for items in users for item in items)), dtype=np.float32)
    for user, items in enumerate(users):
        dense[user, items] = 1
    return csr_array(dense)


def floats(rows):
    return np.array(rows, dtype=np.float32)


PAIRS = train([[0, 1], [0, 1], [2, 3], [0, 2]])
TWO_BY_TWO = floats([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])


def planted(seed, n_users=300, n_items=120, n_kinds=6):
    """Users who mostly take items of one kind, and the kind of each item."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(n_kinds, size=n_items)
    fits = rng.integers(n_kinds, size=n_users)[:, None] == kinds
    return csr_array((rng.random((n_users, n_items)) < np.where(fits, 0.3, 0.03)).astype(np.float32)), kinds, rng


def by_hand(matrix, features, k):
    """The same numbers from dense item by item arrays, for features without ties."""
    dense, features = matrix.toarray().astype(float), features.astype(float)
    items = np.flatnonzero((dense.sum(axis=0) > 0) & (np.abs(features).sum(axis=1) > 0))
    dense, features = dense[:, items], features[items]
    together = (dense.T @ dense) / np.sqrt(np.outer(dense.sum(axis=0), dense.sum(axis=0)))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    falling = -np.sort(-cosines, axis=1)
    # Neighbours that are all but equally near share the last places, which is another test's matter.
    assume(k >= len(items) - 1 or (falling[:, k - 1] - falling[:, k] > 1e-4).all())
    near = np.take_along_axis(together, np.argsort(-cosines, axis=1)[:, :k], axis=1).mean()
    return near, (together.sum() - len(items)) / (len(items) * (len(items) - 1))


def test_two_pairs_of_items_by_hand():
    found = lift(PAIRS, TWO_BY_TWO, k=1)
    near = (4 / sqrt(6) + 2 / sqrt(2)) / 4
    random = (3 / sqrt(6) + 1 / sqrt(2)) / 6
    assert found.neighbour_rate == pytest.approx(near)
    assert found.random_rate == pytest.approx(random)
    assert found.ratio == pytest.approx(near / random)
    assert (found.k, found.n_queries, found.n_items) == (1, 4, 4)
    assert found.low <= found.ratio <= found.high


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 8))
def test_agrees_with_dense_arrays(seed, k):
    rng = np.random.default_rng(seed)
    matrix = csr_array((rng.random((25, 14)) < 0.2).astype(np.float32))
    features = rng.normal(size=(14, 3)).astype(np.float32)
    features[rng.integers(14)] = 0
    near, random = by_hand(matrix, features, k)
    found = lift(matrix, features, k=k)
    assert found.neighbour_rate == pytest.approx(near, abs=1e-6)
    assert found.random_rate == pytest.approx(random, abs=1e-6)


def test_small_blocks_give_the_same_numbers(monkeypatch):
    matrix, _, rng = planted(0)
    features = rng.normal(size=(120, 8)).astype(np.float32)
    whole = lift(matrix, features)
    monkeypatch.setattr(neighbours, "VALUES_AT_ONCE", 7 * 120)
    parts = lift(matrix, features)
    assert parts.neighbour_rate == pytest.approx(whole.neighbour_rate)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high))


def test_features_that_tell_the_kind_are_found_and_others_are_not():
    matrix, kinds, rng = planted(1)
    telling = (np.eye(6)[kinds] + rng.normal(scale=0.2, size=(120, 6))).astype(np.float32)
    found = lift(matrix, telling)
    assert found.low > 2
    blind = lift(matrix, rng.normal(size=(120, 6)).astype(np.float32))
    assert 0.8 < blind.ratio < 1.2


def test_the_interval_of_blind_features_mostly_holds_one():
    holds = 0
    for seed in range(60):
        matrix, _, rng = planted(seed, n_users=200, n_items=80)
        found = lift(matrix, rng.normal(size=(80, 6)).astype(np.float32), k=5)
        holds += found.low <= 1 <= found.high
    # All items are looked up, where 85 % are to be expected: 51 of 60, seldom fewer than 45.
    assert holds >= 45


def test_equally_near_items_share_the_places_so_equal_features_have_no_signal():
    matrix, _, _ = planted(2)
    found = lift(matrix, np.ones((120, 4), dtype=np.float32), k=3)
    assert found.ratio == pytest.approx(1.0, abs=1e-6)


def test_the_order_of_items_has_no_influence_even_with_ties():
    matrix, kinds, rng = planted(3)
    labels = np.eye(6, dtype=np.float32)[kinds]
    order = rng.permutation(120)
    first, second = lift(matrix, labels), lift(csr_array(matrix[:, order]), labels[order])
    assert first.ratio == pytest.approx(second.ratio)


def test_the_length_of_a_row_has_no_influence():
    matrix, _, rng = planted(4)
    features = rng.normal(size=(120, 8)).astype(np.float32)
    longer = features * rng.uniform(0.01, 100, size=(120, 1)).astype(np.float32)
    assert lift(matrix, longer).ratio == pytest.approx(lift(matrix, features).ratio)


def test_items_without_train_rows_or_with_zero_features_take_no_part():
    both = csr_array(np.hstack([PAIRS.toarray(), np.zeros((4, 1)), np.ones((4, 1))]).astype(np.float32))
    features = np.vstack([TWO_BY_TWO, floats([[1, 0.05], [0, 0]])])
    assert lift(both, features, k=1) == lift(PAIRS, TWO_BY_TWO, k=1)


def test_only_so_many_items_are_looked_up_and_the_same_ones_for_a_seed():
    matrix, _, rng = planted(5)
    features = rng.normal(size=(120, 8)).astype(np.float32)
    some = lift(matrix, features, n_queries=30)
    assert (some.n_queries, some.n_items) == (30, 120)
    assert some == lift(matrix, features, n_queries=30)
    assert some.neighbour_rate != lift(matrix, features, n_queries=30, seed=1).neighbour_rate


def test_there_are_never_more_neighbours_than_other_items():
    found = lift(PAIRS, TWO_BY_TWO, k=10)
    assert found.k == 3
    assert found.ratio == pytest.approx(1.0)


def test_without_two_items_there_is_no_ratio():
    found = lift(train([[0], [0]]), floats([[1.0]]))
    assert (found.ratio, found.low, found.high, found.n_items) == (None, None, None, 1)


def test_without_shared_users_there_is_no_ratio():
    found = lift(train([[0], [1], [2]]), floats([[1, 0], [1, 1], [0, 1]]), k=1)
    assert (found.ratio, found.low, found.high) == (None, None, None)
    assert found.random_rate == 0


def test_features_of_other_items_are_refused():
    with pytest.raises(DataError, match="The features have 3 rows, but there are 4 items"):
        lift(PAIRS, TWO_BY_TWO[:3])


@pytest.mark.parametrize("wrong", [{"k": 0}, {"n_queries": 0}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        lift(PAIRS, TWO_BY_TWO, **wrong)
