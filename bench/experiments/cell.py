"""One cell from a built model to its record: train, restore the best epoch, test once, time, write."""

import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from torch import nn

from bench.data import PreparedDataset
from bench.errors import BenchError, TrainingError
from bench.evaluation import (
    EvaluationProtocol,
    beyond_accuracy,
    mean_metrics,
    per_user_metrics,
)
from bench.experiments.assembly import Splits, build_model, evaluators, protocols, scoring
from bench.experiments.cost import closed_form_seconds, epoch_cost, inference_cost, n_trainable, time_inference
from bench.experiments.plan import Cell
from bench.experiments.provenance import environment, git_state
from bench.experiments.store import FAILED, FINISHED, RunRecord, RunStore
from bench.training import (
    Epoch,
    FitResult,
    fit,
    keep_large_buffers,
    memory_gauge,
    save_checkpoint,
    stopwatch,
)


def run_cell(
    cell: Cell,
    dataset: PreparedDataset,
    store: RunStore,
    device: torch.device,
    *,
    timed: bool,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> RunRecord | None:
    """Run one cell and keep what came of it, a failure included.

    Args:
        cell: what to run.
        dataset: its prepared dataset.
        store: where the run's folder goes.
        device: where to train.
        timed: whether nothing else runs beside it, so that its times may be reported.
        on_epoch: called after every epoch.

    Returns:
        The record, `finished` or `failed` with its reason; None, with nothing touched, where another process took the
        cell since it was planned. Errors inside the cell do not escape; an interrupt does, and leaves the run marked
        as one that never came to its end.
    """
    keep_large_buffers()
    folder = store.folder(dataset.name, cell.configuration.label, cell.seed, cell.key)
    data = _identity(cell, dataset, device)
    if not store.start(folder, data, over_failed=cell.state == "failed"):
        return None
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


def _train_and_test(
    cell: Cell,
    dataset: PreparedDataset,
    device: torch.device,
    folder: Path,
    *,
    timed: bool,
    on_epoch: Callable[[Epoch], None],
) -> dict[str, Any]:
    evaluation, training = protocols(cell)
    splits = evaluators(dataset, evaluation, device)
    chosen_on = splits.test if evaluation.select_on == "test" else splits.valid
    start = time.perf_counter()
    with memory_gauge(device) as memory:
        with stopwatch(device) as building:
            model = build_model(cell, dataset, device)

        def validate() -> float:
            with scoring(model) as score:
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
    again = timed and result.stopped == "closed_form"
    build_s = closed_form_seconds(building.seconds, cell, dataset, device) if again else building.seconds
    cost = {
        "source": "run",
        **epoch_cost(epoch_seconds),
        "fit_s": build_s + sum(epoch_seconds),
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
            "n_parameters": n_trainable(model),
            "wall_s": wall,
        },
        "cost": cost if timed else None,
    }


def _test(
    model: nn.Module,
    splits: Splits,
    protocol: EvaluationProtocol,
    dataset: PreparedDataset,
    folder: Path,
) -> dict[str, dict[str, float]]:
    """Evaluate the restored model, once on each split, and write what the test gave per user."""
    longest = max(protocol.ks)
    with scoring(model) as score:
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


def record_death(
    cell: Cell, dataset: PreparedDataset, store: RunStore, device: torch.device, reason: str
) -> RunRecord | None:
    """Record as failed a cell whose process ended without a word, whether or not it had opened its run.

    Returns:
        The record; None where another process took the cell meanwhile.
    """
    folder = store.folder(dataset.name, cell.configuration.label, cell.seed, cell.key)
    data = _identity(cell, dataset, device)
    data.pop("process")
    if not store.start(folder, data, over_failed=cell.state == "failed"):
        return None
    data = {**data, "status": FAILED, "error": describe_failure(TrainingError(reason))}
    store.write(folder, data)
    return RunRecord(folder, data)
