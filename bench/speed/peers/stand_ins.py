"""What the code of other projects expects around it and does not find here, put in place in its own process alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import dok_matrix, spmatrix
from torch import nn

NUMPY_NAMES = {"float": float, "float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}


def put_back_old_names() -> None:
    """Put back names that NumPy and SciPy have dropped; what is there stays as it is."""
    for name, meaning in NUMPY_NAMES.items():
        if not hasattr(np, name):
            setattr(np, name, meaning)
    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = _update
    if not hasattr(spmatrix, "A"):
        spmatrix.A = property(lambda self: self.toarray())


def stay_on_cpu() -> None:
    """Let code that asks for a GPU by name have the CPU."""
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]


def _update(self: Any, entries: Mapping[tuple[int, int], float]) -> None:
    """Set entries by their places, unchecked."""
    self._dict.update(entries)
