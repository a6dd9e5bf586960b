import numpy as np
import pytest
from scipy.sparse import csr_array

from bench.evaluation import beyond_accuracy, coverage, mean_popularity

LISTS = np.array([[0, 1, 2], [0, 3, -1], [-1, -1, -1]])
COUNTS = np.array([8, 4, 0, 2, 100])


def test_coverage_by_hand():
    assert coverage(LISTS, 1, 5) == 1 / 5
    assert coverage(LISTS, 2, 5) == 3 / 5
    assert coverage(LISTS, 3, 5) == 4 / 5


def test_popularity_by_hand():
    assert mean_popularity(LISTS, 1, COUNTS) == 8
    assert mean_popularity(LISTS, 2, COUNTS) == ((8 + 4) / 2 + (8 + 2) / 2) / 2
    # The second list ends after two items, the third is empty.
    assert mean_popularity(LISTS, 3, COUNTS) == ((8 + 4 + 0) / 3 + (8 + 2) / 2) / 2


def test_no_lists_at_all_cover_nothing():
    empty = np.full((2, 3), -1)
    assert coverage(empty, 3, 5) == 0
    assert mean_popularity(empty, 3, COUNTS) == 0


def test_both_at_every_cutoff_from_the_training_matrix():
    train = csr_array(np.array([[1, 1, 0], [1, 0, 0]], dtype=np.float32))
    values = beyond_accuracy(np.array([[1, 2], [1, 2]]), train, (1, 2))
    assert values == {"coverage@1": 1 / 3, "coverage@2": 2 / 3, "popularity@1": 1.0, "popularity@2": 0.5}


def test_short_lists_are_refused():
    with pytest.raises(ValueError, match="length 3 cannot be cut at 5"):
        coverage(LISTS, 5, 5)
    with pytest.raises(ValueError, match="length 3 cannot be cut at 5"):
        mean_popularity(LISTS, 5, COUNTS)
