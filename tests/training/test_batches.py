import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, random_array

from bench.errors import TrainingError
from bench.training.batches import PairBatches, UserBatches


def generators(seed=0):
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)


def matrix(n_users, n_items, density, seed):
    random = random_array((n_users, n_items), density=density, rng=np.random.default_rng(seed), format="csr")
    random.data[:] = 1.0
    return csr_array(random.astype(np.float32))


@settings(max_examples=30)
@given(st.integers(2, 30), st.integers(3, 25), st.floats(0.02, 0.6), st.integers(1, 50), st.integers(0, 99))
def test_an_epoch_of_pairs_is_one_pass_with_true_negatives(n_users, n_items, density, batch_size, seed):
    interactions = matrix(n_users, n_items, density, seed)
    if interactions.nnz == 0 or np.diff(interactions.indptr).max() >= n_items:
        return
    batches = PairBatches(interactions, batch_size, *generators(seed))
    epoch = list(batches.epoch())
    assert len(epoch) == len(batches)
    seen = sorted(pair for b in epoch for pair in zip(b.users.tolist(), b.positives.tolist(), strict=True))
    rows, columns = interactions.nonzero()
    assert seen == sorted(zip(rows.tolist(), columns.tolist(), strict=True))
    dense = interactions.toarray()
    for batch in epoch:
        assert len(batch.users) <= batch_size
        assert not dense[batch.users.numpy(), batch.negatives.numpy()].any()


def test_negatives_are_uniform_over_the_items_left():
    interactions = csr_array(np.array([[1, 1, 0, 0, 0]], dtype=np.float32))
    batches = PairBatches(interactions, 10, *generators())
    drawn = batches.draw_negatives(torch.zeros(30_000, dtype=torch.int64))
    shares = torch.bincount(drawn, minlength=5) / 30_000
    assert shares[:2].sum() == 0
    assert torch.allclose(shares[2:], torch.full((3,), 1 / 3), atol=0.015)


def test_epochs_differ_and_runs_repeat():
    interactions = matrix(20, 15, 0.3, 1)
    first, again = (PairBatches(interactions, 8, *generators(5)) for _ in range(2))
    one, two = list(first.epoch()), list(first.epoch())
    assert not torch.equal(one[0].users, two[0].users)
    assert all(torch.equal(a.negatives, b.negatives) for a, b in zip(one, again.epoch(), strict=True))


def test_a_user_with_every_item_has_no_negative():
    interactions = csr_array(np.ones((2, 3), dtype=np.float32))
    with pytest.raises(TrainingError, match="2 users have interacted with all 3 items"):
        PairBatches(interactions, 4, *generators())


def test_users_without_interactions_are_left_out():
    interactions = csr_array(np.array([[1, 0], [0, 0], [0, 1]], dtype=np.float32))
    batches = UserBatches(interactions, 2, generators()[0])
    users = torch.cat([batch.users for batch in batches.epoch()])
    assert sorted(users.tolist()) == [0, 2]
    assert len(batches) == 1
