"""Refuse a plan that cannot fit into memory before any of it runs, with what it would need.

Most models grow with users, items and interactions, and always fit where the data does. One that grows faster says so
by a class method `memory_bytes(n_users, n_items, n_interactions, **hyperparameters)`: its peak, in bytes.
"""

from collections.abc import Sequence

import psutil

from bench.data import PreparedDataset
from bench.errors import UsageError
from bench.experiments.plan import Configuration
from bench.models import load_class

GIB = 2**30


def estimate_bytes(configuration: Configuration, dataset: PreparedDataset) -> int | None:
    """Return the peak memory that a model says it needs on a dataset; None where it says nothing."""
    estimate = getattr(load_class(configuration.spec), "memory_bytes", None)
    if estimate is None:
        return None
    n_interactions = int((dataset.interactions["split"] == "train").sum())
    needed: int = estimate(dataset.n_users, dataset.n_items, n_interactions, **configuration.hyperparameters)
    return needed


def check_memory(dataset: PreparedDataset, configurations: Sequence[Configuration]) -> None:
    """Refuse models that need more memory than this machine has free.

    Raises:
        UsageError: with every such model, what it would need and what there is.
    """
    available = psutil.virtual_memory().available
    needs = {each.label: estimate_bytes(each, dataset) for each in configurations}
    too_large = {label: needed for label, needed in needs.items() if needed is not None and needed > available}
    if too_large:
        words = ", ".join(f"{label} about {needed / GIB:.1f} GiB" for label, needed in too_large.items())
        raise UsageError(
            f"On {dataset.name} ({dataset.n_users:,} users, {dataset.n_items:,} items) memory would not do: {words}; "
            f"{available / GIB:.1f} GiB are free. Leave these models out, or use a machine with more memory."
        )
