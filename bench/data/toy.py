"""Generate a small dataset with planted tastes, for demonstrations and tests.

The story behind the numbers:

- Every item has a theme (what it is about) and a look, drawn independently, and an appeal that falls by a power law
  from the most to the least popular item.
- Every user likes few themes and few looks: two sparse draws from Dirichlet distributions. The chance of a click is
  their product times the appeal, so a user's items share a theme and a look, and popular ones come first.
- A share of the clicks follows appeal alone, whatever the user's taste: noise.
- The `text` features and the words of the title tell the theme, the `visual` features tell the look, each under noise.
  Each modality knows one half of the taste, so both help, and neither alone suffices.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import DataError

THEMES = (
    ("Harbor", "Island", "Tide", "Lagoon"),
    ("Summit", "Glacier", "Ridge", "Canyon"),
    ("Orchard", "Meadow", "Harvest", "Garden"),
    ("Engine", "Signal", "Circuit", "Turbine"),
    ("Sonata", "Chorus", "Melody", "Ballad"),
    ("Comet", "Orbit", "Nebula", "Eclipse"),
)
ADJECTIVES = ("Amber", "Silent", "Golden", "Distant", "Hidden", "Crimson", "Early", "Final", "Lost", "Bright")
N_LOOKS = 6
FEWEST_CLICKS = 8
MOST_CLICKS = 60
START, YEAR_S = 1_700_000_000, 365 * 24 * 3600


@dataclass(frozen=True)
class PlantedData:
    """A generated dataset in raw form.

    Attributes:
        interactions: columns `user`, `item` (ids like u000, i000) and `timestamp` (seconds since 1970); one row per
            user and item, in order of time.
        items: columns `id` and `title`, one row per item.
        features: `text` and `visual`, float32 [n_items, width], row r belongs to row r of `items`.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    features: dict[str, NDArray[np.float32]]


def planted(
    n_users: int = 400,
    n_items: int = 360,
    mean_clicks: float = 24.0,
    concentration: float = 0.15,
    skew: float = 0.6,
    noise: float = 0.1,
    feature_noise: float = 0.2,
    text_width: int = 24,
    visual_width: int = 32,
    seed: int = 0,
) -> PlantedData:
    """Generate clicks and item features that hang together through planted tastes, as the module describes.

    Clicks are drawn without replacement for all users at once, which holds an array of n_users x n_items; this is
    meant for small data.

    Args:
        n_users: number of users.
        n_items: number of items, at least 100; each is clicked by chance, so rare ones may stay without a click.
        mean_clicks: clicks per user on average; each has at least 8 and at most 60.
        concentration: of the Dirichlet draws; smaller means fewer liked themes and looks per user.
        skew: exponent of the power law of appeal; 0 makes all items equally popular.
        noise: share of clicks that follow appeal alone, from 0 to 1.
        feature_noise: standard deviation of the noise in every feature, beside signals of length 1.
        text_width: columns of the text features.
        visual_width: columns of the visual features.
        seed: the same seed gives the same data.

    Raises:
        DataError: a parameter is out of its range.
    """
    _check(n_users, n_items, mean_clicks, concentration, skew, noise, feature_noise, text_width, visual_width)
    rng = np.random.default_rng(seed)
    themes = rng.permutation(np.arange(n_items) % len(THEMES))
    looks = rng.permutation(np.arange(n_items) % N_LOOKS)
    appeal = rng.permutation((1.0 + np.arange(n_items)) ** -skew)

    taste = _tastes(rng, n_users, len(THEMES), concentration)[:, themes]
    taste = taste * _tastes(rng, n_users, N_LOOKS, concentration)[:, looks] * appeal
    chance = (1 - noise) * taste / taste.sum(axis=1, keepdims=True) + noise * appeal / appeal.sum()
    n_clicks = FEWEST_CLICKS + rng.geometric(1 / (mean_clicks - FEWEST_CLICKS + 1), n_users) - 1
    users, items = _draw_clicks(rng, chance, n_clicks.clip(max=MOST_CLICKS))

    item_ids = _ids("i", n_items)
    interactions = pd.DataFrame(
        {
            "user": _ids("u", n_users)[users],
            "item": item_ids[items],
            "timestamp": START + rng.integers(YEAR_S, size=len(users)),
        }
    )
    features = {
        "text": _features(rng, themes, len(THEMES), text_width, feature_noise),
        "visual": _features(rng, looks, N_LOOKS, visual_width, feature_noise),
    }
    return PlantedData(
        interactions=interactions.sort_values(["timestamp", "user", "item"], ignore_index=True),
        items=pd.DataFrame({"id": item_ids, "title": _titles(rng, themes)}),
        features=features,
    )


def _tastes(rng: np.random.Generator, n_users: int, n_kinds: int, concentration: float) -> NDArray[np.float64]:
    """Draw how much each user likes each kind, [n_users, n_kinds], rows summing to 1."""
    # A floor keeps a user's chances above zero everywhere, whatever the draws.
    return rng.dirichlet(np.full(n_kinds, concentration), n_users) + 1e-9


def _draw_clicks(
    rng: np.random.Generator, chance: NDArray[np.float64], n_clicks: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw n_clicks[u] different items of user u in proportion to chance[u]; return (users, items), both [n].

    The largest keys log(chance) + Gumbel noise are a sample without replacement (Efraimidis and Spirakis, 2006).
    """
    keys = np.log(chance) + rng.gumbel(size=chance.shape)
    ranked = np.argsort(-keys, axis=1)
    users, ranks = np.nonzero(np.arange(chance.shape[1]) < n_clicks[:, None])
    return users, ranked[users, ranks]


def _features(
    rng: np.random.Generator, kinds: NDArray[np.int64], n_kinds: int, width: int, noise: float
) -> NDArray[np.float32]:
    """Place each item at its kind's direction of length 1, plus noise; rounded to 5 decimals."""
    directions = rng.normal(size=(n_kinds, width))
    directions /= np.sqrt((directions**2).sum(axis=1, keepdims=True))
    scattered = directions[kinds] + rng.normal(scale=noise, size=(len(kinds), width))
    return (scattered.round(5) + 0.0).astype(np.float32)


def _titles(rng: np.random.Generator, themes: NDArray[np.int64]) -> list[str]:
    """Name each item by a word that says nothing and a word of its theme, with a number to tell them apart."""
    nouns = np.array(THEMES)[themes, rng.integers(len(THEMES[0]), size=len(themes))]
    adjectives = np.array(ADJECTIVES)[rng.integers(len(ADJECTIVES), size=len(themes))]
    pairs = zip(adjectives, nouns, strict=True)
    return [f"{adjective} {noun} {number}" for number, (adjective, noun) in enumerate(pairs, start=1)]


def _ids(prefix: str, count: int) -> NDArray[np.object_]:
    digits = max(3, len(str(count - 1)))
    return np.array([f"{prefix}{number:0{digits}d}" for number in range(count)], dtype=object)


def _check(
    n_users: int,
    n_items: int,
    mean_clicks: float,
    concentration: float,
    skew: float,
    noise: float,
    feature_noise: float,
    text_width: int,
    visual_width: int,
) -> None:
    ranges = (
        ("n_users", n_users, 1, float("inf")),
        ("n_items", n_items, 100, float("inf")),
        ("mean_clicks", mean_clicks, FEWEST_CLICKS, MOST_CLICKS),
        ("concentration", concentration, 0.01, float("inf")),
        ("skew", skew, 0, 10),
        ("noise", noise, 0, 1),
        ("feature_noise", feature_noise, 0, float("inf")),
        ("text_width", text_width, 1, float("inf")),
        ("visual_width", visual_width, 1, float("inf")),
    )
    wrong = [
        f"{name} = {value} (from {low} to {high})" for name, value, low, high in ranges if not low <= value <= high
    ]
    if wrong:
        raise DataError(f"The planted dataset cannot be generated with {'; '.join(wrong)}. Correct the values.")
