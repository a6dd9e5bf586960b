"""RecBole (Xu et al., "Towards a More User-Friendly and Easy-to-Use Benchmark Library", SIGIR 2023), as installed.

Of its models those that have a counterpart here read no features.
"""

import importlib.util
from pathlib import Path
from typing import Any

from bench.data import PreparedDataset
from bench.errors import UsageError
from bench.speed.peers.peer import Counterpart, Hyperparameters, Peer
from bench.speed.peers.recbole_files import write


def _usual(values: Hyperparameters) -> dict[str, Any]:
    return {
        "learning_rate": values["learning_rate"],
        "train_batch_size": values["batch_size"],
        "weight_decay": values.get("weight_decay", 0.0),
    }


def _lightgcn(values: Hyperparameters) -> dict[str, Any]:
    names = ("n_layers", "reg_weight")
    return {
        **_usual(values),
        "embedding_size": values["embedding_dim"],
        **{name: values[name] for name in names},
    }


def _diffusion(values: Hyperparameters) -> dict[str, Any]:
    return {
        **_usual(values),
        "dims_dnn": list(values["hidden_dims"]),
        "steps": values["diffusion_steps"],
        "noise_scale": values["noise_scale"],
        "noise_min": values["noise_min"],
        "noise_max": values["noise_max"],
        "reweight": values["reweight"] == "snr",
    }


def _diffrec(values: Hyperparameters) -> dict[str, Any]:
    return {
        **_diffusion(values),
        "beta_fixed": values["fix_first_beta"],
        "sampling_steps": values["reverse_steps"],
    }


def _l_diffrec(values: Hyperparameters) -> dict[str, Any]:
    return {
        **_diffusion(values),
        "beta_fixed": False,
        "n_cate": values["n_clusters"],
        "in_dims": [values["latent_dim"]],
        "lamda": values["diffusion_weight"],
        "anneal_cap": values["diffusion_weight_min"],
        "vae_anneal_cap": values["kl_weight"],
        "vae_anneal_steps": values["kl_warmup_steps"],
    }


COUNTERPARTS = {
    "itemknn": Counterpart("ItemKNN", lambda values: {"k": values["n_neighbors"], "shrink": values["shrink"]}),
    "ease": Counterpart("EASE", lambda values: {"reg_weight": values["reg_weight"]}, {"precision": "float32"}),
    "mf-bpr": Counterpart(
        "BPR",
        lambda values: {**_usual(values), "embedding_size": values["embedding_dim"]},
        {"reg_weight": 0.0, "init": "xavier"},
        without_cost=("reg",),
    ),
    "lightgcn": Counterpart("LightGCN", _lightgcn, {"reg": "norm", "init": "xavier"}),
    # Folding the steps of the chain into one product is a choice of ours that changes no score.
    "diffrec": Counterpart("DiffRec", _diffrec, {"dropout": 0.5}, without_cost=("fold_reverse_steps",)),
    "l-diffrec": Counterpart(
        "LDiffRec",
        _l_diffrec,
        # More clusters need items' embeddings from elsewhere there.
        {"n_clusters": 1, "encoder_dropout": 0.1, "dropout": 0.5},
        without_cost=("denoiser_learning_rate", "diffusion_decay_epochs"),
    ),
}


def locate(checkout: Path | None) -> str:
    """Check that RecBole is installed and return nothing more.

    Raises:
        UsageError: it is not, or a checkout was named.
    """
    if checkout is not None:
        raise UsageError(f"--checkout {checkout}: RecBole runs as it is installed. Leave --checkout out.")
    if importlib.util.find_spec("recbole") is None:
        raise UsageError("RecBole is not installed beside this program. Install it: pip install recbole")
    return ""


def _write(dataset: PreparedDataset, folder: Path, model: str) -> None:
    write(dataset, folder)


RECBOLE = Peer(
    "recbole",
    "RecBole",
    "bench.speed.peers.recbole_driver",
    COUNTERPARTS,
    locate=locate,
    write=_write,
    places=lambda dataset: None,
)
