import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from baselines.item_clusters import item_clusters, k_means


def same_partition(one, two):
    return torch.equal(one[:, None] == one, two[:, None] == two)


def test_finds_planted_clusters():
    torch.manual_seed(0)
    truth = torch.arange(60) % 3
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])[truth] + torch.randn(60, 2)
    assert same_partition(k_means(points, 3), truth)


def test_ends_where_every_point_is_nearest_to_its_own_mean():
    torch.manual_seed(0)
    points = torch.rand(200, 3)
    labels = k_means(points, 4)
    means = torch.stack([points[labels == c].mean(dim=0) for c in range(4)])
    assert torch.equal(torch.cdist(points, means).argmin(dim=1), labels)


@pytest.mark.parametrize("n_clusters", [1, 3, 6])
def test_no_cluster_is_empty_even_if_all_points_are_the_same(n_clusters):
    assert k_means(torch.ones(6, 2), n_clusters).bincount(minlength=n_clusters).min() >= 1


def test_leaves_the_random_numbers_of_the_run_alone(interactions):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = item_clusters(interactions, 4)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(item_clusters(interactions, 4), first)


def test_items_of_the_same_users_share_a_cluster():
    dense = np.kron(np.eye(2), np.ones((20, 8))).astype(np.float32)
    dense[4:20, 1:3] = 0.0
    dense[25:40, 9] = 0.0
    clusters = item_clusters(csr_array(dense), 2)
    assert same_partition(clusters, torch.arange(16) // 8)


def test_popularity_does_not_decide():
    # Two groups of rare items and one hit that most users of both have.
    rng = np.random.default_rng(0)
    dense = (rng.random((120, 40)) < np.kron(np.eye(2), np.full((60, 20), 0.1)) + 0.004).astype(np.float32)
    dense[:, 0] = rng.random(120) < 0.9
    second = (item_clusters(csr_array(dense), 2)[1:] == 1).float()
    truth = (torch.arange(1, 40) >= 20).float()
    agreement = (second == truth).float().mean().item()
    assert max(agreement, 1 - agreement) > 0.85


def test_an_item_without_interactions_has_a_cluster(interactions):
    clusters = item_clusters(interactions, 3)
    assert clusters.shape == (30,)
    assert set(clusters.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_too_small_to_decompose(shape):
    clusters = item_clusters(csr_array(np.ones(shape, dtype=np.float32)), 1)
    assert clusters.tolist() == [0] * shape[1]
