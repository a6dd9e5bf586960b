from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor


@pytest.fixture
def interactions() -> csr_array:
    """40 users, 30 items, with one user and one item that have no interaction at all."""
    rng = np.random.default_rng(7)
    dense = (rng.random((40, 30)) < 0.2).astype(np.float32)
    dense[:, 0] = rng.random(40) < 0.8
    dense[5], dense[:, 11] = 0.0, 0.0
    return csr_array(dense)


@pytest.fixture
def features() -> dict[str, Tensor]:
    """Two modalities; items 3 and 11 lack the text, and item 11 has no interactions either."""
    generator = torch.Generator().manual_seed(5)
    tables = {
        "visual": torch.randn(30, 7, generator=generator),
        "text": torch.randn(30, 4, generator=generator),
    }
    tables["text"][[3, 11]] = 0.0
    return tables


@pytest.fixture
def batch() -> SimpleNamespace:
    """Triples with a user and an item twice, and the user and the item that have no interactions."""
    return SimpleNamespace(
        users=torch.tensor([0, 3, 3, 7, 5]),
        positives=torch.tensor([1, 0, 2, 0, 11]),
        negatives=torch.tensor([4, 4, 9, 1, 2]),
    )
