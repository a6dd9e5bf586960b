import numpy as np
import pytest
from scipy.sparse import csr_array


@pytest.fixture
def interactions() -> csr_array:
    """40 users, 30 items, with one user and one item that have no interaction at all."""
    rng = np.random.default_rng(7)
    dense = (rng.random((40, 30)) < 0.2).astype(np.float32)
    dense[:, 0] = rng.random(40) < 0.8
    dense[5], dense[:, 11] = 0.0, 0.0
    return csr_array(dense)
