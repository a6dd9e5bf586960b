"""Say whether the models still give what they gave: quality by the seeds' own spread, cost by ratio."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from bench.analysis.reference import UPDATE_HINT, ModelReference, Reference
from bench.analysis.wording import flatten, setting
from bench.errors import StoreError

Verdict = Literal["ok", "moved", "missing", "new"]

COST_FACTOR = 2.5
SPREAD_FACTOR = 3.0
# Changes under 1 % are below the project's smallest difference of interest: they change no conclusion, and
# the standard deviation of a few seeds is too uncertain to judge them.
RELATIVE_FLOOR = 0.01
# A closed form has no spread. Another linear-algebra library may break a near-tie at the cut-off the other
# way, which moves single users; on anything but tiny data two or three of them stay within this.
CLOSED_FORM_FLOOR = 2e-4
CLOSED_FORM_RELATIVE = 1e-6


@dataclass(frozen=True)
class Movement:
    """One checked quantity.

    Attributes:
        model: its label.
        quantity: a metric on test, or a cost relative to the calibration (`epoch_s`, `fit_s`, `inference_s`).
        stored: the reference's value; None for what it does not have.
        observed: the new value; None where there is none.
        low: least value allowed; None where there is nothing to compare with.
        high: greatest value allowed.
        verdict: `ok`; `moved` outside the range; `missing` from the new runs; `new` to the reference.
        note: a remark, or empty.
    """

    model: str
    quantity: str
    stored: float | None
    observed: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    note: str = ""


def compare(reference: Reference, observed: Reference, *, cost_factor: float = COST_FACTOR) -> list[Movement]:
    """Compare new results with stored ones, quantity by quantity.

    Quality may move by 3 s sqrt(1/n_old + 1/n_new), s the stored seeds' standard deviation, and always by 1 %
    of the stored mean; a closed form only by a few users' worth. Both directions count: an unexplained gain
    is a movement too. Cost may grow up to `cost_factor` times the stored ratio; getting faster is noted,
    never a fault.

    Args:
        reference: the stored results.
        observed: the new ones, made by `reference_from_runs`.
        cost_factor: at least 1.

    Raises:
        StoreError: data, protocol or hyper-parameters differ, so there is nothing to compare.
    """
    _check_comparable(reference, observed)
    movements = []
    for label, stored in reference.models.items():
        found = observed.models.get(label)
        movements += _quality(label, stored, found) + _cost(label, stored, found, cost_factor)
    for label, found in observed.models.items():
        if label not in reference.models:
            values = {**found.mean, **found.cost}
            movements += [Movement(label, name, None, value, None, None, "new") for name, value in values.items()]
    return movements


def _quality(label: str, stored: ModelReference, found: ModelReference | None) -> list[Movement]:
    movements = []
    for name, mean in stored.mean.items():
        value = None if found is None else found.mean.get(name)
        if found is None or value is None:
            movements.append(Movement(label, name, mean, None, None, None, "missing"))
            continue
        margin = quality_margin(stored, name, len(found.seeds))
        verdict: Verdict = "ok" if abs(value - mean) <= margin else "moved"
        note = "better than stored" if verdict == "moved" and value > mean else ""
        movements.append(Movement(label, name, mean, value, mean - margin, mean + margin, verdict, note))
    known = () if found is None else found.mean.items()
    movements += [Movement(label, n, None, v, None, None, "new") for n, v in known if n not in stored.mean]
    return movements


def quality_margin(stored: ModelReference, name: str, n_new: int) -> float:
    """Return by how much a metric's mean over `n_new` seeds may differ from the stored mean."""
    mean, std = abs(stored.mean[name]), stored.std[name]
    if stored.closed_form and std <= CLOSED_FORM_RELATIVE * mean:
        return max(CLOSED_FORM_RELATIVE * mean, CLOSED_FORM_FLOOR)
    spread = SPREAD_FACTOR * std * math.sqrt(1 / len(stored.seeds) + 1 / n_new)
    return max(spread, RELATIVE_FLOOR * mean, CLOSED_FORM_FLOOR)


def _cost(label: str, stored: ModelReference, found: ModelReference | None, factor: float) -> list[Movement]:
    movements = []
    for name, ratio in stored.cost.items():
        value = None if found is None else found.cost.get(name)
        if value is None:
            movements.append(Movement(label, name, ratio, None, None, None, "missing", "not timed"))
            continue
        limit = ratio * factor
        verdict: Verdict = "ok" if value <= limit else "moved"
        note = f"much faster than stored ({ratio / value:.1f} times)" if 0 < value < ratio / factor else ""
        movements.append(Movement(label, name, ratio, value, 0.0, limit, verdict, note))
    known = () if found is None else found.cost.items()
    movements += [Movement(label, n, None, v, None, None, "new") for n, v in known if n not in stored.cost]
    return movements


def _check_comparable(reference: Reference, observed: Reference) -> None:
    where = f"The new runs on {observed.dataset} cannot be compared with the stored results"
    if (reference.dataset, reference.fingerprint) != (observed.dataset, observed.fingerprint):
        raise StoreError(
            f"{where}: they were made on {reference.dataset} with data fingerprint {reference.fingerprint[:12]}, these "
            f"on {observed.dataset} with {observed.fingerprint[:12]}. Prepare the dataset from the same recipe again. "
            f"{UPDATE_HINT}"
        )
    differences = _differences(reference.protocol, observed.protocol)
    if differences:
        raise StoreError(f"{where}: the protocol differs ({differences}). {UPDATE_HINT}")
    changed = []
    for label in reference.models.keys() & observed.models.keys():
        stored, found = reference.models[label].hyperparameters, observed.models[label].hyperparameters
        if different := _differences(stored, found):
            changed.append(f"{label} ({different})")
    if changed:
        raise StoreError(f"{where}: hyper-parameters differ, {'; '.join(sorted(changed))}. {UPDATE_HINT}")


def _differences(stored: dict[str, Any], found: dict[str, Any]) -> str:
    """Return what differs as `name: stored 1, now 2`."""
    old, new = flatten(stored), flatten(found)
    absent = object()
    parts = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name, absent), new.get(name, absent)
        if a != b:
            words = ["absent" if value is absent else setting(value) for value in (a, b)]
            parts.append(f"{name}: stored {words[0]}, now {words[1]}")
    return ", ".join(parts)
