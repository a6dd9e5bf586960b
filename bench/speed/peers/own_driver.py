"""Time one of our own models, trained and validated as `bench run` does it, in a process of its own."""

from dataclasses import replace
from pathlib import Path

import torch

from bench.data import PreparedDataset
from bench.evaluation import mean_metrics, per_user_metrics
from bench.experiments.assembly import build_model, evaluators, protocols, scoring
from bench.experiments.cost import closed_form_seconds
from bench.experiments.execute import thread_limit
from bench.experiments.plan import Cell, configure, protocol_of
from bench.speed.peers.readings import Job, Readings, drive
from bench.training import fit, keep_large_buffers, memory_gauge, stopwatch

CPU = torch.device("cpu")
SEED = 1
MIB = 2**20


def measure(job: Job) -> Readings:
    """Train and validate one of our models.

    Args:
        job: `dataset` (its prepared folder), `modalities` (name for the model -> name in the data set; None: all as
            they are), `model`, `settings` (`model.name=value` texts), `epochs`.
    """
    keep_large_buffers()
    dataset = PreparedDataset.load(Path(job["dataset"]))
    if job["modalities"] is not None:
        chosen = {slot: dataset.features[name] for slot, name in job["modalities"].items()}
        dataset = replace(dataset, features=chosen)
    (configuration,) = configure([job["model"]], job["settings"], dataset.name, use_presets=False)
    protocol = protocol_of("mmrec", max_epochs=job["epochs"], patience=job["epochs"])
    cell = Cell(dataset.name, configuration, SEED, protocol, "", "new")
    with thread_limit(1):
        return _measure(cell, dataset, job["epochs"])


def _measure(cell: Cell, dataset: PreparedDataset, epochs: int) -> Readings:
    evaluation, training = protocols(cell)
    with memory_gauge(CPU) as memory:
        splits = evaluators(dataset, evaluation, CPU)
        with stopwatch(CPU) as building:
            model = build_model(cell, dataset, CPU)

        def validate() -> float:
            with scoring(model) as score:
                values = mean_metrics(per_user_metrics(splits.valid.ranks(score), evaluation))
            return values[training.monitor]

        # A closed form is validated once by a fit, and as often as the peer's here.
        closed_form = model.batching == "none"
        rounds = [
            fit(model, dataset.matrix("train"), validate, training, seed=cell.seed, device=CPU)
            for _ in range(epochs if closed_form else 1)
        ]
    history = [epoch for result in rounds for epoch in result.history]
    return Readings(
        build_s=closed_form_seconds(building.seconds, cell, dataset, CPU) if closed_form else building.seconds,
        epoch_s=[epoch.train_s for epoch in history if epoch.epoch > 0],
        valid_s=[epoch.valid_s for epoch in history],
        peak_mib=memory.peak_host_bytes / MIB,
    )


if __name__ == "__main__":
    drive(measure)
