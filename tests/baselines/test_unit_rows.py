import pytest
import torch
from torch.nn.functional import normalize

from baselines.unit_rows import unit_rows


def test_by_hand():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    units = unit_rows(rows)
    assert units.flatten().tolist() == pytest.approx([0.6, 0.8, 0.0, 0.0])
    (gradient,) = torch.autograd.grad(units[0, 0], rows)
    # (1 - 0.6 * 0.6) / 5 and (0 - 0.6 * 0.8) / 5
    assert gradient[0].tolist() == pytest.approx([0.128, -0.096])


@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 6), (1, 1)])
def test_value_and_gradient_agree_with_normalize(shape):
    torch.manual_seed(0)
    rows, outer = torch.randn(shape, dtype=torch.float64, requires_grad=True), torch.randn(shape, dtype=torch.float64)
    assert torch.allclose(unit_rows(rows), normalize(rows, dim=-1))
    found, wanted = (torch.autograd.grad(f(rows), rows, outer)[0] for f in (unit_rows, lambda x: normalize(x, dim=-1)))
    assert torch.allclose(found, wanted)
