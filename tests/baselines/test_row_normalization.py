import numpy as np
from scipy.sparse import csr_array

from baselines.row_normalization import normalize_one_side


def test_powers_of_row_sums_by_hand():
    links = csr_array(np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=np.float32))
    assert normalize_one_side(links, 1.0).toarray().tolist() == [[0.25] * 4, [0.0] * 4, [0.0, 1.0, 0.0, 0.0]]
    assert normalize_one_side(links, 0.5).toarray().tolist() == [[0.5] * 4, [0.0] * 4, [0.0, 1.0, 0.0, 0.0]]
    assert normalize_one_side(links, 0.5).dtype == np.float32
    assert links.toarray()[0].tolist() == [1.0] * 4
