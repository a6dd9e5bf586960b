"""Item features as the multimedia models hold them: one matrix a modality, in the order of the modalities' names."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def feature_matrices(features: Mapping[str, Tensor], n_items: int, model: str) -> dict[str, Tensor]:
    """Return the modalities in the order of their names, checked.

    Args:
        features: modality name to [n_items, width].
        n_items: I.
        model: who asks, for the message.

    Raises:
        ValueError: if there is no modality, or one does not have a row for every item.
    """
    if not features:
        raise ValueError(
            f"{model} needs the item features of at least one modality, found none. Add features to the dataset, or "
            "choose a model that learns from interactions alone."
        )
    for name, matrix in features.items():
        if matrix.dim() != 2 or len(matrix) != n_items:
            raise ValueError(
                f"{model} expects the features of modality '{name}' to have shape [{n_items}, width], one row per "
                f"item of the interactions; found {list(matrix.shape)}."
            )
    return {name: features[name] for name in sorted(features)}


class FeatureTables(nn.Module):
    """Raw features of M modalities, fixed or trained on from their given values.

    Fixed tables share memory with the matrices given and stay out of the state dict: they are data. Trainable ones
    are copies, and cost a gradient and the optimizer's two moments besides, each as large as the features.

    Args:
        matrices: one [I, width] per modality.
        trainable: whether the tables are parameters.
    """

    def __init__(self, matrices: list[Tensor], *, trainable: bool) -> None:
        super().__init__()
        self.widths = [matrix.shape[1] for matrix in matrices]
        # Numbered and not named: a modality may be called what a module may not.
        for number, matrix in enumerate(matrices):
            if trainable:
                self.register_parameter(f"table_{number}", nn.Parameter(matrix.detach().clone()))
            else:
                self.register_buffer(f"table_{number}", matrix.detach(), persistent=False)

    def tables(self) -> list[Tensor]:
        """Return the whole tables, each [I, width]."""
        return [getattr(self, f"table_{number}") for number in range(len(self.widths))]

    def rows(self, items: Tensor) -> list[Tensor]:
        """Return the items' rows of every table, each [len(items), width].

        Args:
            items: int64 [B].
        """
        return [torch.index_select(table, 0, items) for table in self.tables()]
