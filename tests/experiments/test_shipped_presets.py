"""The presets that ship are what the trials that ship say: the best of a search with one budget for every model."""

import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from bench.experiments.tuning import _words
from bench.models import REGISTRY, resolve_hyperparameters

ROOT = Path(__file__).parents[2]
TUNING = ROOT / "results/reference/tuning"
# Those of `toy` were set by hand, as their file says.
FILES = [ROOT / "bench/presets" / f"{path.stem}.toml" for path in sorted(TUNING.glob("*.csv"))]
COMMENT = re.compile(
    r"# Validation (?P<mean>[\d.]+) \((?P<values>[\d., ]+)\); (?P<trials>\d+) trials: "
    r"(?P<budget>(?P<settings>\d+) settings with seed (?P<first>\d+), the best (?P<finalists>\d+) with the seeds "
    r"(?P<seeds>[\d, ]+); patience \d+, at most \d+ epochs)"
)
TABLES = [
    pytest.param(path, name, values, id=f"{path.stem}-{name}")
    for path in FILES
    for name, values in tomllib.loads(path.read_text(encoding="utf-8")).items()
]


def comment_of(path, name):
    text = path.read_text(encoding="utf-8")
    found = COMMENT.match(text, text.index(f"[{name}]\n") + len(name) + 3)
    assert found, f"{path.name}: [{name}] does not say how it was found"
    return found


@pytest.mark.parametrize(("path", "name", "preset"), TABLES)
def test_a_preset_is_the_winner_of_its_trials(path, name, preset):
    comment = comment_of(path, name)
    seeds = [int(seed) for seed in comment["seeds"].split(",")]
    table = pd.read_csv(TUNING / f"{path.stem}.csv")
    assert not table.duplicated(["model", "setting", "seed"]).any()
    trials = table[table["model"] == name].pivot_table(index="setting", columns="seed", values="valid")
    assert trials[seeds[0]].notna().all(), "every setting is tried with the first seed"
    assert len(trials) <= int(comment["settings"])
    finalists = trials.dropna(subset=seeds)
    assert len(finalists) == min(int(comment["finalists"]), len(trials))
    assert finalists[seeds[0]].min() >= trials.drop(finalists.index)[seeds[0]].max() or len(finalists) == len(trials)
    assert int(comment["trials"]) == len(trials) + len(finalists) * (len(seeds) - 1)
    changed = {key: tuple(value) if isinstance(value, list) else value for key, value in preset.items()}
    scores = finalists.loc[_words(changed), seeds]
    assert scores.mean() == pytest.approx(finalists[seeds].mean(axis=1).max())
    assert [float(value) for value in comment["values"].split(",")] == pytest.approx(scores.tolist(), abs=6e-5)
    assert float(comment["mean"]) == pytest.approx(scores.mean(), abs=6e-5)


def test_the_datasets_searched_are_those_that_ship():
    assert [path.stem for path in FILES] == ["lastfm", "ml-100k", "tiktok"]
    assert {path.stem for path in (ROOT / "bench/presets").glob("*.toml")} == {"toy", *(path.stem for path in FILES)}


@pytest.mark.parametrize(("path", "name", "preset"), TABLES)
def test_a_preset_fits_its_model_and_says_only_what_differs(path, name, preset):
    values, by_default = (resolve_hyperparameters(REGISTRY[name], each, {}) for each in (preset, {}))
    assert {key for key in values if values[key] != by_default[key]} == preset.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_model_of_a_file_had_the_same_budget(path):
    names = list(tomllib.loads(path.read_text(encoding="utf-8")))
    assert len({comment_of(path, name)["budget"] for name in names}) == 1
    table = pd.read_csv(TUNING / f"{path.stem}.csv")
    assert set(table["model"]) == set(names)
