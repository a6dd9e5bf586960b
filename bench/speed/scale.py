"""Whether every model fits into memory on large data: a synthetic dataset of any size, each model in its own process.

The data have the shape of real ones where it matters to memory and time: users with few interactions, items whose
counts fall off by a power law, dense features. What is learned from them means nothing and is not looked at.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import psutil

from bench.data import PreparedDataset
from bench.data.prepared import write_prepared
from bench.errors import BenchError, UsageError

# Enough for one in validation, one in test and three in train.
FEWEST_OF_USER = 5
POLL_S = 0.05


@dataclass(frozen=True)
class Scale:
    """How large the synthetic dataset is.

    Attributes:
        n_users: users.
        n_items: items.
        n_interactions: of train; validation and test come on top, one each of every `tested`.
        n_modalities: feature matrices.
        width: columns of each.
        tested: users with an item in validation and one in test.
        seed: of the data.
    """

    n_users: int = 200_000
    n_items: int = 60_000
    n_interactions: int = 2_000_000
    n_modalities: int = 2
    width: int = 512
    tested: int = 5_000
    seed: int = 0


@dataclass(frozen=True)
class ScaleCost:
    """What one model took at that scale.

    Attributes:
        model: its label.
        outcome: "measured"; "refused" before anything was built, by its own estimate; "over" the limit; "failed".
        peak_mib: most memory of its whole process; for one that went over, what it had reached.
        needed_mib: what a refused model would need.
        build_s: seconds to construct it, which is all a closed form does.
        epoch_s: seconds of a training epoch, worked out from the batches that were run.
        batches: training batches run.
        of_batches: training batches of an epoch.
        score_s: seconds to rank the top items of the tested users.
        scored_users: how many these are.
        error: why it failed.
    """

    model: str
    outcome: Literal["measured", "refused", "over", "failed"]
    peak_mib: float | None = None
    needed_mib: float | None = None
    build_s: float | None = None
    epoch_s: float | None = None
    batches: int | None = None
    of_batches: int | None = None
    score_s: float | None = None
    scored_users: int | None = None
    error: str | None = None


def write_scaled(folder: Path, scale: Scale) -> PreparedDataset:
    """Generate a prepared dataset of this scale.

    Every user has at least three training interactions and every item at least one interaction.

    Raises:
        UsageError: the numbers contradict each other.
    """
    _check(scale)
    rng = np.random.default_rng(scale.seed)
    keys = _pairs(rng, scale)
    users, items = keys // scale.n_items, keys % scale.n_items
    split = np.full(len(keys), "train", dtype=object)
    # The pairs are sorted by user: the last two of a tested user are its validation and test items.
    last = np.flatnonzero(np.diff(users, append=-1))[rng.permutation(scale.n_users)[: scale.tested]]
    split[last], split[last - 1] = "test", "valid"
    features = {
        f"modality{number}": rng.standard_normal((scale.n_items, scale.width), dtype=np.float32)
        for number in range(1, scale.n_modalities + 1)
    }
    return write_prepared(
        folder,
        name=folder.name,
        interactions=pd.DataFrame({"user": users, "item": items, "split": split}),
        users=pd.DataFrame({"id": np.arange(scale.n_users).astype(str)}),
        items=pd.DataFrame({"id": np.arange(scale.n_items).astype(str)}),
        features=features,
        metadata={"recipe": {"hash": "generated"}, "source": {"name": "generated", "scale": vars(scale)}},
    )


def _check(scale: Scale) -> None:
    fewest = scale.n_users * FEWEST_OF_USER + scale.n_items - 2 * scale.tested
    most = scale.n_users * scale.n_items // 2 - 2 * scale.tested
    if scale.tested > scale.n_users or not fewest <= scale.n_interactions <= most:
        raise UsageError(
            f"{scale.n_users:,} users and {scale.n_items:,} items with {scale.tested:,} users tested can have from "
            f"{fewest:,} to {most:,} training interactions here, not {scale.n_interactions:,}. Change --users, "
            "--items, --interactions or --tested."
        )


def _pairs(rng: np.random.Generator, scale: Scale) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return distinct user x n_items + item, sorted: the wanted number, counts of items falling off by a power law."""
    wanted = scale.n_interactions + 2 * scale.tested
    rounds = -(-scale.n_items // scale.n_users)
    every_item = rng.permutation(scale.n_items)
    taking = rng.permutation(np.tile(np.arange(scale.n_users), rounds))[: scale.n_items]
    keys = taking.astype(np.int64) * scale.n_items + every_item
    own = np.repeat(np.arange(scale.n_users, dtype=np.int64), FEWEST_OF_USER)
    # Successive items from a start of their own are distinct within a user.
    starts = rng.integers(scale.n_items, size=scale.n_users).repeat(FEWEST_OF_USER)
    offsets = np.tile(np.arange(FEWEST_OF_USER), scale.n_users)
    keys = np.unique(np.concatenate((keys, own * scale.n_items + (starts + offsets) % scale.n_items)))
    rank = rng.permutation(scale.n_items)
    while len(keys) < wanted:
        n = int((wanted - len(keys)) * 1.2) + 100
        drawn = rank[(scale.n_items * rng.random(n) ** 2.5).astype(np.int64)]
        more = np.setdiff1d(rng.integers(scale.n_users, size=n) * scale.n_items + drawn, keys)
        keys = np.concatenate((keys, rng.permutation(more)[: wanted - len(keys)]))
    keys.sort()
    return keys


def measure_at_scale(
    dataset: PreparedDataset,
    models: Sequence[str],
    settings: Sequence[str],
    *,
    batches: int,
    limit_mib: float,
    threads: int,
    report: Callable[[str], None],
) -> list[ScaleCost]:
    """Measure each model in a process of its own, which is stopped if it goes over the limit.

    Args:
        dataset: to train on.
        models: names as the user gave them.
        settings: `model.name=value` texts.
        batches: the most training batches of each model's epoch.
        limit_mib: what a model may take.
        threads: CPU threads.
        report: called with a line for every model.

    Raises:
        UsageError: an unknown model or a wrong setting.
    """
    from bench.experiments.plan import configure
    from bench.models import find_model, parse_setting

    configure(models, settings, dataset.name, use_presets=False)
    costs = []
    for model in models:
        name = find_model(model).name
        own = [text for text in settings if find_model(parse_setting(text)[0]).name == name]
        task = {
            "dataset": str(dataset.folder),
            "model": model,
            "settings": own,
            "batches": batches,
            "limit_mib": limit_mib,
            "threads": threads,
        }
        cost = _run(name, task, limit_mib)
        costs.append(cost)
        report(f"{cost.model}: {outcome_words(cost, limit_mib)}")
    return costs


def _run(name: str, task: dict[str, Any], limit_mib: float) -> ScaleCost:
    worker = subprocess.Popen(
        [sys.executable, "-m", "bench.speed.scale_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(task))
    worker.stdin.close()
    watched, reached = psutil.Process(worker.pid), 0.0
    try:
        while worker.poll() is None:
            reached = max(reached, _resident_mib(watched))
            if reached > limit_mib:
                worker.kill()
                worker.wait()
                return ScaleCost(name, "over", peak_mib=reached)
            time.sleep(POLL_S)
        answer = worker.stdout.read()
    finally:
        worker.kill()
        worker.stdout.close()
    if worker.returncode:
        raise BenchError(f"The process that measured {name} ended with {worker.returncode}; see the lines above.")
    cost = ScaleCost(**json.loads(answer))
    over = cost.peak_mib is not None and cost.peak_mib > limit_mib
    return ScaleCost(**(vars(cost) | {"outcome": "over"})) if over else cost


def _resident_mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss / 2**20)
    except psutil.NoSuchProcess:
        return 0.0


def outcome_words(cost: ScaleCost, limit_mib: float) -> str:
    """Return how a model fared, in a few words."""
    if cost.outcome == "failed":
        return f"FAILED, {cost.error}"
    if cost.outcome == "refused":
        return f"refused before it began: needs about {(cost.needed_mib or 0) / 1024:,.1f} GiB"
    if cost.outcome == "over":
        return f"OVER the limit of {limit_mib / 1024:.1f} GiB"
    training = "built" if cost.epoch_s is None else f"{cost.batches} of {cost.of_batches} batches"
    return f"{training}, {(cost.peak_mib or 0) / 1024:.2f} GiB"
