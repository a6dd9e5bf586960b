"""DiffMM's own code (Jiang et al., "DiffMM: Multi-Modal Diffusion Model for Recommendation", ACM MM 2024).

Its repository is HKUDS/DiffMM on GitHub; it is driven from a checkout of the user's, never copied. It evaluates on the
test split alone; that is given the interactions of validation here.
"""

import pickle
from pathlib import Path
from typing import Any

from scipy.sparse import coo_matrix

from bench.data import PreparedDataset
from bench.speed.peers.peer import Counterpart, Hyperparameters, Peer, locate_checkout
from bench.speed.peers.places import places, write_features

PARTS = ("Main.py", "DataHandler.py", "Model.py", "Params.py")
# The one of its data sets that has pictures and texts and nothing else; its name decides what the code reads.
FOLDER = Path("Datasets") / "baby"
SPLITS = {"train": "trnMat.pkl", "valid": "tstMat.pkl"}


def _words(values: Hyperparameters) -> dict[str, Any]:
    return {
        "lr": values["learning_rate"],
        "batch": values["batch_size"],
        "latdim": values["embedding_dim"],
        "gnn_layer": values["n_layers"],
        "reg": values["reg_weight"],
        "ssl_reg": values["cl_weight"],
        "temp": values["temperature"],
        "keepRate": 1 - values["edge_dropout"],
        "dims": f"[{values['hidden_dim']}]",
        "steps": values["diffusion_steps"],
        "noise_scale": values["noise_scale"],
        "noise_min": values["noise_min"],
        "noise_max": values["noise_max"],
        "sampling_steps": values["forward_steps"],
        "rebuild_k": values["n_generated"],
        "e_loss": values["msi_weight"],
        "ris_lambda": values["residual_weight"],
        "ris_adj_lambda": values["modality_graph_weight"],
        "trans": int(values["projection"] == "linear"),
        "cl_method": int(values["contrast_with"] == "main"),
    }


COUNTERPARTS = {
    "diffmm": Counterpart(
        "DiffMM",
        _words,
        # It has one size for both kinds of batches.
        {
            "batch_size": 1024,
            "diffusion_batch_size": 1024,
            "exclude_seen": False,
            "reweight": "snr",
            "dropout": 0.5,
        },
    )
}


def locate(checkout: Path | None) -> str:
    """Return the full path of a checkout of DiffMM; raises UsageError where there is none."""
    return locate_checkout("DiffMM", "https://github.com/HKUDS/DiffMM", PARTS, checkout)


def write(dataset: PreparedDataset, folder: Path, model: str) -> None:
    """Write a data set in DiffMM's form: a pickled sparse matrix for each split, a matrix for each modality.

    Args:
        dataset: to write.
        folder: the files go into `FOLDER` inside.
        model: of no matter, there is one.
    """
    inside = folder / FOLDER
    inside.mkdir(parents=True)
    for split, name in SPLITS.items():
        (inside / name).write_bytes(pickle.dumps(coo_matrix(dataset.matrix(split))))
    write_features(dataset, inside)


DIFFMM = Peer(
    "diffmm",
    "DiffMM",
    "bench.speed.peers.diffmm_driver",
    COUNTERPARTS,
    locate=locate,
    write=write,
    places=places,
)
