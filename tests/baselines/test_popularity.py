import numpy as np
import torch
from scipy.sparse import csr_array

from baselines.popularity import Popularity


def test_scores_are_training_counts():
    model = Popularity(csr_array(np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0]], dtype=np.float32)), {})
    assert model.score(torch.tensor([2, 0])).tolist() == [[1.0, 3.0, 0.0], [1.0, 3.0, 0.0]]


def test_scores_can_be_masked_one_user_at_a_time(interactions):
    scores = Popularity(interactions, {}).score(torch.arange(3))
    untouched = scores[1:].clone()
    scores[0] = -torch.inf
    assert torch.equal(scores[1:], untouched)
