"""Which hyper-parameters a search tries: a budgeted sample of what a model's class says is worth trying.

A class names its search space in the attribute `search_space`, a mapping from hyper-parameter to values, usually the
grid of its paper. What it does not name stays as it is by default.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.errors import UsageError, unknown_name
from bench.models import ModelSpec, hyperparameters_of, load_class, resolve_hyperparameters


def search_space(spec: ModelSpec) -> dict[str, tuple[Any, ...]]:
    """Return the values to try for each hyper-parameter, checked against the constructor; empty where none are named.

    Raises:
        UsageError: the class names an unknown hyper-parameter, or a value that does not fit it.
    """
    cls = load_class(spec)
    known = hyperparameters_of(cls)
    space: dict[str, tuple[Any, ...]] = {}
    declared: Mapping[str, Sequence[Any]] = getattr(cls, "search_space", {})
    for name, values in declared.items():
        if name not in known:
            raise unknown_name(f"hyper-parameter in the search space of {spec.name}", name, known)
        if not values:
            raise UsageError(f"The search space of {spec.name} names no value for {name}.")
        space[name] = tuple(known[name].validate(value, f"search space {spec.name}.{name}") for value in values)
    return space


def settings_to_try(spec: ModelSpec, budget: int, fixed: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return at most `budget` different settings: the defaults first, then a sample of the space without repetition.

    The sample depends on the model's name and what is fixed alone, so that a larger budget continues a smaller one.

    Args:
        spec: the model.
        budget: the most settings; a space with fewer is searched in full.
        fixed: hyper-parameters with the value that every setting is to have; nothing else is tried for them.

    Returns:
        What differs from the defaults in each setting.

    Raises:
        UsageError: `fixed` or the search space names an unknown hyper-parameter, or a value that does not fit it.
    """
    by_default = {name: parameter.default for name, parameter in hyperparameters_of(load_class(spec)).items()}
    values = resolve_hyperparameters(spec, {}, fixed or {})
    everywhere = {name: values[name] for name in fixed or {} if values[name] != by_default[name]}
    space = {name: tried for name, tried in search_space(spec).items() if name not in (fixed or {})}
    names = list(space)
    size = math.prod(len(values) for values in space.values())
    settings: list[dict[str, Any]] = [everywhere]
    rng = np.random.default_rng(zlib.crc32(spec.name.encode()))
    for place in _without_repetition(rng, size):
        if len(settings) >= budget:
            break
        chosen = dict(zip(names, _at(place, [space[name] for name in names]), strict=True))
        changed = {name: value for name, value in chosen.items() if value != by_default[name]}
        if changed:
            settings.append(everywhere | changed)
    return settings[:budget]


def _at(place: int, values: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the setting at one place of the full grid, counted like an odometer."""
    chosen = []
    for each in reversed(values):
        place, digit = divmod(place, len(each))
        chosen.append(each[digit])
    return chosen[::-1]


def _without_repetition(rng: np.random.Generator, size: int) -> Iterator[int]:
    """Return the places of a grid in random order; of a very large grid only as many as one would ever draw."""
    if size <= 1_000_000:
        return iter(rng.permutation(size).tolist())
    return iter(dict.fromkeys(rng.integers(0, size, 10_000).tolist()))
