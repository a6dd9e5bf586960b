import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from baselines.graph import SymmetricGraph, bipartite_adjacency, normalize_symmetric, sum_over_items
from ld4mrec.rows import UserRows


def dense_normalized(interactions):
    """D^{-1/2} A D^{-1/2} in float64 from dense matrices."""
    r = interactions.toarray().astype(np.float64)
    n_users, n_items = r.shape
    a = np.block([[np.zeros((n_users, n_users)), r], [r.T, np.zeros((n_items, n_items))]])
    degrees = a.sum(axis=1)
    scale = np.array([1 / np.sqrt(d) if d else 0.0 for d in degrees])
    return scale[:, None] * a * scale


@pytest.fixture
def graph(interactions):
    return SymmetricGraph(normalize_symmetric(bipartite_adjacency(interactions)))


def test_hand_computed_weights():
    # User 0 has items 0 and 1, user 1 has item 0: degrees are 2, 1 and 2, 1.
    matrix = normalize_symmetric(bipartite_adjacency(csr_array(np.array([[1, 1], [1, 0]], dtype=np.float32))))
    half, root = 0.5, 0.5**0.5
    expected = [[0, 0, half, root], [0, 0, root, 0], [half, root, 0, 0], [root, 0, 0, 0]]
    assert matrix.dtype == np.float32
    assert np.allclose(matrix.toarray(), expected)


def test_node_without_edges_gets_nothing(interactions, graph):
    product = graph.propagate(torch.randn(70, 4))
    assert not product[5].any()
    assert not product[40 + 11].any()


def test_products_agree_with_dense_powers(interactions, graph):
    a = dense_normalized(interactions)
    nodes = torch.randn(70, 8)
    e = nodes.double().numpy()
    assert np.allclose(graph.propagate(nodes), a @ e, atol=1e-6)
    for n_layers in (0, 1, 3):
        mean = sum(np.linalg.matrix_power(a, layer) @ e for layer in range(n_layers + 1)) / (n_layers + 1)
        assert np.allclose(graph.mean_of_layers(nodes, n_layers), mean, atol=1e-6)


def test_gradients(graph):
    graph.double()
    nodes = torch.randn(70, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(graph.propagate, nodes)
    assert torch.autograd.gradcheck(lambda e: graph.mean_of_layers(e, 2), nodes)
    assert torch.autograd.gradgradcheck(lambda e: graph.mean_of_layers(e.square(), 2), nodes, fast_mode=True)


def test_gradient_of_expanded_tensor(graph):
    nodes = torch.randn(70, 3, requires_grad=True)
    # The gradient of a sum is an expanded scalar, which embedding_bag must not be given as it is.
    graph.propagate(nodes).sum().backward()
    assert torch.allclose(nodes.grad, graph.propagate(torch.ones(70, 3)), atol=1e-6)


def test_one_sided_matrix_is_refused(interactions):
    adjacency = bipartite_adjacency(interactions)
    row_normalized = csr_array(adjacency / np.maximum(adjacency.sum(axis=1), 1)[:, None])
    with pytest.raises(ValueError, match="symmetric"):
        SymmetricGraph(row_normalized)
    with pytest.raises(ValueError, match=r"\(40, 30\)"):
        SymmetricGraph(interactions)


def test_graph_is_data_and_not_state(graph):
    assert not graph.state_dict()


def test_sum_over_items_equals_dense_rows(interactions):
    rows = UserRows(interactions)
    table = torch.randn(30, 6)
    users = torch.tensor([5, 39, 0, 5, 12])
    assert torch.allclose(sum_over_items(rows, users, table), rows.dense(users) @ table, atol=1e-5)
    assert not sum_over_items(rows, torch.tensor([5]), table).any()
