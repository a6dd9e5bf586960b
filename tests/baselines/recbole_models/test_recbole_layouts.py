"""Batches as RecBole's loaders lay them out, worked out by hand, and the negatives that are drawn for them."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from baselines.recbole.layouts import Negatives, points, triples, user_item_pairs, users_only
from bench.training.protocol import PairBatch

BATCH = PairBatch(torch.tensor([4, 0]), torch.tensor([2, 3]), torch.tensor([7, 8]))


class Counting:
    """Draws 10, 11, 12 ... and remembers for whom."""

    def draw(self, users):
        self.users = users.tolist()
        return torch.arange(10, 10 + len(users))


def listed(fields):
    return {name: tensor.tolist() for name, tensor in fields.items()}


def test_triples_count_from_one():
    assert listed(triples(BATCH, 1, Counting())) == {"user_id": [5, 1], "item_id": [3, 4], "neg_item_id": [8, 9]}


def test_more_negatives_repeat_the_whole_batch():
    more = Counting()
    assert listed(triples(BATCH, 3, more)) == {
        "user_id": [5, 1, 5, 1, 5, 1],
        "item_id": [3, 4, 3, 4, 3, 4],
        "neg_item_id": [8, 9, 11, 12, 13, 14],
    }
    assert more.users == [4, 0, 4, 0]


def test_points_are_all_positives_then_all_negatives():
    found = points(BATCH, 2, Counting())
    assert listed(found) == {
        "user_id": [5, 1, 5, 1, 5, 1],
        "item_id": [3, 4, 8, 9, 11, 12],
        "label": [1.0, 1.0, 0.0, 0.0, 0.0, 0.0],
    }
    assert found["label"].dtype == torch.float32


def test_users_and_pairs_count_from_one():
    assert listed(users_only(torch.tensor([0, 6]))) == {"user_id": [1, 7]}
    found = user_item_pairs(torch.tensor([0, 6]), torch.tensor([1, 2, 3]))
    assert listed(found) == {"user_id": [1, 1, 1, 7, 7, 7], "item_id": [2, 3, 4, 2, 3, 4]}


@given(st.integers(0, 2**31))
def test_negatives_are_items_without_a_training_interaction(seed):
    dense = np.random.default_rng(seed).random((6, 5)) < 0.6
    dense[np.arange(6), np.arange(6) % 5] = False
    users = torch.arange(6).repeat(20)
    drawn = Negatives(csr_array(dense.astype(np.float32))).draw(users)
    assert not dense[users.numpy(), drawn.numpy()].any()


def test_negatives_are_uniform_over_what_is_left():
    dense = np.array([[0, 1, 0, 0, 1]], dtype=np.float32)
    torch.manual_seed(1)
    drawn = Negatives(csr_array(dense)).draw(torch.zeros(30_000, dtype=torch.int64))
    counts = torch.bincount(drawn, minlength=5)
    assert counts[[1, 4]].tolist() == [0, 0]
    # Three standard deviations of a count of 10,000 are 245.
    assert (counts[[0, 2, 3]] - 10_000).abs().max() < 300
