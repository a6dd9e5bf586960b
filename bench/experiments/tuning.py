"""Search hyper-parameters on validation alone, with the same budget and the same patience for every model.

A trial is one training run that is scored on validation and nothing else: the test split is not even laid out. Every
model gets the same number of settings with the first seed; its best few are then trained with the other seeds too, and
the best mean wins. Trials are kept one by one, so that a search goes on where it stopped.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import tomlkit
import torch

from bench.data import PreparedDataset
from bench.errors import StoreError
from bench.evaluation import RankingEvaluator, mean_metrics, per_user_metrics
from bench.experiments.assembly import build_model, protocols, scoring
from bench.experiments.cell import describe_failure
from bench.experiments.plan import Cell, Configuration
from bench.experiments.provenance import source_hash
from bench.experiments.search import settings_to_try
from bench.experiments.store import run_key
from bench.models import ModelSpec, resolve_hyperparameters
from bench.training import fit, keep_large_buffers

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Budget:
    """What every model gets.

    Attributes:
        settings: settings tried with the first seed.
        finalists: of them trained with every seed.
        seeds: training seeds; none of those that reports use.
    """

    settings: int = 16
    finalists: int = 3
    seeds: tuple[int, ...] = (11, 12, 13)


@dataclass(frozen=True)
class Trial:
    """One setting of one model with one seed, as it lies on disk.

    Attributes:
        model: its name.
        changed: hyper-parameters that differ from the defaults.
        seed: of the training.
        value: the monitored validation metric at the best epoch; None if the trial failed.
        data: everything that is kept of it.
    """

    model: str
    changed: dict[str, Any]
    seed: int
    value: float | None
    data: dict[str, Any]


@dataclass(frozen=True)
class Winner:
    """The setting that a search ends with.

    Attributes:
        model: its name.
        changed: hyper-parameters that differ from the defaults.
        scores: the monitored validation metric by seed.
        n_trials: trials made for this model, the failed ones included.
        fixed: hyper-parameters that the user set, the same in every trial.
    """

    model: str
    changed: dict[str, Any]
    scores: tuple[float, ...]
    n_trials: int
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.scores)


class Tuning:
    """A search on one dataset, kept in `<results>/<dataset>/tuning/`.

    Args:
        dataset: to search on.
        results: folder of results.
        protocol: evaluation and training protocol as plain values, the same for every model.
        device: where to train.
        report: called with a line for every trial.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        results: Path,
        protocol: dict[str, Any],
        device: torch.device,
        report: Callable[[str], None],
    ) -> None:
        self.dataset, self.protocol, self.device, self.report = dataset, protocol, device, report
        self.folder = results / dataset.name / "tuning"
        self._valid: RankingEvaluator | None = None

    def search(self, spec: ModelSpec, budget: Budget, fixed: Mapping[str, Any] | None = None) -> Winner | None:
        """Return the best setting of a model, or None if every trial failed.

        Args:
            spec: the model.
            budget: how much is tried.
            fixed: hyper-parameters with the value that every trial is to have.
        """
        first, *others = budget.seeds
        settings = settings_to_try(spec, budget.settings, fixed)
        trials = [self.trial(spec, changed, first) for changed in settings]
        alive = [trial for trial in trials if trial.value is not None]
        # A stable sort: of equal settings the earlier one, so the defaults, stays ahead.
        finalists = sorted(alive, key=lambda trial: -(trial.value or 0.0))[: budget.finalists]
        runs = {id(each): [each, *(self.trial(spec, each.changed, seed) for seed in others)] for each in finalists}
        n_trials = len(trials) + len(finalists) * len(others)
        winners = [
            Winner(
                spec.name,
                each.changed,
                tuple(run.value for run in group if run.value is not None),
                n_trials,
                dict(fixed or {}),
            )
            for each, group in zip(finalists, runs.values(), strict=True)
        ]
        whole = [winner for winner in winners if len(winner.scores) == len(budget.seeds)]
        return max(whole or winners, key=lambda winner: winner.mean, default=None)

    def trial(self, spec: ModelSpec, changed: dict[str, Any], seed: int) -> Trial:
        """Return a trial: from the store if it was made before, else made now."""
        values = resolve_hyperparameters(spec, {}, changed)
        key = run_key(self.dataset.fingerprint, spec.name, source_hash(spec), values, seed, self.protocol)
        path = self.folder / f"{spec.name.replace(':', '.')}-{key[:12]}.json"
        words = f"{spec.name} {_words(changed)}, seed {seed}"
        if path.is_file():
            trial = _read(path)
            self.report(f"{words}: {_outcome(trial)} (made before)")
            return trial
        configuration = Configuration(spec, spec.name, source_hash(spec), values, {}, changed)
        cell = Cell(self.dataset.name, configuration, seed, self.protocol, key, "new")
        data = {
            "schema_version": SCHEMA_VERSION,
            "key": key,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "dataset": self.dataset.name,
            "fingerprint": self.dataset.fingerprint,
            "model": spec.name,
            "changed": changed,
            "hyperparameters": values,
            "seed": seed,
            "protocol": self.protocol,
            **self._train(cell),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
        trial = _read(path)
        self.report(f"{words}: {_outcome(trial)}")
        return trial

    def trials(self) -> Iterator[Trial]:
        """Read every trial on this form of the dataset, by model and time."""
        found = [_read(path) for path in self.folder.glob("*.json")]
        same = [trial for trial in found if trial.data["fingerprint"] == self.dataset.fingerprint]
        yield from sorted(same, key=lambda trial: (trial.model, trial.data["created"], trial.data["key"]))

    def write_table(self) -> Path:
        """Write every trial into one table, `trials.csv`."""
        rows = [
            {
                "model": trial.model,
                "setting": _words(trial.changed),
                "seed": trial.seed,
                "valid": trial.value,
                "best_epoch": trial.data["best_epoch"],
                "epochs": trial.data["epochs"],
                "seconds": trial.data["seconds"],
                "error": trial.data["error"],
            }
            for trial in self.trials()
        ]
        path = self.folder / "trials.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
        return path

    def _train(self, cell: Cell) -> dict[str, Any]:
        keep_large_buffers()
        evaluation, training = protocols(cell)
        evaluator = self._evaluator(cell)
        started = time.perf_counter()
        outcome: dict[str, Any] = {"valid": None, "best_epoch": None, "epochs": None, "error": None}
        try:
            model = build_model(cell, self.dataset, self.device)

            def validate() -> float:
                with scoring(model) as score:
                    return mean_metrics(per_user_metrics(evaluator.ranks(score), evaluation))[training.monitor]

            matrix = self.dataset.matrix("train")
            result = fit(model, matrix, validate, training, seed=cell.seed, device=self.device)
            epochs = sum(epoch.epoch > 0 for epoch in result.history)
            outcome |= {"valid": result.best_value, "best_epoch": result.best_epoch, "epochs": epochs}
        except Exception as error:
            # A setting that breaks is a result of the search, and must not end it.
            failure = describe_failure(error)
            outcome["error"] = f"{failure['type']}: {failure['message']}"
        return outcome | {"seconds": round(time.perf_counter() - started, 3)}

    def _evaluator(self, cell: Cell) -> RankingEvaluator:
        if self._valid is None:
            evaluation, _ = protocols(cell)
            train, valid = self.dataset.matrix("train"), self.dataset.matrix("valid")
            self._valid = RankingEvaluator(train, valid, exclude=None, protocol=evaluation, device=self.device)
        return self._valid


def merged_presets(
    path: Path, dataset: str, budget: Budget, protocol: dict[str, Any], winners: Sequence[Winner]
) -> str:
    """Return a preset file with the winners: those of other models that the file at `path` has are kept.

    Comments say how each was found, in the file's own words for those that are kept.
    """
    training = protocol["training"]
    how = (
        f"{budget.settings} settings with seed {budget.seeds[0]}, the best {budget.finalists} with the seeds "
        f"{', '.join(map(str, budget.seeds))}; patience {training['patience']}, at most {training['max_epochs']} epochs"
    )
    document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.is_file() else _new_presets(dataset, training)
    for winner in winners:
        table = tomlkit.table()
        values = ", ".join(f"{value:.4f}" for value in winner.scores)
        given = f"; {_words(winner.fixed)} was given" if winner.fixed else ""
        table.add(tomlkit.comment(f"Validation {winner.mean:.4f} ({values}); {winner.n_trials} trials: {how}{given}."))
        for name, value in sorted(winner.changed.items()):
            table.add(name, list(value) if isinstance(value, tuple) else value)
        document[winner.model] = table
    return tomlkit.dumps(document)


def _new_presets(dataset: str, training: dict[str, Any]) -> tomlkit.TOMLDocument:
    document = tomlkit.document()
    words = f"Chosen by bench tune on {dataset}, on validation {training['monitor']}; test was never looked at."
    document.add(tomlkit.comment(words))
    return document


def _read(path: Path) -> Trial:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {data['schema_version']}, expected {SCHEMA_VERSION}")
        return Trial(data["model"], _tuples(data["changed"]), int(data["seed"]), data["valid"], data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is not a readable trial ({error}). Delete it and tune again.") from error


def _tuples(changed: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()}


def _words(changed: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(changed.items())) or "as by default"


def _outcome(trial: Trial) -> str:
    if trial.value is None:
        return f"FAILED, {trial.data['error']}"
    epochs = f", best epoch {trial.data['best_epoch']} of {trial.data['epochs']}" if trial.data["epochs"] else ""
    return f"valid {trial.value:.4f}{epochs}, {trial.data['seconds']:.1f} s"
