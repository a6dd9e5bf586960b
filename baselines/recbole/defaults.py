"""A model's hyper-parameters, read from RecBole's own files without importing it.

RecBole keeps its defaults in YAML: `properties/overall.yaml` for all models, `properties/model/NAME.yaml` for one.
Names and defaults are taken over as they are; the type of a hyper-parameter is that of its default.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from baselines.recbole.catalogue import Batches, Entry

Learner = Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"]
# What RecBole's trainer and loader read, for models that learn by steps.
TRAINING: Mapping[str, Any] = {
    "train_batch_size": Annotated[int, Ge(1)],
    "learning_rate": Annotated[float, Gt(0)],
    "weight_decay": Annotated[float, Ge(0)],
    "learner": Learner,
}
NEGATIVES = "sample_num"
# Whole numbers by default whose formula takes any number.
REAL = frozenset({"resolution", "negative_weight"})
ELSEWHERE = "it belongs to RecBole's data, trainer or evaluation, in whose place this program has its own"


@dataclass(frozen=True)
class Setting:
    """One hyper-parameter: its type, with its range where one is known, and its default."""

    annotation: Any
    default: Any


def yaml_loader() -> type[Any]:
    """Return a YAML loader that reads 1e-5 as a number, as RecBole's files expect and YAML 1.1 does not."""
    import yaml  # type: ignore[import-untyped]

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def read_properties(path: Path) -> dict[str, Any]:
    """Return the settings of one of RecBole's YAML files; none where the file is empty or absent."""
    import yaml

    if not path.is_file():
        return {}
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml_loader()) or {}


def read_settings(entry: Entry, folder: Path) -> dict[str, Setting]:
    """Return the hyper-parameters of a model: those of its own, then those of its training.

    Args:
        entry: the model.
        folder: RecBole's package folder.
    """
    own = read_properties(folder / "properties" / "model" / f"{entry.name}.yaml")
    overall = read_properties(folder / "properties" / "overall.yaml")
    settings = {name: _setting(name, value) for name, value in own.items() if name not in entry.refused}
    settings |= {name: _setting(name, overall[name]) for name in entry.switches}
    if entry.batches != "none":
        settings |= {name: Setting(annotation, overall[name]) for name, annotation in TRAINING.items()}
    if entry.batches in ("triples", "points"):
        settings[NEGATIVES] = Setting(Annotated[int, Ge(1)], overall["train_neg_sample_args"][NEGATIVES])
    return settings


def read_refused(entry: Entry, folder: Path) -> dict[str, str]:
    """Return what RecBole lets a user set for this model and this program does not, each with the reason."""
    overall = read_properties(folder / "properties" / "overall.yaml")
    data = read_properties(folder / "properties" / "dataset" / "sample.yaml")
    return dict.fromkeys((*overall, *data), ELSEWHERE) | dict(entry.refused)


def rows_per_positive(batches: Batches, sample_num: int) -> int:
    """Return how many rows of a batch one training interaction takes, as RecBole's loader counts them."""
    return {"triples": sample_num, "points": 1 + sample_num}.get(batches, 1)


def _setting(name: str, default: Any) -> Setting:
    if default is None:
        return Setting(bool | int | float | str | None, None)
    if isinstance(default, list):
        kind = _type_of(name, default)
        return Setting(tuple[kind, ...], tuple(map(kind, default)))  # type: ignore[valid-type]
    kind = _type_of(name, [default])
    return Setting(kind, kind(default))


def _type_of(name: str, values: list[Any]) -> type:
    kinds = {type(value) for value in values} or {int}
    return float if float in kinds or name in REAL else kinds.pop()
