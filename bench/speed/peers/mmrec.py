"""MMRec (Zhou, "MMRec: Simplifying Multimodal Recommendation", MM Asia 2023 Workshops), from a checkout of the user's.

Its repository is enoche/MMRec on GitHub, under the GPL: it is driven, never copied.
"""

from pathlib import Path
from typing import Any

from bench.data import PreparedDataset
from bench.speed.peers.mmrec_files import write
from bench.speed.peers.peer import Counterpart, Hyperparameters, Peer, locate_checkout
from bench.speed.peers.places import places

PARTS = tuple(
    f"src/{part}.py" for part in ("common/trainer", "utils/configurator", "utils/dataset", "utils/dataloader")
)


def _usual(values: Hyperparameters) -> dict[str, Any]:
    return {
        "embedding_size": values["embedding_dim"],
        "feat_embed_dim": values["embedding_dim"],
        "learning_rate": values["learning_rate"],
        "train_batch_size": values["batch_size"],
        "weight_decay": values.get("weight_decay", 0.0),
    }


def _regularized(values: Hyperparameters) -> dict[str, Any]:
    return {**_usual(values), "reg_weight": values["reg_weight"]}


def _bm3(values: Hyperparameters) -> dict[str, Any]:
    names = ("n_layers", "dropout", "cl_weight")
    return {**_regularized(values), **{name: values[name] for name in names}}


def _freedom(values: Hyperparameters) -> dict[str, Any]:
    return {
        **_regularized(values),
        "n_ui_layers": values["n_layers"],
        "n_mm_layers": values["n_item_layers"],
        "knn_k": values["n_neighbors"],
        "dropout": values["dropout"],
    }


def _mgcn(values: Hyperparameters) -> dict[str, Any]:
    return {
        **_regularized(values),
        "n_ui_layers": values["n_layers"],
        "n_layers": values["n_item_layers"],
        "knn_k": values["n_neighbors"],
        "cl_loss": values["contrast_weight"],
        "learning_rate_scheduler": [values["learning_rate_decay"], 50],
    }


def _lattice(values: Hyperparameters) -> dict[str, Any]:
    return {
        **_regularized(values),
        "feat_embed_dim": values["hidden_dim"],
        "weight_size": [values["embedding_dim"]] * values["n_layers"],
        "n_layers": values["n_item_layers"],
        "knn_k": values["n_neighbors"],
        "lambda_coeff": values["raw_graph_share"],
        "cf_model": values["backbone"],
        "learning_rate_scheduler": [values["learning_rate_decay"], 50],
    }


def _slmrec(values: Hyperparameters) -> dict[str, Any]:
    return {
        **_usual(values),
        "recdim": values["embedding_dim"],
        "layer_num": values["n_layers"],
        "mm_fusion_mode": values["fusion"],
        "temp": values["temperature"],
        "ssl_alpha": values["ssl_weight"],
        "ssl_temp": values["ssl_temperature"],
    }


COUNTERPARTS = {
    "mf-bpr": Counterpart("BPR", _regularized, {"reg": "norm", "init": "xavier"}),
    "lightgcn": Counterpart(
        "LightGCN",
        lambda values: {**_regularized(values), "n_layers": values["n_layers"]},
        {"reg": "norm", "init": "xavier"},
    ),
    "itemknn-cbf": Counterpart(
        "ItemKNNCBF", lambda values: {"knn_k": values["n_neighbors"], "shrink": 0.0}, {"fusion": "concat"}
    ),
    "vbpr": Counterpart("VBPR", _regularized, {"reg": "norm", "biases": False}),
    "bm3": Counterpart("BM3", _bm3, {"reg": "norm", "finetune_features": True}),
    "freedom": Counterpart("FREEDOM", _freedom, {"finetune_features": True, "modality_weights": ()}),
    "lattice": Counterpart("LATTICE", _lattice, {"finetune_features": True}, without_cost=("keep_momentum",)),
    "mgcn": Counterpart("MGCN", _mgcn, {"finetune_features": True, "temperature": 0.2, "unique_contrast": False}),
    "slmrec": Counterpart("SLMRec", _slmrec, {"extra_map": True, "modality_order": (), "score_by": "sigmoid"}),
    "mmgcn": Counterpart(
        "MMGCN",
        _regularized,
        {
            "n_layers": 3,
            "combine": "concat",
            "trainable_id": False,
            "compressed": ("visual",),
            "compressed_dim": 256,
        },
    ),
    "dualgnn": Counterpart(
        "DualGNN",
        lambda values: {**_regularized(values), "aggr_mode": "add"},
        {
            "embedding_dim": 64,
            "hidden_dim": 256,
            "n_layers": 2,
            "n_neighbors": 40,
            "padding": "random",
            "overwritten": "visual",
        },
    ),
}


def locate(checkout: Path | None) -> str:
    """Return the full path of a checkout of MMRec; raises UsageError where there is none."""
    return locate_checkout("MMRec", "https://github.com/enoche/MMRec", PARTS, checkout)


def _write(dataset: PreparedDataset, folder: Path, model: str) -> None:
    write(dataset, folder, user_graph=model == "DualGNN")


MMREC = Peer(
    "mmrec",
    "MMRec",
    "bench.speed.peers.mmrec_driver",
    COUNTERPARTS,
    locate=locate,
    write=_write,
    places=places,
)
