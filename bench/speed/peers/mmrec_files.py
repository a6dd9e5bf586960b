"""A prepared data set as MMRec's files: one table of interactions with their split, a matrix for each modality."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from bench.data import PreparedDataset
from bench.speed.peers.places import write_features

# The folder of the data set in MMRec's data folder; no file of settings of that name comes with it.
NAME = "prepared"
INTERACTIONS, USER_GRAPH = "prepared.inter", "user_graph_dict.npy"
LABELS = {"train": 0, "valid": 1, "test": 2}
# As many neighbors as MMRec's own preparation of DualGNN's graph keeps for a user.
MOST_NEIGHBORS = 200
BLOCK_USERS = 1024


def write(dataset: PreparedDataset, folder: Path, *, user_graph: bool = False) -> None:
    """Write a data set in MMRec's form.

    Args:
        dataset: to write.
        folder: MMRec's data folder; the files go into one named `NAME` inside.
        user_graph: whether the users' neighbors are written too, which DualGNN alone reads.
    """
    inside = folder / NAME
    inside.mkdir(parents=True)
    table = dataset.interactions[["user", "item"]].set_axis(["userID", "itemID"], axis=1)
    table["x_label"] = dataset.interactions["split"].map(LABELS)
    table.to_csv(inside / INTERACTIONS, sep="\t", index=False)
    write_features(dataset, inside)
    if user_graph:
        neighbors: Any = np.array(neighbors_of_users(dataset.matrix("train")), dtype=object)
        # MMRec reads a pickled dictionary; it is written here and never read.
        np.save(inside / USER_GRAPH, neighbors, allow_pickle=True)


def neighbors_of_users(interactions: csr_array) -> dict[int, list[list[float]]]:
    """Return for each user the users with the most items in common and how many those are, most first.

    Args:
        interactions: training matrix R, binary, [U, I].
    """
    found: dict[int, list[list[float]]] = {}
    users_of_item = csr_array(interactions.T)
    for start in range(0, interactions.shape[0], BLOCK_USERS):
        common = csr_array(interactions[start : start + BLOCK_USERS] @ users_of_item)
        common.sort_indices()
        for row, (first, last) in enumerate(zip(common.indptr[:-1], common.indptr[1:], strict=True)):
            user = start + row
            others, counts = common.indices[first:last], common.data[first:last]
            others, counts = others[others != user], counts[others != user]
            order = np.argsort(-counts, kind="stable")[:MOST_NEIGHBORS]
            found[user] = [others[order].tolist(), counts[order].tolist()]
    return found
