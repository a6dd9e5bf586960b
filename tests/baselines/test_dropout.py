import pytest
import torch

import baselines.dropout as dropout
from baselines.dropout import drop, drop_in_place, kept


@pytest.mark.parametrize("share", [0.1, 0.31, 0.5, 0.9])
def test_entries_are_zero_or_scaled_and_the_share_is_right(share):
    torch.manual_seed(0)
    x = torch.rand(300, 1001) + 1.0
    dropped = drop(x, share, training=True)
    zeros = dropped == 0
    # Five standard deviations of a share of 300,300 independent draws.
    assert zeros.float().mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / x.numel()) ** 0.5)
    assert torch.allclose(dropped[~zeros], x[~zeros] / (1 - share), rtol=1e-4)
    assert dropped.double().mean().item() == pytest.approx(x.double().mean().item(), rel=0.02)


def test_neighbors_that_share_a_random_number_are_independent():
    torch.manual_seed(0)
    zeros = (kept(torch.Size((100_000, 4)), 0.5) == 0).double()
    correlations = torch.corrcoef(zeros.T) - torch.eye(4)
    assert correlations.abs().max() < 0.016


def test_gradient_is_the_mask():
    torch.manual_seed(0)
    x = torch.rand(20, 7).add_(1.0).requires_grad_()
    dropped = drop(x, 0.25, training=True)
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.allclose(gradient * x, dropped)


def test_nothing_is_dropped_outside_of_training_or_without_a_share():
    x = torch.rand(5, 3)
    assert torch.equal(drop(x, 0.5, training=False), x)
    assert torch.equal(drop(x, 0.0, training=True), x)
    assert torch.equal(kept(torch.Size((50, 9)), 0.0), torch.ones(50, 9))


def test_shares_next_to_the_limits_keep_expected_values():
    torch.manual_seed(0)
    assert kept(torch.Size((1000, 1000)), 1e-6).mean().item() == pytest.approx(1.0, abs=1e-4)
    few = kept(torch.Size((1000, 4000)), 1 - 1e-9)
    assert set(few.unique().tolist()) <= {0.0, 65536.0}


def test_in_place_by_blocks(monkeypatch):
    monkeypatch.setattr(dropout, "BLOCK_ENTRIES", 5000)
    torch.manual_seed(0)
    x = torch.rand(100, 999) + 1.0
    before = x.clone()
    drop_in_place(x, 0.0)
    assert torch.equal(x, before)
    drop_in_place(x, 0.25)
    zeros = x == 0
    assert zeros.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.allclose(x[~zeros], before[~zeros] / 0.75)
