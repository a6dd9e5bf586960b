import math

import pytest
import torch

import baselines.log_normalizers as log_normalizers
from baselines.log_normalizers import sum_of_log_normalizers


def test_by_hand():
    anchors, others = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [math.log(2.0)]])
    # Anchor 0 sees 1 + 1, anchor 1 sees 1 + 2; with counts 3 and 1 they see 4 and 5.
    weights = torch.tensor([1.0, 10.0])
    expected = math.log(2) + 10 * math.log(3)
    assert sum_of_log_normalizers(anchors, others, weights).item() == pytest.approx(expected, rel=1e-6)
    counted = sum_of_log_normalizers(anchors, others, weights, torch.tensor([3.0, 1.0]).log())
    assert counted.item() == pytest.approx(math.log(4) + 10 * math.log(5), rel=1e-6)


@pytest.mark.parametrize("block_entries", [1, 40, 1 << 19])
@pytest.mark.parametrize("with_counts", [False, True])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_value_and_gradients_agree_with_all_pairs_at_once(monkeypatch, block_entries, with_counts, scale):
    monkeypatch.setattr(log_normalizers, "BLOCK_ENTRIES", block_entries)
    monkeypatch.setattr(log_normalizers, "LEAST_ANCHORS", 1)
    torch.manual_seed(0)
    anchors = (scale * torch.randn(7, 3, dtype=torch.float64)).requires_grad_()
    others = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(7, dtype=torch.float64)
    log_counts = torch.randint(1, 9, (11,)).double().log() if with_counts else None
    value = 3.0 * sum_of_log_normalizers(anchors, others, weights, log_counts)
    logits = anchors @ others.T + (0.0 if log_counts is None else log_counts)
    expected = 3.0 * (weights * logits.logsumexp(dim=1)).sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    found, wanted = torch.autograd.grad(value, (anchors, others)), torch.autograd.grad(expected, (anchors, others))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_large_products_are_exact_and_no_exponential_is_denormal(monkeypatch):
    torch.manual_seed(0)
    anchors, others = (300 * torch.randn(20, 5)).requires_grad_(), 30 * torch.randn(50, 5)
    log_counts = torch.randint(1, 9, (50,)).double().log()
    smallest, mm = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: (smallest.append(a.min()), mm(a, b, out=out))[1])
    found = sum_of_log_normalizers(anchors, others, torch.ones(20), log_counts.float())
    logits = anchors.detach().double() @ others.double().T + log_counts
    assert found.item() == pytest.approx(logits.logsumexp(dim=1).sum().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, anchors)
    assert torch.allclose(gradient.double(), logits.softmax(dim=1) @ others.double(), rtol=1e-3, atol=1e-2)
    assert smallest
    assert min(smallest) > torch.finfo(torch.float32).tiny


def test_the_same_table_may_be_on_both_sides():
    torch.manual_seed(0)
    table = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.ones(5, dtype=torch.float64)
    (found,) = torch.autograd.grad(sum_of_log_normalizers(table, table, weights), table)
    (wanted,) = torch.autograd.grad((table @ table.T).logsumexp(dim=1).sum(), table)
    assert torch.allclose(found, wanted, rtol=1e-10)
