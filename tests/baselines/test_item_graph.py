import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

import baselines.item_graph as item_graph
from baselines.contrastive import info_nce
from baselines.graph import SparseMatrix
from baselines.item_graph import nearest_items, neighbor_matrix, normalize_by_rows


def by_sorting(features, k):
    """All pairs, sorted by rounded cosine and then by index."""
    rows = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosines = np.round((rows @ rows.T).double().numpy(), 6)
    return np.array([sorted(range(len(rows)), key=lambda j: (-cosines[i, j], j))[:k] for i in range(len(rows))])


def test_nearest_items_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0]])
    indices, cosines = nearest_items(features, 2)
    assert indices.tolist() == [[0, 2], [1, 2], [2, 0], [0, 1]], "equal cosines by index; a zero row is near nothing"
    assert cosines[:3] == pytest.approx(np.array([[1, 0.707107], [1, 0.707107], [1, 0.707107]]))
    assert cosines[3].tolist() == [0, 0]
    assert nearest_items(features, 9)[0].shape == (4, 4), "at most all items"


@given(
    seed=st.integers(0, 10**6), k=st.integers(1, 8), n_copies=st.integers(0, 6), block=st.sampled_from([9, 40, 10**6])
)
@settings(max_examples=60)
def test_nearest_items_agree_with_sorting_all_pairs(seed, k, n_copies, block):
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    features[:n_copies] = features[11]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_graph, "BLOCK_ENTRIES", block)
        indices, cosines = nearest_items(features, k)
    assert indices.tolist() == by_sorting(features, k).tolist()
    assert (cosines.diff(dim=1) <= 0).all()


def test_neighbor_matrix_adds_what_is_repeated():
    matrix = neighbor_matrix(torch.tensor([[0, 0], [1, 0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 2)
    assert matrix.toarray().tolist() == [[3, 0], [4, 3]]


def test_normalize_by_rows_uses_row_sums_on_both_sides():
    matrix = csr_array(np.array([[1.0, 3.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]))
    normal = normalize_by_rows(matrix).toarray()
    assert normal == pytest.approx(np.array([[0.25, 1.5, 0], [0, 1, 0], [0, 0, 0]])), "a negative sum gives nothing"


def test_a_sparse_product_and_its_gradient_are_those_of_the_dense_matrix():
    rng = np.random.default_rng(0)
    dense = (rng.random((5, 7)) < 0.4) * rng.normal(size=(5, 7))
    matrix = SparseMatrix(csr_array(dense.astype(np.float32)))
    table = torch.randn(7, 3, requires_grad=True)
    weights = torch.randn(5, 3)
    product = matrix.propagate(table)
    assert torch.allclose(product, torch.from_numpy(dense).float() @ table, atol=1e-6)
    (product * weights).sum().backward()
    assert torch.allclose(table.grad, torch.from_numpy(dense).float().T @ weights, atol=1e-6)
    back = torch.randn(5, 2, requires_grad=True)
    assert torch.allclose(matrix.propagate_back(back), torch.from_numpy(dense).float().T @ back, atol=1e-6)
    assert not matrix.state_dict()


def test_info_nce_by_hand():
    anchors = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    others = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    first = -np.log(np.exp(2) / (2 * np.exp(2)))
    second = -np.log(np.exp(0) / (2 * np.exp(0)))
    assert info_nce(anchors, others, 0.5).item() == pytest.approx((first + second) / 2)
