"""The planted data must be what its description says, or tests that lean on it prove nothing."""

import re

import numpy as np
import pandas as pd
import pytest

from bench.data.split import assign_split
from bench.data.toy import THEMES, planted
from bench.errors import DataError

SEEDS = [0, 1, 2]


def one_hot(data, labels, part):
    """Return users x items, 1 where an interaction is in `part`."""
    chosen = data.interactions[labels == part]
    matrix = np.zeros((data.interactions["user"].nunique(), len(data.items)))
    users = np.searchsorted(np.sort(data.interactions["user"].unique()), chosen["user"].to_numpy())
    matrix[users, pd.Index(data.items["id"]).get_indexer(chosen["item"])] = 1
    return matrix


def recall_at_20(scores, train, test):
    top = np.argsort(np.where(train > 0, np.inf, -scores), axis=1, kind="stable")[:, :20]
    return float((np.take_along_axis(test, top, axis=1).sum(axis=1) / test.sum(axis=1)).mean())


def ease(train, reg_weight=50.0):
    inverse = np.linalg.inv(train.T @ train + reg_weight * np.eye(train.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return train @ weights


def neighbors(features):
    """Return the ten items nearest by cosine, [n_items, 10], and their cosines."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    nearest = np.argsort(-cosine, axis=1)[:, :10]
    return nearest, np.take_along_axis(cosine, nearest, axis=1)


def content_scores(train, features):
    nearest, cosine = neighbors(features)
    weights = np.zeros((len(features), len(features)))
    np.put_along_axis(weights, nearest, cosine, axis=1)
    return train @ weights


def both(data):
    return np.hstack([data.features["text"], data.features["visual"]])


def test_shapes_ids_and_counts():
    data = planted()
    table = data.interactions
    assert list(table.columns) == ["user", "item", "timestamp"]
    assert not table.duplicated(["user", "item"]).any()
    assert table["timestamp"].is_monotonic_increasing
    assert table["timestamp"].dtype == np.int64
    per_user = table["user"].value_counts()
    assert len(per_user) == 400
    assert per_user.min() >= 8
    assert per_user.max() <= 60
    assert 20 <= per_user.mean() <= 30
    assert data.items["id"].tolist() == [f"i{number:03d}" for number in range(360)]
    assert sorted(per_user.index)[::399] == ["u000", "u399"]
    assert set(table["item"]) <= set(data.items["id"])
    assert data.items["title"].is_unique
    for modality, width in (("text", 24), ("visual", 32)):
        assert data.features[modality].shape == (360, width)
        assert data.features[modality].dtype == np.float32
        assert np.isfinite(data.features[modality]).all()


def test_the_seed_decides():
    first, again, other = planted(seed=5), planted(seed=5), planted(seed=6)
    pd.testing.assert_frame_equal(first.interactions, again.interactions)
    pd.testing.assert_frame_equal(first.items, again.items)
    assert all((first.features[name] == again.features[name]).all() for name in first.features)
    assert not first.interactions.equals(other.interactions)
    assert (first.features["text"] != other.features["text"]).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_tastes_can_be_learned_and_popularity_does_not_suffice(seed):
    data = planted(seed=seed)
    labels = assign_split(data.interactions, "random", 1, None)
    train, test = one_hot(data, labels, "train"), one_hot(data, labels, "test")
    popularity = recall_at_20(np.tile(train.sum(axis=0), (len(train), 1)), train, test)
    personal = recall_at_20(ease(train), train, test)
    assert 0.1 <= popularity <= 0.25
    assert 0.4 <= personal <= 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_each_modality_knows_a_part_of_the_taste(seed):
    data = planted(seed=seed)
    labels = assign_split(data.interactions, "random", 1, None)
    train, test = one_hot(data, labels, "train"), one_hot(data, labels, "test")
    text, visual = (
        recall_at_20(content_scores(train, data.features[name]), train, test) for name in ("text", "visual")
    )
    chance = 20 / len(data.items)
    assert min(text, visual) > 2 * chance
    assert recall_at_20(content_scores(train, both(data)), train, test) > 1.5 * max(text, visual)


@pytest.mark.parametrize("seed", SEEDS)
def test_items_that_look_alike_are_clicked_together(seed):
    data = planted(seed=seed)
    clicks = one_hot(data, np.full(len(data.interactions), "all"), "all")
    together = clicks.T @ clicks
    np.fill_diagonal(together, 0)
    by_chance = together.sum() / (len(together) * (len(together) - 1))

    def lift(features):
        return np.take_along_axis(together, neighbors(features)[0], axis=1).mean() / by_chance

    assert lift(both(data)) > 3
    assert min(lift(data.features["text"]), lift(data.features["visual"])) > 1.5
    shuffled = np.random.default_rng(0).permutation(both(data))
    assert lift(shuffled) < 1.2


@pytest.mark.parametrize("seed", SEEDS)
def test_features_help_where_clicks_are_few(seed):
    # Scores learned from clicks, alone and with the clicks of similar items added.
    data = planted(n_users=80, seed=seed)
    labels = assign_split(data.interactions, "random", 1, None)
    train, test = one_hot(data, labels, "train"), one_hot(data, labels, "test")
    similar = content_scores(np.eye(len(data.items)), both(data))
    alone = recall_at_20(ease(train), train, test)
    helped = recall_at_20(ease(train) + 0.05 * train @ similar, train, test)
    assert helped > 1.1 * alone


def test_without_tastes_nothing_can_be_learned():
    data = planted(noise=1.0, skew=0.0)
    labels = assign_split(data.interactions, "random", 1, None)
    train, test = one_hot(data, labels, "train"), one_hot(data, labels, "test")
    assert recall_at_20(ease(train), train, test) < 0.1


def test_appeal_is_skewed_unless_asked_otherwise():
    def share_of_top_tenth(data):
        counts = data.interactions["item"].value_counts()
        return counts.head(36).sum() / counts.sum()

    assert share_of_top_tenth(planted()) > 1.3 * share_of_top_tenth(planted(skew=0.0))


def test_titles_tell_the_theme():
    data = planted(feature_noise=0.01)
    nouns = data.items["title"].str.split().str[1]
    themes = nouns.map({noun: number for number, group in enumerate(THEMES) for noun in group}).to_numpy()
    nearest, _ = neighbors(data.features["text"])
    assert (themes[nearest] == themes[:, None]).mean() > 0.99


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({"n_items": 20}, "n_items = 20 (from 100 to inf)"),
        ({"n_users": 0, "noise": 1.5}, "n_users = 0 (from 1 to inf); noise = 1.5 (from 0 to 1)"),
        ({"mean_clicks": 3}, "mean_clicks = 3 (from 8 to 60)"),
    ],
)
def test_parameters_out_of_range(parameters, found):
    with pytest.raises(DataError, match=re.escape(found)):
        planted(**parameters)
