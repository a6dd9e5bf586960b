"""The process of one model in `bench speed scale`: build it, train, score, and say how much memory that took.

Run as `python -m bench.speed.scale_worker`, with what to do as JSON on its standard input; the answer is JSON on its
standard output. It has a process of its own so that its peak is that of this model alone.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import nn

from bench.data import PreparedDataset
from bench.evaluation import RankingEvaluator
from bench.experiments.assembly import build_model, evaluators, protocols, scoring
from bench.experiments.cell import describe_failure
from bench.experiments.execute import thread_limit
from bench.experiments.memory import estimate_bytes
from bench.experiments.plan import Cell, configure, protocol_of
from bench.speed.peak import peak_mib
from bench.training import (
    Batches,
    PairBatch,
    UserBatch,
    borrowed,
    generator,
    keep_large_buffers,
    make_batches,
    optimizers_of,
    train_epoch,
)

CPU = torch.device("cpu")
SEED = 1


class FirstBatches:
    """The first few batches of every epoch, with the times at which each was done.

    Args:
        batches: whole epochs.
        most: how many to let through.
    """

    def __init__(self, batches: Batches, most: int) -> None:
        self.batches, self.most = batches, most
        self.done_s: list[float] = []

    def __len__(self) -> int:
        """Return the number of batches let through."""
        return min(self.most, len(self.batches))

    def epoch(self) -> Iterator[PairBatch | UserBatch]:
        """Yield the first batches of the next epoch."""
        for batch in islice(self.batches.epoch(), self.most):
            yield batch
            self.done_s.append(time.perf_counter())


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Return what one model took: outcome, seconds, MiB.

    Args:
        task: `dataset` (folder), `model`, `settings` (texts), `batches` (the most of an epoch), `limit_mib`.
    """
    dataset = PreparedDataset.load(Path(task["dataset"]))
    (configuration,) = configure([task["model"]], task["settings"], dataset.name, use_presets=False)
    needed = estimate_bytes(configuration, dataset)
    found: dict[str, Any] = {"model": configuration.label}
    if needed is not None and needed / 2**20 > task["limit_mib"]:
        return found | {"outcome": "refused", "needed_mib": needed / 2**20}
    cell = Cell(dataset.name, configuration, SEED, protocol_of("mmrec", max_epochs=1, patience=1), "", "new")
    keep_large_buffers()
    try:
        found |= _train_and_score(cell, dataset, task["batches"])
    except Exception as error:
        # What broke is the answer, and the other models are still to be measured.
        failure = describe_failure(error)
        return found | {"outcome": "failed", "error": f"{failure['type']}: {failure['message']}"}
    return found | {"outcome": "measured", "peak_mib": peak_mib()}


def _train_and_score(cell: Cell, dataset: PreparedDataset, most: int) -> dict[str, Any]:
    evaluation, _ = protocols(cell)
    splits = evaluators(dataset, evaluation, CPU)
    started = time.perf_counter()
    model = build_model(cell, dataset, CPU)
    found: dict[str, Any] = {"build_s": time.perf_counter() - started}
    if model.batching != "none":
        with borrowed(SEED, "noise", CPU):
            found |= _train(model, dataset.matrix("train"), most)
    started = time.perf_counter()
    _score(model, splits.test, max(evaluation.ks))
    return found | {"score_s": time.perf_counter() - started, "scored_users": len(splits.test.users)}


def _train(model: nn.Module, interactions: csr_array, most: int) -> dict[str, Any]:
    whole = make_batches(
        model.batching,  # type: ignore[arg-type]
        interactions,
        int(model.batch_size),  # type: ignore[arg-type]
        generator(SEED, "shuffle", CPU),
        generator(SEED, "negatives", CPU),
    )
    batches = FirstBatches(whole, most)
    started = time.perf_counter()
    train_epoch(model, batches, optimizers_of(model), 1)
    # The fit loop keeps the best epoch's weights beside the model.
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    # What a model does once an epoch may be done in its first batch, which therefore stands for itself alone.
    first, last = batches.done_s[0], batches.done_s[-1]
    later_s = (last - first) / (len(batches) - 1) if len(batches) > 1 else first - started
    return {
        "batches": len(batches),
        "of_batches": len(whole),
        "epoch_s": first - started + later_s * (len(whole) - 1),
    }


def _score(model: nn.Module, evaluator: RankingEvaluator, k: int) -> None:
    with scoring(model) as score:
        evaluator.top_k(score, k)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    with thread_limit(asked["threads"]):
        sys.stdout.write(json.dumps(measure(asked)))
