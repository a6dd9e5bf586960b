import numpy as np
import pytest
from scipy import stats

from bench.analysis.comparisons import compare_models
from bench.analysis.selection import select_runs
from bench.errors import StoreError

N_USERS = 200


def compare(runs, metrics=("recall@20",), **more):
    selection = select_runs(runs.records(), "toy", reference="ld4mrec")
    return compare_models(selection, list(metrics), **more)


def row(frame, model, unit):
    found = frame[(frame["model"] == model) & (frame["unit"] == unit)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture
def values(runs, make_users):
    """Three seeds of two models on the same users, the reference better by 0.05."""
    rng = np.random.default_rng(1)
    values = {"ld4mrec": rng.random((3, N_USERS)) + 0.05, "lightgcn": rng.random((3, N_USERS))}
    for label, of_model in values.items():
        for seed, of_seed in enumerate(of_model, start=1):
            runs.add(label, seed, make_users(of_seed))
    return values


def test_seeds_pair_the_means_of_runs(runs, values):
    result = row(compare(runs), "lightgcn", "seed")
    expected = stats.ttest_rel(values["ld4mrec"].mean(axis=1), values["lightgcn"].mean(axis=1))
    assert result["n"] == 3
    assert result["p_t"] == pytest.approx(expected.pvalue)
    assert result["difference"] > 0


def test_users_are_averaged_over_seeds_before_they_are_paired(runs, values):
    result = row(compare(runs), "lightgcn", "user")
    expected = stats.ttest_rel(values["ld4mrec"].mean(axis=0), values["lightgcn"].mean(axis=0))
    assert result["n"] == N_USERS
    assert result["mean_reference"] == pytest.approx(values["ld4mrec"].mean())
    assert result["difference"] == pytest.approx(values["ld4mrec"].mean() - values["lightgcn"].mean())
    assert result["p_t"] == pytest.approx(expected.pvalue)
    assert result["won"] + result["tied"] + result["lost"] == pytest.approx(1)


def test_users_are_paired_by_id_and_not_by_place(runs, values, make_users):
    for seed in (1, 2, 3):
        shuffled = make_users(values["lightgcn"][seed - 1]).sample(frac=1, random_state=seed)
        runs.add("vbpr", seed, shuffled)
    frame = compare(runs)
    assert row(frame, "vbpr", "user")["p_t"] == pytest.approx(row(frame, "lightgcn", "user")["p_t"])


def test_holm_is_over_the_models_of_one_metric_and_unit(runs, values, make_users):
    rng = np.random.default_rng(2)
    for label in ("vbpr", "diffrec"):
        for seed in (1, 2, 3):
            runs.add(label, seed, make_users(rng.random(N_USERS)))
    frame = compare(runs, ["recall@20", "ndcg@20"])
    assert len(frame) == 2 * 2 * 3
    assert (frame["family_size"] == 3).all()
    assert (frame["p_t_holm"] >= frame["p_t"]).all()
    over_seeds = frame[frame["unit"] == "seed"]
    assert over_seeds["floor"].tolist() == [0.25] * 6
    assert not over_seeds["can_reach_alpha"].any()


@pytest.mark.parametrize("how", ["failed", "missing"])
def test_a_model_without_a_seed_of_the_reference_is_left_out_with_the_reason(runs, values, make_users, how):
    for seed in (1, 3):
        runs.add("vbpr", seed, make_users(values["lightgcn"][seed - 1]))
    if how == "failed":
        runs.add_failed("vbpr", 2)
    frame = compare(runs)
    for unit in ("seed", "user"):
        result = row(frame, "vbpr", unit)
        assert result["n"] == 0
        assert result["note"] == f"left out: seed 2 {how}"
        assert np.isnan(result["p_t"])
    assert row(frame, "lightgcn", "seed")["family_size"] == 1


def test_a_failed_seed_of_the_reference_leaves_all_out(runs, values):
    runs.add_failed("ld4mrec", 4)
    frame = compare(runs)
    assert frame["note"].unique().tolist() == ["left out: ld4mrec has seed 4 failed"]


def test_different_users_are_an_error(runs, values, make_users):
    for seed in (1, 2, 3):
        runs.add("vbpr", seed, make_users(np.full(N_USERS + 2, 0.1)))
    with pytest.raises(StoreError, match=r"ld4mrec and vbpr were tested on different users: 0 only .* 2 only"):
        compare(runs)


def test_different_users_between_seeds_are_an_error(runs, values, make_users):
    runs.add("ld4mrec", 4, make_users(np.full(N_USERS - 1, 0.1)))
    runs.add("lightgcn", 4, make_users(np.full(N_USERS, 0.1)))
    with pytest.raises(StoreError, match="ld4mrec seed 1 and ld4mrec seed 4 were tested on different users"):
        compare(runs)


@pytest.mark.parametrize("fault", ["twice", "nan", "column", "file"])
def test_a_broken_file_of_users_is_an_error_that_names_it(runs, make_users, fault):
    users = make_users(np.full(20, 0.1))
    if fault == "twice":
        users.loc[3, "user"] = 4
    elif fault == "nan":
        users.loc[3, "recall@20"] = np.nan
    folder = runs.add("ld4mrec", 1, users)
    runs.add("lightgcn", 1, make_users(np.full(20, 0.1)))
    if fault == "column":
        users.drop(columns="recall@20").to_parquet(folder / "users.parquet")
    elif fault == "file":
        (folder / "users.parquet").unlink()
    with pytest.raises(StoreError, match=r"users\.parquet"):
        compare(runs)


def test_closed_forms_are_compared_honestly(runs, make_users):
    rng = np.random.default_rng(4)
    fixed, other = rng.random((2, N_USERS))
    for seed in range(1, 7):
        runs.add("ld4mrec", seed, make_users(fixed))
        runs.add("popularity", seed, make_users(other), closed_form=True)
        runs.add("lightgcn", seed, make_users(fixed))
    frame = compare(runs)
    constant = row(frame, "popularity", "seed")
    assert "same in every seed" in constant["note"]
    assert np.isnan(constant["p_t"])
    assert row(frame, "popularity", "user")["p_t"] > 0
    assert row(frame, "lightgcn", "seed")["p_t"] == 1.0
    assert row(frame, "lightgcn", "user")["tied"] == 1.0


def test_without_tests_intervals_stay_and_p_values_are_absent(runs, values):
    frame = compare(runs, tests=False)
    assert not [name for name in frame.columns if name.startswith("p_")]
    assert "family_size" not in frame.columns
    assert frame["ci_low"].notna().all()


def test_without_a_reference_there_is_nothing_to_compare(runs, make_users):
    runs.add("lightgcn", 1)
    assert compare(runs).empty


def test_a_planted_difference_is_found_and_a_copy_is_not(runs, make_users):
    rng = np.random.default_rng(9)
    ability = rng.beta(1, 4, 400)
    strength = {"ld4mrec": 1.3, "lightgcn": 1.0, "vbpr": 1.3, "diffrec": 1.6}
    for label, factor in strength.items():
        for seed in range(1, 11):
            chance = np.clip(ability * (factor + rng.normal(0, 0.02)), 0, 1)
            runs.add(label, seed, make_users(rng.binomial(5, chance) / 5))
    frame = compare(runs)
    for unit in ("seed", "user"):
        weaker, copy, stronger = (row(frame, label, unit) for label in ("lightgcn", "vbpr", "diffrec"))
        assert weaker["difference"] > 0
        assert stronger["difference"] < 0
        assert max(weaker["p_t_holm"], stronger["p_t_holm"], weaker["p_signflip_holm"]) < 0.01
        assert copy["p_t_holm"] > 0.05
        assert (weaker["versus_smallest"], stronger["versus_smallest"]) == ("beyond", "beyond")
