import pytest
import torch

from baselines.seen_items import Seen
from ld4mrec.rows import UserRows

N_KINDS, WIDTH = 2, 4


@pytest.fixture
def seen(interactions):
    """Items of three users, the second of whom has none."""
    return Seen.of(UserRows(interactions), torch.tensor([7, 5, 0]))


@pytest.fixture
def dense(interactions):
    return torch.from_numpy(interactions.toarray())[[7, 5, 0]].double()


def test_entries_in_both_orders(seen, dense):
    assert torch.equal(torch.stack((seen.rows, seen.items), dim=1), dense.nonzero())
    in_order = torch.stack((seen.items[seen.by_item], seen.rows[seen.by_item]), dim=1)
    assert torch.equal(in_order, dense.T.nonzero())
    counts = dense.sum(dim=0).long()
    assert torch.equal(seen.item_starts, counts.cumsum(0) - counts)
    assert torch.equal(seen.counts(), dense.sum(dim=1).long())


def test_totals_and_sums_of_rows_with_their_gradients(seen, dense):
    torch.manual_seed(0)
    table = torch.randn(30, WIDTH, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(len(seen.items), N_KINDS, dtype=torch.float64, requires_grad=True)
    full = torch.zeros(N_KINDS, *dense.shape, dtype=torch.float64)
    full = full.index_put((torch.arange(N_KINDS)[:, None], seen.rows, seen.items), weights.T)
    expected = torch.einsum("mbi,ih->bmh", full, table)
    assert torch.allclose(seen.sums_of_rows(table.detach(), weights.detach()), expected)
    gradient = torch.randn(3, N_KINDS, WIDTH, dtype=torch.float64)
    of_table, of_weights = torch.autograd.grad(expected, (table, weights), gradient)
    assert torch.allclose(seen.gradient_of_table(gradient, weights.detach()), of_table)
    assert torch.allclose(seen.gradient_of_weights(gradient, table.detach()), of_weights)
    assert torch.allclose(seen.totals(weights.detach()), full.sum(dim=2).T)


def test_scores_with_their_gradients(seen, dense):
    torch.manual_seed(0)
    users = torch.randn(3, N_KINDS, WIDTH, dtype=torch.float64, requires_grad=True)
    items = torch.randn(30, N_KINDS, WIDTH, dtype=torch.float64, requires_grad=True)
    expected = torch.einsum("bmd,imd->bim", users, items)[seen.rows, seen.items]
    found, gradient = seen.scores(users, items), torch.randn(len(seen.items), N_KINDS, dtype=torch.float64)
    assert torch.allclose(found, expected)
    pairs = zip(*(torch.autograd.grad(x, (users, items), gradient) for x in (found, expected)), strict=True)
    assert all(torch.allclose(one, other) for one, other in pairs)
