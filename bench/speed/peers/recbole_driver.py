"""Time RecBole's own model, trainer, loaders and evaluation on files in its form, in a process of its own.

An epoch is the trainer's `_train_epoch`, an evaluation its `_valid_epoch` on the validation split. A model that RecBole
calls traditional is complete once constructed; the pass over the data that its trainer makes all the same is not
counted. `recbole.quick_start` is not imported: it needs `ray`.
"""

import importlib
import os
from pathlib import Path
from typing import Any

import torch

from bench.speed.peers.readings import Job, Readings, drive
from bench.speed.peers.recbole_files import ITEM, NAME, SPLITS, USER
from bench.speed.peers.stand_ins import put_back_old_names
from bench.training import memory_gauge, stopwatch

KS = [10, 20, 50]
METRICS = ["Recall", "NDCG", "Precision", "MAP", "MRR", "Hit"]
# RecBole's default, 4096 scores, would be one user at a time on any data set of more than 2048 items.
EVALUATED_USERS = 1024
MIB = 2**20
CPU = torch.device("cpu")


def measure(job: Job) -> Readings:
    """Train and evaluate one of RecBole's models.

    Args:
        job: `data` (RecBole's data folder), `n_items`, `model`, `parameters`, `epochs`.
    """
    torch.set_num_threads(1)
    put_back_old_names()
    # Its logs and summaries go into the working folder.
    os.chdir(job["data"])
    data, utils = importlib.import_module("recbole.data"), importlib.import_module("recbole.utils")
    config = importlib.import_module("recbole.config").Config(
        model=job["model"], dataset=NAME, config_dict=_settings(job)
    )
    dataset = data.create_dataset(config)
    model_class = utils.get_model(config["model"])
    trainer_class = utils.get_trainer(config["MODEL_TYPE"], config["model"])
    utils.init_seed(config["seed"], config["reproducibility"])
    with memory_gauge(CPU) as memory:
        train, valid, _ = data.data_preparation(config, dataset)
        with stopwatch(CPU) as building:
            model = model_class(config, train.dataset).to(config["device"])
        trainer = trainer_class(config, model)
        trainer.eval_collector.data_collect(train)
        closed_form = config["MODEL_TYPE"] == utils.ModelType.TRADITIONAL
        epoch_s, valid_s = _times(trainer, None if closed_form else train, valid, job["epochs"])
    return Readings(building.seconds, epoch_s, valid_s, memory.peak_host_bytes / MIB)


def _settings(job: Job) -> dict[str, Any]:
    return {
        **job["parameters"],
        "data_path": job["data"],
        "checkpoint_dir": str(Path(job["data"]) / "saved"),
        "benchmark_filename": list(SPLITS),
        "USER_ID_FIELD": USER,
        "ITEM_ID_FIELD": ITEM,
        "load_col": {"inter": [USER, ITEM]},
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
        "eval_batch_size": EVALUATED_USERS * job["n_items"],
        "metrics": METRICS,
        "topk": KS,
        "valid_metric": "Recall@20",
        "use_gpu": False,
        "state": "ERROR",
        "show_progress": False,
    }


def _times(trainer: Any, train: Any, valid: Any, epochs: int) -> tuple[list[float], list[float]]:
    epoch_s, valid_s = [], []
    for epoch in range(epochs):
        if train is not None:
            with stopwatch(CPU) as training:
                trainer._train_epoch(train, epoch)
            epoch_s.append(training.seconds)
        with stopwatch(CPU) as validation:
            trainer._valid_epoch(valid)
        valid_s.append(validation.seconds)
    return epoch_s, valid_s


if __name__ == "__main__":
    drive(measure)
