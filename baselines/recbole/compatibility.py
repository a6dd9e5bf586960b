"""What RecBole 1.2.1 expects of its surroundings, provided while it is imported or constructs a model, then undone.

- SciPy 1.13 took `dok_matrix._update` away, through which LightGCN, NGCF, NCL, SpectralCF and GCMC fill their graph.
- RecBole logs through the root logger and torch warns of the old constructors it calls: neither is for the user.
- NumPy's former names (`np.float_` and others), which its `Config` puts back into NumPy for the whole process, are not
  needed: the `Config` used here leaves them out, and none of its general recommenders reads one.
"""

import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from scipy.sparse import dok_matrix

from baselines.recbole.installation import package_folder

_LOCK = threading.RLock()
_ABSENT = object()


def _update(matrix: Any, entries: Mapping[tuple[int, int], float]) -> None:
    """Add entries to a matrix as the method of this name did: without checking each, which costs 20 times as much."""
    matrix._dict.update(entries)


@cache
def _recbole() -> Path:
    return package_folder()


def _not_from_recbole(record: logging.LogRecord) -> bool:
    return not Path(record.pathname).is_relative_to(_recbole())


@contextmanager
def surroundings() -> Iterator[None]:
    """Provide what RecBole expects and keep it quiet inside the block; one thread at a time.

    Warnings and the log filter are process-wide while the block lasts.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = logging.getLogger()
        root.addFilter(_not_from_recbole)
        former = vars(dok_matrix).get("_update", _ABSENT)
        dok_matrix._update = _update
        try:
            yield
        finally:
            if former is _ABSENT:
                del dok_matrix._update
            else:
                dok_matrix._update = former
            root.removeFilter(_not_from_recbole)
