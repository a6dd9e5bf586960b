"""Time DiffMM's own model, loaders, training and evaluation on files in its form, in a process of its own.

An epoch is its `trainEpoch`: it draws negatives, trains the denoisers, generates the graphs and trains the recommender.
An evaluation is its `testEpoch`. Where it is not installed, an empty module stands in for `setproctitle`, which DiffMM
imports for the name its process has.
"""

import importlib
import os
import sys
from importlib.util import find_spec
from types import ModuleType

import torch

from bench.speed.peers.diffmm import FOLDER
from bench.speed.peers.readings import Job, Readings, drive
from bench.speed.peers.stand_ins import put_back_old_names, stay_on_cpu
from bench.training import memory_gauge, stopwatch

SEED = 421
MIB = 2**20
CPU = torch.device("cpu")


def measure(job: Job) -> Readings:
    """Train and evaluate DiffMM.

    Args:
        job: `source` (the checkout), `data` (folder with its data), `parameters`, `epochs`.
    """
    torch.set_num_threads(1)
    put_back_old_names()
    stay_on_cpu()
    if find_spec("setproctitle") is None:
        sys.modules["setproctitle"] = ModuleType("setproctitle")
    # DiffMM looks for its data in the working folder, and reads its settings from the command line when imported.
    os.chdir(job["data"])
    sys.path.insert(0, job["source"])
    sys.argv[1:] = [f"--{name}={value}" for name, value in job["parameters"].items()]
    sys.argv += [f"--data={FOLDER.name}", f"--seed={SEED}"]
    code = importlib.import_module("Main")
    code.seed_it(SEED)
    epoch_s, valid_s = [], []
    with memory_gauge(CPU) as memory:
        handler = code.DataHandler()
        handler.LoadData()
        coach = code.Coach(handler)
        with stopwatch(CPU) as building:
            coach.prepareModel()
        for _ in range(job["epochs"]):
            with stopwatch(CPU) as training:
                coach.trainEpoch()
            with stopwatch(CPU) as validation:
                coach.testEpoch()
            epoch_s.append(training.seconds)
            valid_s.append(validation.seconds)
    return Readings(building.seconds, epoch_s, valid_s, memory.peak_host_bytes / MIB)


if __name__ == "__main__":
    drive(measure)
