"""What a cell costs: seconds an epoch, seconds to fit a closed form, seconds to serve all test users."""

import statistics
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import nn

from bench.data import PreparedDataset
from bench.evaluation import EvaluationProtocol, RankingEvaluator
from bench.experiments.assembly import build_model, evaluators, protocols, scoring
from bench.experiments.plan import Cell
from bench.training import fit, keep_large_buffers, memory_gauge, stopwatch

WARM_UP_EPOCHS = 1
INFERENCE_REPEATS = 3
BUILD_REPEATS = 3
LONG_BUILD_S = 2.0


def time_inference(
    model: nn.Module, evaluator: RankingEvaluator, protocol: EvaluationProtocol, device: torch.device
) -> list[float]:
    """Return the seconds of several full passes: prepare, score, mask and rank the top items of all test users.

    One pass goes before them, unmeasured, so that caches and kernels are warm.
    """
    seconds = []
    for repeat in range(1 + INFERENCE_REPEATS):
        with stopwatch(device) as watch, scoring(model) as score:
            evaluator.top_k(score, max(protocol.ks))
        if repeat > 0:
            seconds.append(watch.seconds)
    return seconds


def closed_form_seconds(first_s: float, cell: Cell, dataset: PreparedDataset, device: torch.device) -> float:
    """Return the median time of building a closed form, the first time left out as a warm-up where it was short."""
    if first_s > LONG_BUILD_S:
        return first_s
    seconds = []
    for _ in range(BUILD_REPEATS):
        with stopwatch(device) as watch:
            build_model(cell, dataset, device)
        seconds.append(watch.seconds)
    return statistics.median(seconds)


def epoch_cost(epoch_seconds: list[float]) -> dict[str, Any]:
    """Return median and quartiles of the training epochs after the warm-up; None for a closed form."""
    timed = epoch_seconds[WARM_UP_EPOCHS:] or epoch_seconds
    if not timed:
        return {"epoch_s": None, "epoch_s_iqr": None, "n_epochs_timed": 0}
    series = pd.Series(timed)
    quartiles = [float(series.quantile(0.25)), float(series.quantile(0.75))]
    return {"epoch_s": float(series.median()), "epoch_s_iqr": quartiles, "n_epochs_timed": len(timed)}


def inference_cost(seconds: list[float], evaluator: RankingEvaluator) -> dict[str, Any]:
    """Return the median time of a pass over all test users, and how many those are."""
    median = statistics.median(seconds) if seconds else None
    return {"inference_s": median, "inference_users": len(evaluator.users)}


def n_trainable(model: nn.Module) -> int:
    """Return how many numbers training can change."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def time_cell(cell: Cell, dataset: PreparedDataset, device: torch.device, *, max_epochs: int = 6) -> dict[str, Any]:
    """Measure a cell's cost alone, after cells that ran side by side: a few epochs, inference, peak memory.

    Nothing learned here is kept and the test split's outcome is not looked at.
    """
    keep_large_buffers()
    evaluation, training = protocols(cell)
    training = replace(training, max_epochs=max_epochs)
    splits = evaluators(dataset, evaluation, device)
    with memory_gauge(device) as memory:
        with stopwatch(device) as building:
            model = build_model(cell, dataset, device)
        result = fit(model, dataset.matrix("train"), lambda: 0.0, training, seed=cell.seed, device=device)
        inference = time_inference(model, splits.test, evaluation, device)
    epoch_seconds = [epoch.train_s for epoch in result.history if epoch.epoch > 0]
    closed_form = result.stopped == "closed_form"
    fit_s = closed_form_seconds(building.seconds, cell, dataset, device) if closed_form else None
    return {
        "source": "timing pass",
        **epoch_cost(epoch_seconds),
        "fit_s": fit_s,
        **inference_cost(inference, splits.test),
        "peak_host_bytes": memory.peak_host_bytes,
        "peak_device_bytes": memory.peak_device_bytes,
        "memory_method": memory.method,
        "n_parameters": n_trainable(model),
    }
