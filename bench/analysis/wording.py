"""Numbers, lists and settings as a person reads them; what is absent gets a word, never a blank."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

ABSENT = "n/a"
SMALLEST_PRINTED_P = 1e-16


def fixed(value: float, decimals: int = 4) -> str:
    """Return a number with a fixed count of decimals."""
    return ABSENT if is_absent(value) else f"{value:.{decimals}f}"


def significant(value: float, digits: int = 3) -> str:
    """Return a number with `digits` significant figures, without an exponent: 0.0123, 1.50, 12.3, 4,560."""
    if is_absent(value):
        return ABSENT
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    rounded = round(value, places)
    return f"{rounded:,.{max(0, places)}f}"


def p_text(p: float) -> str:
    """Return a p value with three significant digits; below 1e-16 only that it is below."""
    if is_absent(p):
        return ABSENT
    if p < SMALLEST_PRINTED_P:
        return "< 1e-16"
    return f"{p:.2e}" if p < 0.001 else f"{p:#.3g}".rstrip(".")


def p_equation(p: float) -> str:
    """Return `p = 0.0123` or `p < 1e-16`, as it stands in a sentence."""
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def percent(share: float, *, signed: bool = True) -> str:
    """Return a share as a percentage with two decimals, signed for a change."""
    return ABSENT if is_absent(share) else f"{100 * share:{'+' if signed else ''}.2f} %"


def interval(low: float, high: float, decimals: int = 4) -> str:
    """Return `[low, high]`, signed."""
    if is_absent(low) or is_absent(high):
        return ABSENT
    return f"[{low:+.{decimals}f}, {high:+.{decimals}f}]"


def percent_interval(low: float, high: float) -> str:
    """Return an interval of shares in percent, signed."""
    return ABSENT if is_absent(low) or is_absent(high) else f"[{100 * low:+.2f}, {100 * high:+.2f}] %"


def is_absent(value: Any) -> bool:
    """Tell whether a cell of a frame has no value."""
    return bool(pd.isna(value))


def plural(values: Sequence[int], noun: str) -> str:
    """Return `seed 3` or `seeds 3, 4`."""
    return f"{noun}{'s' if len(values) != 1 else ''} {listing(values)}"


def listing(values: Sequence[int]) -> str:
    """Return numbers one after another, three or more successive ones alone as `1-10`."""
    successive = len(values) > 2 and list(values) == list(range(values[0], values[0] + len(values)))
    return f"{values[0]}-{values[-1]}" if successive else ", ".join(map(str, values))


def count(n: int, noun: str) -> str:
    """Return `1 run` or `2 runs`."""
    return f"{n:,} {noun}{'s' if n != 1 else ''}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, `{"training.patience": 20}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def setting(value: Any) -> str:
    """Return a setting's value without quotes: lists joined, floats short, no value as `none`."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(setting(part) for part in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings(values: Mapping[str, Any]) -> str:
    """Return settings as `name=value, name=value`."""
    return ", ".join(f"{name}={setting(value)}" for name, value in flatten(values).items())
