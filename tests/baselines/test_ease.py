import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import baselines.ease
from baselines.ease import EASE, gram_matrix, solve


def test_hand_computed_weights():
    # X^T X + 1 = [[2, 1], [1, 3]], its inverse is [[3, -1], [-1, 2]] / 5.
    model = EASE(csr_array(np.array([[1, 1], [0, 1]], dtype=np.float32)), {}, reg_weight=1.0)
    assert torch.allclose(model.item_weights, torch.tensor([[0.0, 1 / 2], [1 / 3, 0.0]]))
    assert torch.allclose(model.score(torch.tensor([1, 0])), torch.tensor([[1 / 3, 0.0], [1 / 3, 1 / 2]]))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_agrees_with_the_formula(interactions, precision):
    model = EASE(interactions, {}, reg_weight=3.0, precision=precision)
    x = interactions.toarray().astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 3.0 * np.eye(30))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    assert model.item_weights.dtype == torch.float32
    assert not model.item_weights.diagonal().any()
    users = torch.tensor([0, 5, 5, 17])
    assert np.allclose(model.score(users).numpy(), x[users.numpy()] @ weights, atol=1e-5)


def test_solution_is_a_minimum(interactions):
    x = interactions.toarray().astype(np.float64)
    best = EASE(interactions, {}, reg_weight=3.0).item_weights.numpy().astype(np.float64)

    def objective(weights):
        return ((x - x @ weights) ** 2).sum() + 3.0 * (weights**2).sum()

    rng = np.random.default_rng(0)
    for _ in range(5):
        step = 0.01 * rng.standard_normal(best.shape)
        np.fill_diagonal(step, 0.0)
        assert objective(best + step) > objective(best)


def test_block_size_changes_nothing(interactions, monkeypatch):
    whole = gram_matrix(interactions, "float32")
    monkeypatch.setattr(baselines.ease, "BLOCK_ENTRIES", 7 * 30)
    assert torch.equal(gram_matrix(interactions, "float32"), whole)


def test_indefinite_matrix_says_what_to_do():
    with pytest.raises(ValueError, match=r"reg_weight=1\.0.*larger reg_weight"):
        solve(-10.0 * torch.eye(3), 1.0)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_weights_lie_row_by_row_as_scoring_reads_them(precision):
    weights = EASE(csr_array(np.eye(5, 7, dtype=np.float32)), {}, precision=precision).item_weights
    assert weights.is_contiguous()
