"""Decide which runs of a dataset may stand in one table.

Numbers are comparable only within one prepared dataset (fingerprint), one protocol, one configuration per
model and one list of seeds. Whatever does not fit is left out by name, never mixed in and never dropped
without a word.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.wording import count, flatten, plural, setting
from bench.errors import StoreError
from bench.experiments.store import FINISHED, RunRecord

MISSING = "missing"

FAMILY_ORDER = ("general", "multimedia", "diffusion", "recbole", "third-party", "target")
OTHER_DATA = "another version of the dataset"
OTHER_PROTOCOL = "another protocol"
OTHER_CONFIGURATION = "other hyper-parameters or another version of the model's code"
OTHER_SEED = "a seed outside the report's list"
OTHER_MODEL = "a model not asked for"


@dataclass(frozen=True)
class Selection:
    """The comparable runs of one dataset.

    Attributes:
        dataset: its name.
        reference: label of the model that the others are compared with, whether or not it has runs.
        labels: the models in report order: by family, by name, the reference last.
        seeds: the seeds every model should have.
        cells: the runs found, by (label, seed).
        left_out: the other runs of the dataset with the reason for each.
    """

    dataset: str
    reference: str
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: Mapping[tuple[str, int], RunRecord]
    left_out: tuple[tuple[RunRecord, str], ...]

    @property
    def has_reference(self) -> bool:
        """Whether the reference model has runs here."""
        return self.reference in self.labels

    @property
    def example(self) -> RunRecord:
        """One run of the group, finished if there is any, for what all have in common."""
        return max(self.cells.values(), key=lambda run: (run.status == FINISHED, run.data["created"]))

    def runs(self, label: str) -> list[RunRecord]:
        """Return a model's runs of any status, by seed."""
        return [self.cells[label, seed] for seed in self.seeds if (label, seed) in self.cells]

    def finished(self, label: str) -> list[RunRecord]:
        """Return a model's finished runs, by seed."""
        return [run for run in self.runs(label) if run.status == FINISHED]

    def status(self, label: str, seed: int) -> str:
        """Return `finished`, `failed`, `running`, or `missing` where no such run was ever begun."""
        run = self.cells.get((label, seed))
        return MISSING if run is None else run.status

    def gap(self, label: str) -> str:
        """Say which seeds of a model did not finish and how they stand; empty when all did."""
        states: dict[str, list[int]] = {}
        for seed in self.seeds:
            if (state := self.status(label, seed)) != FINISHED:
                states.setdefault(state, []).append(seed)
        return "; ".join(f"{plural(seeds, 'seed')} {state}" for state, seeds in states.items())


def select_runs(
    records: Sequence[RunRecord],
    dataset: str,
    *,
    reference: str,
    models: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Selection:
    """Pick the comparable runs of a dataset.

    The group is that of the newest finished run (same fingerprint and protocol). Each label keeps the
    configuration of its newest finished run in the group. The seeds are those given, else those of the
    reference's runs of any status, else all there are.

    Args:
        records: all runs of the dataset.
        dataset: its name, for messages.
        reference: label of the reference model; it stays even where `models` does not name it.
        models: labels or model names to keep; None keeps all.
        seeds: seeds to keep; None as above.

    Raises:
        StoreError: there are no runs, or none of a model or seed asked for.
    """
    if not records:
        raise StoreError(
            f"Dataset {dataset} has no runs in the results folder. Run some first, for example: "
            f"bench run --datasets {dataset} --models {reference}."
        )
    sieve = _Sieve(list(records))
    newest = _newest(records)
    sieve.keep(lambda run: run.fingerprint == newest.fingerprint, OTHER_DATA)
    sieve.keep(lambda run: _protocol(run) == _protocol(newest), OTHER_PROTOCOL)
    if models is not None:
        _check_models(models, sieve.kept, dataset)
        wanted = {*models, reference}
        sieve.keep(lambda run: run.label in wanted or run.model in wanted, OTHER_MODEL)
    chosen = {label: _configuration(_newest(runs)) for label, runs in _by_label(sieve.kept).items()}
    sieve.keep(lambda run: _configuration(run) == chosen[run.label], OTHER_CONFIGURATION)
    seed_list = _seed_list(sieve.kept, reference, seeds)
    sieve.keep(lambda run: run.seed in seed_list, OTHER_SEED)
    if not sieve.kept:
        raise StoreError(f"Dataset {dataset} has no runs with {plural(seed_list, 'seed')}.")
    cells = {(run.label, run.seed): run for run in sorted(sieve.kept, key=lambda run: str(run.data["created"]))}
    return Selection(dataset, reference, _order(sieve.kept, reference), seed_list, cells, tuple(sieve.left_out))


class _Sieve:
    """Runs that are still in, and those that fell out with the reason."""

    def __init__(self, runs: list[RunRecord]) -> None:
        self.kept = runs
        self.left_out: list[tuple[RunRecord, str]] = []

    def keep(self, fits: Callable[[RunRecord], bool], reason: str) -> None:
        self.left_out += [(run, reason) for run in self.kept if not fits(run)]
        self.kept = [run for run in self.kept if fits(run)]


def _newest(runs: Iterable[RunRecord]) -> RunRecord:
    return max(runs, key=lambda run: (run.status == FINISHED, str(run.data["created"])))


def _protocol(run: RunRecord) -> str:
    return json.dumps(run.data["protocol"], sort_keys=True)


def _configuration(run: RunRecord) -> str:
    model = run.data["model"]
    identity = [run.data["hyperparameters"], model.get("reference"), model.get("code")]
    return json.dumps(identity, sort_keys=True)


def _by_label(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups


def _check_models(models: Sequence[str], runs: Sequence[RunRecord], dataset: str) -> None:
    known = {run.label for run in runs} | {run.model for run in runs}
    absent = [name for name in models if name not in known]
    if absent:
        raise StoreError(
            f"Dataset {dataset} has no runs of {', '.join(absent)} in the group of its newest finished run. "
            f"There are runs of {', '.join(sorted({run.label for run in runs}))}. Run what is missing with "
            "bench run, or leave it out of --models."
        )


def _seed_list(runs: Sequence[RunRecord], reference: str, seeds: Sequence[int] | None) -> tuple[int, ...]:
    if seeds is not None:
        return tuple(dict.fromkeys(seeds))
    of_reference = {run.seed for run in runs if run.label == reference}
    return tuple(sorted(of_reference or {run.seed for run in runs}))


def _order(runs: Iterable[RunRecord], reference: str) -> tuple[str, ...]:
    families = {run.label: run.family for run in runs}

    def place(label: str) -> tuple[bool, int, str, str]:
        family = families[label]
        rank = FAMILY_ORDER.index(family) if family in FAMILY_ORDER else len(FAMILY_ORDER)
        return label == reference, rank, family, label

    return tuple(sorted(families, key=place))


def describe_left_out(selection: Selection) -> list[str]:
    """Return one line per reason for which runs were left out, with models, seeds and what differs."""
    grouped: dict[str, list[RunRecord]] = {}
    for run, reason in selection.left_out:
        grouped.setdefault(reason, []).append(run)
    example = selection.example
    lines = []
    for reason, runs in grouped.items():
        parts = [
            f"{label} ({plural(sorted({run.seed for run in of_label}), 'seed')})"
            for label, of_label in sorted(_by_label(runs).items())
        ]
        detail = _difference(reason, runs, example)
        lines.append(f"{count(len(runs), 'run')} left out, {reason}{detail}: {', '.join(parts)}.")
    return lines


def _difference(reason: str, runs: Sequence[RunRecord], example: RunRecord) -> str:
    if reason == OTHER_DATA:
        return f" (fingerprint {', '.join(sorted({run.fingerprint[:8] for run in runs}))})"
    if reason == OTHER_PROTOCOL:
        here = flatten(example.data["protocol"])
        changes = {
            f"{name}={setting(value)}"
            for run in runs
            for name, value in flatten(run.data["protocol"]).items()
            if here.get(name) != value
        }
        return f" ({', '.join(sorted(changes))})" if changes else ""
    return ""


def mixed_conditions(selection: Selection) -> list[str]:
    """Return a warning for each condition that differs between finished runs."""
    finished = [run for run in selection.cells.values() if run.status == FINISHED]
    warnings = []
    packages: dict[str, set[str]] = {}
    machine: dict[str, set[str]] = {}
    for run in finished:
        environment = run.data.get("environment") or {}
        versions = {"python": environment.get("python"), **(environment.get("packages") or {})}
        for name, version in versions.items():
            packages.setdefault(name, set()).add(setting(version))
        for name in ("cpu", "gpu", "device", "n_threads"):
            machine.setdefault(name, set()).add(setting(environment.get(name)))
    for what, found in (("package versions", packages), ("machines", machine)):
        mixed = [f"{name} {' / '.join(sorted(values))}" for name, values in sorted(found.items()) if len(values) > 1]
        if mixed:
            times = " Do not compare their times." if what == "machines" else ""
            warnings.append(f"The runs come from different {what}: {'; '.join(mixed)}.{times}")
    commits = {setting((run.data.get("git") or {}).get("commit"))[:8] for run in finished}
    if len(commits) > 1:
        warnings.append(f"The runs come from different commits of the program: {', '.join(sorted(commits))}.")
    return warnings


def cut_short(selection: Selection) -> list[str]:
    """Return a warning if training ended at the limit of epochs, where patience might have let it go on."""
    cut = {
        label: [run.seed for run in selection.finished(label) if run.data["training"]["stopped"] == "max_epochs"]
        for label in selection.labels
    }
    models = [f"{label} ({plural(seeds, 'seed')})" for label, seeds in cut.items() if seeds]
    if not models:
        return []
    n_runs = sum(map(len, cut.values()))
    training = selection.example.data["protocol"]["training"]
    limit, patience = count(training["max_epochs"], "epoch"), count(training["patience"], "evaluation")
    return [
        f"{count(n_runs, 'run')} ended at the limit of {limit}, not because {patience} brought no gain: "
        f"{', '.join(models)}. Longer training might rank these models differently; raise --max-epochs to see."
    ]
