"""Two places for features, pictures and texts, which is what most multimedia code has; ours gets the same two.

Ours has them under the names "visual" and "text", so that what a model treats by name (which modality is compressed,
which graph weighs little) is the same on both sides.
"""

from pathlib import Path

import numpy as np

from bench.data import PreparedDataset

FILES = {"visual": "image_feat.npy", "text": "text_feat.npy"}


def places(dataset: PreparedDataset) -> dict[str, str] | None:
    """Return which modality takes the place for pictures ("visual") and which that for texts ("text").

    A modality of that name goes to its own place, the others by name to what is left. A third is left out, and one
    alone that has neither name is a picture.
    """
    named = {place: place for place in FILES if place in dataset.features}
    others = sorted(set(dataset.features) - set(named))
    free = [place for place in FILES if place not in named]
    chosen = named | dict(zip(free, others, strict=False))
    return {place: chosen[place] for place in FILES if place in chosen}


def write_features(dataset: PreparedDataset, folder: Path) -> None:
    """Write the matrix of each place, float32, into its file; the file of an empty place stays absent."""
    for place, modality in (places(dataset) or {}).items():
        np.save(folder / FILES[place], np.asarray(dataset.features[modality], dtype=np.float32))
