"""Time and memory of training and serving each model on a prepared dataset, one after the other with nothing beside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bench.data import PreparedDataset
from bench.experiments.cell import describe_failure
from bench.experiments.cost import time_cell
from bench.experiments.execute import thread_limit
from bench.experiments.plan import Cell, Configuration, configure, protocol_of

MIB = 2**20


@dataclass(frozen=True)
class ModelCost:
    """What one model costs on one dataset.

    Attributes:
        model: its label.
        epoch_s: median seconds of a training epoch after the first; None for a closed form.
        fit_s: seconds to build a closed form; None for a model that trains.
        inference_s: median seconds to rank the top items of all test users.
        peak_mib: growth of the process's memory at its peak, on the host.
        peak_device_mib: most memory on a CUDA device; None on the CPU.
        n_parameters: trainable numbers.
        error: why there are no numbers.
    """

    model: str
    epoch_s: float | None = None
    fit_s: float | None = None
    inference_s: float | None = None
    peak_mib: float | None = None
    peak_device_mib: float | None = None
    n_parameters: int | None = None
    error: str | None = None


def measure_models(
    dataset: PreparedDataset,
    models: Sequence[str],
    settings: Sequence[str],
    *,
    epochs: int,
    threads: int,
    device: torch.device,
    use_presets: bool,
    report: Callable[[str], None],
) -> list[ModelCost]:
    """Measure each model: a few epochs, inference, peak memory. Nothing learned is kept or looked at.

    Args:
        dataset: to train on.
        models: names as the user gave them.
        settings: `model.name=value` texts.
        epochs: to train; the first is a warm-up where there are more.
        threads: CPU threads.
        device: where to train.
        use_presets: whether presets tuned for the dataset apply.
        report: called with a line for every model.

    Raises:
        UsageError: an unknown model or a wrong setting.
    """
    configurations = configure(models, settings, dataset.name, use_presets=use_presets)
    protocol = protocol_of("mmrec", max_epochs=epochs, patience=epochs)
    costs = []
    with thread_limit(threads):
        for configuration in configurations:
            cost = _measure(configuration, dataset, protocol, epochs, device)
            costs.append(cost)
            report(f"{cost.model}: {cost.error or _words(cost)}")
    return costs


def _measure(
    configuration: Configuration,
    dataset: PreparedDataset,
    protocol: dict[str, object],
    epochs: int,
    device: torch.device,
) -> ModelCost:
    cell = Cell(dataset.name, configuration, 1, protocol, "", "new")
    try:
        cost = time_cell(cell, dataset, device, max_epochs=epochs)
    except Exception as error:
        # One model that cannot be measured is a line of the table, and the others are still measured.
        failure = describe_failure(error)
        return ModelCost(configuration.label, error=f"{failure['type']}: {failure['message']}")
    device_bytes = cost["peak_device_bytes"]
    return ModelCost(
        configuration.label,
        cost["epoch_s"],
        cost["fit_s"],
        cost["inference_s"],
        cost["peak_host_bytes"] / MIB,
        None if device_bytes is None else device_bytes / MIB,
        cost["n_parameters"],
    )


def _words(cost: ModelCost) -> str:
    training = f"{cost.epoch_s:.3f} s/epoch" if cost.epoch_s is not None else f"{cost.fit_s or 0:.3f} s to fit"
    return f"{training}, inference {cost.inference_s:.3f} s, {cost.peak_mib:,.0f} MiB"
