import math

import numpy as np
import pytest

from bench.analysis.selection import select_runs
from bench.analysis.tables import (
    accuracy_frame,
    efficiency_frame,
    of_metric,
    rank_best,
    strongest_baseline,
    summary_frame,
)


def frames(runs, **more):
    selection = select_runs(runs.records(), "toy", **{"reference": "ld4mrec", **more})
    accuracy, efficiency = accuracy_frame(selection), efficiency_frame(selection)
    return selection, accuracy, efficiency, summary_frame(selection, accuracy, efficiency)


def cell(summary, model, split, name):
    rows = of_metric(summary[(summary["model"] == model) & (summary["split"] == split)], name)
    assert len(rows) == 1
    return rows.iloc[0]


def test_places_are_decided_on_unrounded_values_and_shared_by_ties():
    assert rank_best([0.12344, 0.12341, 0.1, math.nan], higher_is_better=True) == [1, 2, None, None]
    assert rank_best([0.3, 0.1 + 0.2, 0.2, 0.2, 0.1], higher_is_better=True) == [1, 1, 2, 2, None]
    assert rank_best([3.0, 1.0, 2.0], higher_is_better=False) == [None, 1, 2]
    assert rank_best([math.nan], higher_is_better=True) == [None]


def test_accuracy_is_tidy_with_a_row_a_value(runs):
    runs.add_model("ld4mrec", [0.25, 0.5])
    _, accuracy, _, _ = frames(runs)
    assert list(accuracy.columns) == ["dataset", "model", "seed", "split", "metric", "k", "value"]
    row = of_metric(accuracy[(accuracy["split"] == "test") & (accuracy["seed"] == 2)], "ndcg@10")
    assert row["value"].tolist() == [0.5]
    assert set(accuracy["split"]) == {"valid", "test"}
    assert not accuracy.duplicated(["model", "seed", "split", "metric", "k"]).any()


def test_summary_has_mean_and_sample_deviation(runs):
    means = [0.2, 0.25, 0.3]
    runs.add_model("ld4mrec", means)
    *_, summary = frames(runs)
    row = cell(summary, "ld4mrec", "test", "recall@20")
    assert row["n_seeds"] == 3
    assert row["mean"] == pytest.approx(0.25)
    assert row["std"] == pytest.approx(np.std(means, ddof=1))


def test_one_seed_has_no_deviation(runs):
    runs.add_model("ld4mrec", [0.2])
    *_, summary = frames(runs)
    assert math.isnan(cell(summary, "ld4mrec", "test", "recall@20")["std"])


def test_accuracy_ranks_high_and_cost_ranks_low(runs):
    runs.add_model("ld4mrec", [0.3, 0.3], changes={"cost": {"inference_s": 0.5}})
    runs.add_model("lightgcn", [0.2, 0.2], changes={"cost": {"inference_s": 0.1}})
    *_, summary = frames(runs)
    assert cell(summary, "ld4mrec", "test", "recall@20")["rank"] == 1
    assert cell(summary, "lightgcn", "test", "recall@20")["rank"] == 2
    assert cell(summary, "lightgcn", "cost", "inference_s")["rank"] == 1
    assert summary.loc[summary["metric"] == "popularity", "rank"].isna().all()


def test_a_model_that_never_finished_stays_in_the_summary(runs):
    runs.add_model("ld4mrec", [0.3])
    runs.add_failed("lightgcn", 1)
    *_, summary = frames(runs)
    assert summary.loc[summary["model"] == "lightgcn", "n_seeds"].tolist() == [0]


def test_cost_of_a_timed_run_by_phase(runs):
    runs.add("ld4mrec", 1)
    _, _, efficiency, summary = frames(runs)
    by_phase = efficiency.set_index("phase")
    assert by_phase.loc["train", ["seconds", "q1_seconds", "q3_seconds", "n"]].tolist() == [0.21, 0.2, 0.22, 56]
    assert by_phase.loc["fit", "seconds"] == 12.3
    assert by_phase.loc["inference", "n"] == 30
    assert by_phase["peak_host_mib"].unique().tolist() == [300.0]
    assert cell(summary, "ld4mrec", "cost", "epoch_s")["median"] == 0.21


def test_a_closed_form_has_no_epochs(runs):
    runs.add("ld4mrec", 1, closed_form=True)
    _, _, efficiency, _ = frames(runs)
    assert efficiency["phase"].tolist() == ["fit", "inference"]


def test_a_run_that_was_not_timed_says_so(runs):
    runs.add("ld4mrec", 1, changes={"cost": None})
    _, _, efficiency, _ = frames(runs)
    assert efficiency["source"].tolist() == ["not timed"]
    assert efficiency["seconds"].isna().all()


def test_training_time_after_a_timing_pass_is_estimated_and_marked(runs):
    runs.add("ld4mrec", 1, changes={"cost": {"source": "timing pass", "fit_s": None}})
    _, _, efficiency, _ = frames(runs)
    fit = efficiency.set_index("phase").loc["fit"]
    assert fit["seconds"] == pytest.approx(0.21 * 57)
    assert "epoch median x epochs" in fit["source"]


def test_the_strongest_baseline_is_named_from_validation(runs):
    runs.add_model("ld4mrec", [0.3, 0.3], valid=0.9)
    runs.add_model("ld4mrec[n=2]", [0.3, 0.3], valid=0.8)
    runs.add_model("lightgcn", [0.1, 0.1], valid=0.5)
    runs.add_model("vbpr", [0.2, 0.2], valid=0.4)
    runs.add("diffrec", 1, valid=0.7)
    runs.add_failed("diffrec", 2)
    selection, *_, summary = frames(runs)
    assert strongest_baseline(selection, summary, "recall@20") == "lightgcn"


def test_there_may_be_no_baseline(runs):
    runs.add_model("ld4mrec", [0.3])
    selection, *_, summary = frames(runs)
    assert strongest_baseline(selection, summary, "recall@20") is None
    selection, *_, summary = frames(runs, reference="mgcn")
    assert strongest_baseline(selection, summary, "recall@20") is None
