"""From what the user asked for to a list of cells, every one validated before the first trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.data import PreparedDataset
from bench.errors import UsageError, unknown_name
from bench.evaluation import evaluation_protocol
from bench.experiments.provenance import source_hash
from bench.experiments.store import FAILED, FINISHED, RunRecord, RunStore, run_key
from bench.models import ModelSpec, find_model, load_presets, parse_setting, resolve_hyperparameters
from bench.training import TrainingProtocol

State = Literal["new", "finished", "failed", "interrupted", "busy"]


@dataclass(frozen=True)
class Configuration:
    """A model with every hyper-parameter settled, for one dataset.

    Attributes:
        spec: the model.
        label: its name in reports.
        code: hash of its source.
        hyperparameters: every one, resolved.
        preset: those that came from the dataset's preset.
        overrides: those that the user set.
    """

    spec: ModelSpec
    label: str
    code: str
    hyperparameters: dict[str, Any]
    preset: dict[str, Any]
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run to be made: a dataset, a configured model, a seed and a protocol.

    Attributes:
        dataset: name of the prepared dataset.
        configuration: the model.
        seed: the training seed.
        protocol: `{"evaluation": ..., "training": ...}` as plain values.
        key: the run's identity in the store.
        state: what the store already has of it.
    """

    dataset: str
    configuration: Configuration
    seed: int
    protocol: dict[str, Any]
    key: str
    state: State

    @property
    def title(self) -> str:
        """The cell in words, for progress and messages."""
        return f"{self.configuration.label} on {self.dataset}, seed {self.seed}"

    def waits(self, retry_failed: bool) -> bool:
        """Tell whether the cell is to be run now."""
        return self.state in ("new", "interrupted") or (self.state == "failed" and retry_failed)


def configure(
    models: Sequence[str],
    settings: Sequence[str],
    dataset: str,
    *,
    use_presets: bool = True,
    results: Path | None = None,
) -> list[Configuration]:
    """Resolve and validate the models of a plan for one dataset.

    Args:
        models: names as the user gave them.
        settings: `model.name=value` texts.
        dataset: whose presets apply.
        use_presets: False leaves the models at their defaults.
        results: folder of results, whose own presets go before those that ship.

    Raises:
        UsageError: an unknown model, a repeated one, an unknown hyper-parameter, an ill-typed value, or a setting for
            a model that is not in the plan.
    """
    specs = [find_model(name) for name in models]
    names = [spec.name for spec in specs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"Model {', '.join(repeated)} is named more than once.")
    overrides = overrides_by_model(names, settings)
    presets = load_presets(dataset, results) if use_presets else {}
    return [_configuration(spec, presets.get(spec.name, {}), overrides[spec.name]) for spec in specs]


def overrides_by_model(names: Sequence[str], settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what the user set, as it was read and not yet validated, for each model.

    Args:
        names: the registered names of the models.
        settings: `model.name=value` texts.

    Raises:
        UsageError: a setting for another model.
    """
    overrides: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in settings:
        model, name, value = parse_setting(text)
        target = find_model(model).name
        if target not in overrides:
            raise unknown_name("model in this run", target, names, f"--set {text} is for a model that is not run.")
        overrides[target][name] = value
    return overrides


def _configuration(spec: ModelSpec, preset: Mapping[str, Any], overrides: Mapping[str, Any]) -> Configuration:
    values = resolve_hyperparameters(spec, preset, overrides)
    usual = resolve_hyperparameters(spec, preset, {})
    changed = {name: values[name] for name in overrides if values[name] != usual[name]}
    settings = ",".join(f"{name}={_short(value)}" for name, value in sorted(changed.items()))
    return Configuration(
        spec=spec,
        label=f"{spec.name}[{settings}]" if settings else spec.name,
        code=source_hash(spec),
        hyperparameters=values,
        preset={name: values[name] for name in preset if name not in changed},
        overrides=changed,
    )


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def make_plan(
    datasets: Sequence[PreparedDataset],
    models: Sequence[str],
    seeds: Sequence[int],
    protocol: Mapping[str, Any],
    store: RunStore,
    *,
    settings: Sequence[str] = (),
    use_presets: bool = True,
) -> list[Cell]:
    """Return every cell of datasets x models x seeds with what the store already has of it.

    Cells come seed by seed, so that a plan cut short has compared all models on the first seeds.
    """
    cells = []
    for dataset in datasets:
        configurations = configure(models, settings, dataset.name, use_presets=use_presets, results=store.results)
        _check_features(dataset, configurations)
        known = {record.key: record for record in store.records(dataset.name)}
        for seed in seeds:
            for configuration in configurations:
                key = run_key(
                    dataset.fingerprint,
                    configuration.spec.name,
                    configuration.code,
                    configuration.hyperparameters,
                    seed,
                    protocol,
                )
                state = _state(known.get(key))
                cells.append(Cell(dataset.name, configuration, seed, dict(protocol), key, state))
    return cells


def _check_features(dataset: PreparedDataset, configurations: Sequence[Configuration]) -> None:
    needing = [c.spec.name for c in configurations if "features" in c.spec.inputs and c.spec.family != "third-party"]
    if needing and not dataset.features:
        raise UsageError(
            f"{', '.join(needing)} needs item features, but dataset {dataset.name} has none. Give its recipe a "
            "[features.NAME] table, or leave the model out."
        )


def _state(record: RunRecord | None) -> State:
    if record is None:
        return "new"
    if record.status == FINISHED:
        return "finished"
    if record.status == FAILED:
        return "failed"
    return "busy" if record.alive else "interrupted"


def protocol_of(evaluation: str, *, max_epochs: int, patience: int) -> dict[str, Any]:
    """Return the protocol of a run as plain values.

    Args:
        evaluation: name of an evaluation preset.
        max_epochs: the most epochs a model is trained.
        patience: evaluations without a gain before training stops.

    Raises:
        UsageError: no such preset.
    """
    preset = evaluation_protocol(evaluation)
    training = TrainingProtocol(max_epochs=max_epochs, patience=patience, ties=preset.selection_tie)
    return {"evaluation": preset.to_dict(), "training": training.to_dict()}
