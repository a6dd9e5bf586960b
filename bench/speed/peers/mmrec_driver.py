"""Time MMRec's own model, trainer, loaders and evaluation on files in its form, in a process of its own.

An epoch is what MMRec's own log reports as one: what the model does before it, the trainer's `_train_epoch` and the
step of the learning rate. An evaluation is the trainer's `_valid_epoch` on the validation split; MMRec does one on test
too in every epoch, which is not counted.

Where they are not installed, empty modules stand in for libraries that MMRec imports and does not use here (pictures in
LMDB), and one sum for `torch_scatter`, with which it builds graphs before the first epoch. What runs inside an epoch is
never replaced: MMGCN and DualGNN need `torch_geometric`.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench.speed.peers.mmrec_files import INTERACTIONS, NAME, USER_GRAPH
from bench.speed.peers.places import FILES
from bench.speed.peers.readings import Job, Readings, drive
from bench.speed.peers.stand_ins import put_back_old_names, stay_on_cpu
from bench.training import memory_gauge, stopwatch

SEED = 999
KS = [10, 20, 50]
MIB = 2**20
CPU = torch.device("cpu")
# The modules that MMRec reads pictures with, and what it takes from them by name.
PICTURE_MODULES: dict[str, tuple[str, ...]] = {
    "lmdb": (),
    "torchvision": (),
    "torchvision.transforms": (),
    "torchvision.transforms.functional": ("pad", "resize"),
}


def measure(job: Job) -> Readings:
    """Train and evaluate one of MMRec's models.

    Args:
        job: `source` (the checkout), `data` (MMRec's data folder), `model`, `parameters`, `epochs`.

    Raises:
        ValueError: the loss became NaN.
    """
    torch.set_num_threads(1)
    put_back_old_names()
    stay_on_cpu()
    _stand_in_for_scatter()
    source = Path(job["source"]) / "src"
    # MMRec looks for its settings in the working folder.
    os.chdir(source)
    sys.path.insert(0, str(source))
    tools = importlib.import_module("utils.utils")
    config = _config(job)
    with _without_pictures():
        dataset = importlib.import_module("utils.dataset").RecDataset(config)
    loaders = importlib.import_module("utils.dataloader")
    model_class, trainer_class = tools.get_model(config["model"]), tools.get_trainer()
    with memory_gauge(CPU) as memory:
        train, valid = _loaders(loaders, config, dataset)
        tools.init_seed(config["seed"])
        train.pretrain_setup()
        with stopwatch(CPU) as building:
            model = model_class(config, train).to(config["device"])
        _loosen(model)
        trainer = trainer_class(config, model)
        epoch_s, valid_s = _times(model, trainer, train, valid, job["epochs"])
    return Readings(building.seconds, epoch_s, valid_s, memory.peak_host_bytes / MIB)


def _config(job: Job) -> Any:
    given = {
        **job["parameters"],
        "data_path": f"{job['data']}{os.sep}",
        "inter_file_name": INTERACTIONS,
        "vision_feature_file": FILES["visual"],
        "text_feature_file": FILES["text"],
        "user_graph_dict_file": USER_GRAPH,
        "USER_ID_FIELD": "userID",
        "ITEM_ID_FIELD": "itemID",
        "field_separator": "\t",
        "use_gpu": False,
        "seed": SEED,
        "topk": KS,
    }
    config = importlib.import_module("utils.configurator").Config(job["model"], NAME, given)
    for name in config["hyper_parameters"]:
        # A list of values to try where none was given; MMRec would begin with the first.
        if name not in given and isinstance(config[name], list):
            config[name] = config[name][0]
    return config


def _loaders(loaders: Any, config: Any, dataset: Any) -> tuple[Any, Any]:
    splits = dataset.split()
    for split in splits:
        # The loaders read a count that is taken when a split is described.
        str(split)
    train = loaders.TrainDataLoader(config, splits[0], batch_size=config["train_batch_size"], shuffle=True)
    valid = loaders.EvalDataLoader(
        config, splits[1], additional_dataset=splits[0], batch_size=config["eval_batch_size"]
    )
    return train, valid


def _times(model: Any, trainer: Any, train: Any, valid: Any, epochs: int) -> tuple[list[float], list[float]]:
    epoch_s, valid_s = [], []
    for epoch in range(epochs):
        if trainer.req_training:
            with stopwatch(CPU) as training:
                model.pre_epoch_processing()
                loss, _ = trainer._train_epoch(train, epoch)
                trainer.lr_scheduler.step()
            if torch.is_tensor(loss):
                raise ValueError(f"the loss became NaN in epoch {epoch + 1}")
            model.post_epoch_processing()
            epoch_s.append(training.seconds)
        with stopwatch(CPU) as validation:
            trainer._valid_epoch(valid)
        valid_s.append(validation.seconds)
    return epoch_s, valid_s


def _loosen(model: Any) -> None:
    """Make plain tensors of DualGNN's outputs, as they are on a GPU: a CPU leaves them parameters, never replaced."""
    outputs = model._parameters.pop("result_embed", None)
    if outputs is not None:
        model.result_embed = outputs.detach()


@contextmanager
def _without_pictures() -> Iterator[None]:
    """Let the block import what is not installed of the picture modules; nothing else sees them."""
    absent = [name for name in PICTURE_MODULES if find_spec(name.partition(".")[0]) is None]
    for name in absent:
        module = sys.modules[name] = ModuleType(name)
        for member in PICTURE_MODULES[name]:
            setattr(module, member, None)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    yield
    for name in absent:
        del sys.modules[name]


def _stand_in_for_scatter() -> None:
    if find_spec("torch_geometric") is not None:
        # It would take the stand-in below for a library that makes it faster.
        importlib.import_module("torch_geometric")
    if find_spec("torch_scatter") is None:
        module = sys.modules["torch_scatter"] = ModuleType("torch_scatter")
        vars(module).update(scatter=None, scatter_add=_scatter_add)


def _scatter_add(values: Tensor, index: Tensor, dim: int, dim_size: int) -> Tensor:
    shape = list(values.shape)
    shape[dim] = dim_size
    return values.new_zeros(shape).index_add_(dim, index, values)


if __name__ == "__main__":
    drive(measure)
