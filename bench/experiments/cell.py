"""One cell from a built model to its record: train, restore the best epoch, test once, time, write."""

import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from torch import Tensor, nn

from bench.data import PreparedDataset
from bench.errors import BenchError, TrainingError
from bench.evaluation import (
    EvaluationProtocol,
    RankingEvaluator,
    beyond_accuracy,
    mean_metrics,
    per_user_metrics,
)
from bench.experiments.plan import Cell
from bench.experiments.provenance import environment, git_state
from bench.experiments.store import FAILED, FINISHED, RunRecord, RunStore
from bench.models import load_class
from bench.training import (
    Epoch,
    FitResult,
    TrainingProtocol,
    begin_scoring,
    borrowed,
    fit,
    keep_large_buffers,
    memory_gauge,
    save_checkpoint,
    stopwatch,
)

WARM_UP_EPOCHS = 1
INFERENCE_REPEATS = 3


def run_cell(
    cell: Cell,
    dataset: PreparedDataset,
    store: RunStore,
    device: torch.device,
    *,
    timed: bool,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> RunRecord:
    """Run one cell and keep what came of it, a failure included.

    Args:
        cell: what to run.
        dataset: its prepared dataset.
        store: where the run's folder goes.
        device: where to train.
        timed: whether nothing else runs beside it, so that its times may be reported.
        on_epoch: called after every epoch.

    Returns:
        The record, `finished` or `failed` with its reason. Errors inside the cell do not escape; an interrupt does,
        and leaves the run marked as one that never came to its end.
    """
    keep_large_buffers()
    folder = store.folder(dataset.name, cell.configuration.label, cell.seed, cell.key)
    data = _identity(cell, dataset, device)
    store.start(folder, data)
    try:
        outcome = _train_and_test(cell, dataset, device, folder, timed=timed, on_epoch=on_epoch)
        data = {**data, "status": FINISHED, "error": None, **outcome}
    except Exception as error:
        data = {**data, "status": FAILED, "error": describe_failure(error)}
    data.pop("process")
    store.write(folder, data)
    return RunRecord(folder, data)


def _identity(cell: Cell, dataset: PreparedDataset, device: torch.device) -> dict[str, Any]:
    configuration = cell.configuration
    process = psutil.Process()
    metadata = dataset.metadata
    return {
        "key": cell.key,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "process": {"pid": process.pid, "started": process.create_time()},
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "n_users": dataset.n_users,
            "n_items": dataset.n_items,
            "n_interactions": {part: int(dataset.matrix(part).nnz) for part in ("train", "valid", "test")},
            "split": metadata.get("split"),
            "steps": metadata.get("steps"),
            "modalities": {name: int(matrix.shape[1]) for name, matrix in dataset.features.items()},
        },
        "model": {
            "name": configuration.spec.name,
            "label": configuration.label,
            "family": configuration.spec.family,
            "reference": configuration.spec.reference,
            "code": configuration.code,
        },
        "hyperparameters": configuration.hyperparameters,
        "overrides": configuration.overrides,
        "preset": configuration.preset,
        "seed": cell.seed,
        "protocol": cell.protocol,
        "environment": environment(str(device), torch.get_num_threads()),
        "git": git_state(),
        "metrics": {},
        "training": None,
        "cost": None,
    }


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Return why a cell failed as plain values: type, message, and where in training, if there."""
    kind = type(error).__name__
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error)
    described: dict[str, Any] = {
        "type": "OOM" if out_of_memory else kind,
        "message": str(error) or kind,
        "epoch": getattr(error, "epoch", None),
        "step": getattr(error, "step", None),
    }
    if not isinstance(error, BenchError) and not out_of_memory:
        described["traceback"] = "".join(traceback.format_exception(error))
    return described


@dataclass(frozen=True)
class _Splits:
    """A dataset's evaluators on the training device."""

    valid: RankingEvaluator
    test: RankingEvaluator


@contextmanager
def _scoring(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Put the model into scoring and lend its `score`: no gradients, no dropout, hooks called once."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        begin_scoring(model)
        yield model.score  # type: ignore[misc]
    model.train(was_training)


def build_model(cell: Cell, dataset: PreparedDataset, device: torch.device) -> nn.Module:
    """Construct the cell's model on the host, from its own stream of randomness, and move it to `device`.

    Weights are drawn on the host on purpose: the same seed starts from the same weights on every device.
    """
    cls = load_class(cell.configuration.spec)
    features = {name: torch.from_numpy(matrix[:].copy()) for name, matrix in dataset.features.items()}
    with borrowed(cell.seed, "init", torch.device("cpu")):
        model: nn.Module = cls(dataset.matrix("train"), features, **cell.configuration.hyperparameters)
    return model.to(device)


def _evaluators(dataset: PreparedDataset, protocol: EvaluationProtocol, device: torch.device) -> _Splits:
    train, valid, test = (dataset.matrix(part) for part in ("train", "valid", "test"))
    exclude = valid if protocol.masks_validation else None
    return _Splits(
        valid=RankingEvaluator(train, valid, exclude=None, protocol=protocol, device=device),
        test=RankingEvaluator(train, test, exclude=exclude, protocol=protocol, device=device),
    )


def _protocols(cell: Cell) -> tuple[EvaluationProtocol, TrainingProtocol]:
    evaluation = dict(cell.protocol["evaluation"])
    evaluation["ks"] = tuple(evaluation["ks"])
    return EvaluationProtocol(**evaluation), TrainingProtocol(**cell.protocol["training"])


def _train_and_test(
    cell: Cell,
    dataset: PreparedDataset,
    device: torch.device,
    folder: Path,
    *,
    timed: bool,
    on_epoch: Callable[[Epoch], None],
) -> dict[str, Any]:
    evaluation, training = _protocols(cell)
    splits = _evaluators(dataset, evaluation, device)
    chosen_on = splits.test if evaluation.select_on == "test" else splits.valid
    start = time.perf_counter()
    with memory_gauge(device) as memory:
        with stopwatch(device) as building:
            model = build_model(cell, dataset, device)

        def validate() -> float:
            with _scoring(model) as score:
                values = mean_metrics(per_user_metrics(chosen_on.ranks(score), evaluation))
            return evaluation.selection_value(values[training.monitor])

        result = fit(
            model,
            dataset.matrix("train"),
            validate,
            training,
            seed=cell.seed,
            device=device,
            on_epoch=on_epoch,
        )
        wall = time.perf_counter() - start
        inference = time_inference(model, splits.test, evaluation, device) if timed else []
    metrics = _test(model, splits, evaluation, dataset, folder)
    _write_history(result, folder)
    if model.state_dict():
        save_checkpoint(model, folder / "model.safetensors")
    epoch_seconds = [epoch.train_s for epoch in result.history if epoch.epoch > 0]
    cost = {
        "source": "run",
        **epoch_cost(epoch_seconds),
        "fit_s": building.seconds + sum(epoch_seconds),
        **inference_cost(inference, splits.test),
        "peak_host_bytes": memory.peak_host_bytes,
        "peak_device_bytes": memory.peak_device_bytes,
        "memory_method": memory.method,
    }
    return {
        "metrics": metrics,
        "training": {
            "epochs": len(epoch_seconds),
            "best_epoch": result.best_epoch,
            "best_value": result.best_value,
            "stopped": result.stopped,
            "n_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "wall_s": wall,
        },
        "cost": cost if timed else None,
    }


def _test(
    model: nn.Module,
    splits: _Splits,
    protocol: EvaluationProtocol,
    dataset: PreparedDataset,
    folder: Path,
) -> dict[str, dict[str, float]]:
    """Evaluate the restored model, once on each split, and write what the test gave per user."""
    longest = max(protocol.ks)
    with _scoring(model) as score:
        valid = mean_metrics(per_user_metrics(splits.valid.ranks(score), protocol))
        users = per_user_metrics(splits.test.ranks(score), protocol)
        lists = splits.test.top_k(score, longest).cpu().numpy()
    test = mean_metrics(users) | beyond_accuracy(lists, dataset.matrix("train"), protocol.ks)
    users.reset_index().to_parquet(folder / "users.parquet", index=False)
    ranked = pd.DataFrame(
        {
            "user": users.index.to_numpy().repeat(longest).astype("int32"),
            "rank": pd.Series(range(1, longest + 1), dtype="int16").tolist() * len(users),
            "item": lists.reshape(-1).astype("int32"),
        }
    )
    ranked[ranked["item"] >= 0].to_parquet(folder / "topk.parquet", index=False)
    return {"valid": valid, "test": test}


def _write_history(result: FitResult, folder: Path) -> None:
    rows = [vars(epoch) for epoch in result.history]
    pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)


def time_inference(
    model: nn.Module, evaluator: RankingEvaluator, protocol: EvaluationProtocol, device: torch.device
) -> list[float]:
    """Return the seconds of several full passes: prepare, score, mask and rank the top items of all test users.

    One pass goes before them, unmeasured, so that caches and kernels are warm.
    """
    seconds = []
    for repeat in range(1 + INFERENCE_REPEATS):
        with stopwatch(device) as watch, _scoring(model) as score:
            evaluator.top_k(score, max(protocol.ks))
        if repeat > 0:
            seconds.append(watch.seconds)
    return seconds


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


def time_cell(cell: Cell, dataset: PreparedDataset, device: torch.device, *, max_epochs: int = 6) -> dict[str, Any]:
    """Measure a cell's cost alone, after cells that ran side by side: a few epochs, inference, peak memory.

    Nothing learned here is kept and the test split's outcome is not looked at.
    """
    keep_large_buffers()
    evaluation, training = _protocols(cell)
    training = replace(training, max_epochs=max_epochs)
    splits = _evaluators(dataset, evaluation, device)
    with memory_gauge(device) as memory:
        with stopwatch(device) as building:
            model = build_model(cell, dataset, device)
        result = fit(model, dataset.matrix("train"), lambda: 0.0, training, seed=cell.seed, device=device)
        inference = time_inference(model, splits.test, evaluation, device)
    epoch_seconds = [epoch.train_s for epoch in result.history if epoch.epoch > 0]
    return {
        "source": "timing pass",
        **epoch_cost(epoch_seconds),
        "fit_s": building.seconds if result.stopped == "closed_form" else None,
        **inference_cost(inference, splits.test),
        "peak_host_bytes": memory.peak_host_bytes,
        "peak_device_bytes": memory.peak_device_bytes,
        "memory_method": memory.method,
    }


def died_unseen(store: RunStore, record: RunRecord, reason: str) -> RunRecord:
    """Record as failed a run whose process ended without a word."""
    data: Mapping[str, Any] = {
        **{name: value for name, value in record.data.items() if name != "process"},
        "status": FAILED,
        "error": describe_failure(TrainingError(reason)),
    }
    store.write(record.folder, data)
    return RunRecord(record.folder, dict(data))
