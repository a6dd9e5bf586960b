"""Item features with a linear projection of each modality, as in the models that learn both.

Several multimedia models load the feature matrices as unfrozen embedding tables: besides the projection, the features
themselves learn. Whatever such a model builds of the features once, a graph of nearest items above all, uses the raw
values.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from baselines.modalities import FeatureTables


class ItemFeatures(nn.Module):
    """All modalities in the order of their names, each with its projection X_m W_m + b_m.

    Args:
        features: raw features by modality, [n_items, width] each.
        width: D, to which each modality is projected.
        trainable: whether the features are parameters.
    """

    def __init__(self, features: Mapping[str, Tensor], width: int, *, trainable: bool) -> None:
        super().__init__()
        self.names = sorted(features)
        self.tables = FeatureTables([features[name] for name in self.names], trainable=trainable)
        self.projections = nn.ModuleList(nn.Linear(own_width, width) for own_width in self.tables.widths)

    def __len__(self) -> int:
        """Return the number of modalities M."""
        return len(self.names)

    def raw(self, modality: int) -> Tensor:
        """Return the table X_m of a modality, [n_items, width of m]."""
        return self.tables.tables()[modality]

    def project(self, modality: int, items: Tensor | None = None) -> Tensor:
        """Return X_m W_m + b_m for these items or all, [len(items), D].

        Args:
            modality: place of m in the order of the names.
            items: int64 [B]; their rows are gathered first, so the work is that of B items.
        """
        raw = self.raw(modality)
        projected: Tensor = self.projections[modality](raw if items is None else raw.index_select(0, items))
        return projected

    def project_difference(self, modality: int, items: Tensor, others: Tensor) -> Tensor:
        """Return what the projections of items and others differ by, row by row, [len(items), D].

        The bias cancels, so it takes one projection instead of two.

        Args:
            modality: place of m in the order of the names.
            items: int64 [B].
            others: int64 [B].
        """
        # One lookup for both: each lookup's gradient is a table of its own.
        first, second = self.raw(modality).index_select(0, torch.cat((items, others))).chunk(2)
        return linear(first - second, self.projections[modality].weight)  # type: ignore[arg-type]
