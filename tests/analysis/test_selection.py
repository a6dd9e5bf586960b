import pytest

from bench.analysis.selection import cut_short, describe_left_out, mixed_conditions, select_runs
from bench.analysis.tables import runs_frame
from bench.errors import StoreError


def select(runs, **more):
    return select_runs(runs.records(), "toy", **{"reference": "ld4mrec", **more})


def test_order_is_by_family_then_name_with_the_reference_last(runs):
    for label in ("ld4mrec", "diffrec", "vbpr", "popularity", "lightgcn"):
        runs.add(label, 1)
    assert select(runs).labels == ("lightgcn", "popularity", "vbpr", "diffrec", "ld4mrec")
    assert select(runs, reference="lightgcn").labels == ("popularity", "vbpr", "diffrec", "ld4mrec", "lightgcn")


def test_only_the_fingerprint_of_the_newest_finished_run_is_shown(runs):
    runs.add("lightgcn", 1, changes={"dataset": {"fingerprint": "a" * 64}})
    runs.add("lightgcn", 1)
    runs.add("ld4mrec", 1)
    newer_but_failed = {"status": "failed", "error": {"type": "X"}, "dataset": {"fingerprint": "b" * 64}}
    runs.add("ld4mrec", 1, changes=newer_but_failed)
    selection = select(runs)
    assert {run.fingerprint for run in selection.cells.values()} == {"f" * 64}
    lines = describe_left_out(selection)
    assert lines == [
        "2 runs left out, another version of the dataset (fingerprint aaaaaaaa, bbbbbbbb): ld4mrec (seed 1), "
        "lightgcn (seed 1)."
    ]


def test_protocols_are_not_mixed_and_the_difference_is_named(runs):
    runs.add("lightgcn", 1, changes={"protocol": {"training": {"patience": 5}}})
    runs.add("ld4mrec", 1)
    selection = select(runs)
    assert selection.labels == ("ld4mrec",)
    assert "training.patience=5" in describe_left_out(selection)[0]


@pytest.mark.parametrize("change", [{"hyperparameters": {"n_layers": 9}}, {"model": {"code": "edited"}}])
def test_one_label_keeps_one_configuration_the_newest(runs, change):
    runs.add("ld4mrec", 1)
    runs.add("lightgcn", 1, changes=change)
    runs.add("lightgcn", 1)
    selection = select(runs)
    assert len(selection.left_out) == 1
    assert selection.cells["lightgcn", 1].data["model"]["code"] == "c0de"
    assert selection.cells["lightgcn", 1].data["hyperparameters"]["n_layers"] == 2


def test_seeds_are_those_of_the_reference_whatever_their_status(runs):
    runs.add("ld4mrec", 1)
    runs.add_failed("ld4mrec", 2)
    for seed in (1, 3):
        runs.add("lightgcn", seed)
    selection = select(runs)
    assert selection.seeds == (1, 2)
    assert selection.status("ld4mrec", 2) == "failed"
    assert selection.status("lightgcn", 2) == "missing"
    assert selection.gap("lightgcn") == "seed 2 missing"
    assert "a seed outside the report's list: lightgcn (seed 3)" in describe_left_out(selection)[0]


def test_without_a_reference_all_seeds_are_shown(runs):
    runs.add("lightgcn", 1)
    runs.add("vbpr", 2)
    selection = select(runs)
    assert selection.seeds == (1, 2)
    assert not selection.has_reference


def test_models_can_be_named_by_label_or_name_and_the_reference_stays(runs):
    runs.add("ld4mrec", 1)
    runs.add("lightgcn", 1)
    runs.add("lightgcn[n_layers=4]", 1, changes={"model": {"name": "lightgcn"}})
    runs.add("vbpr", 1)
    assert select(runs, models=["lightgcn"]).labels == ("lightgcn", "lightgcn[n_layers=4]", "ld4mrec")
    assert select(runs, models=["lightgcn[n_layers=4]"]).labels == ("lightgcn[n_layers=4]", "ld4mrec")


def test_a_model_without_runs_is_an_error_that_lists_those_with(runs):
    runs.add("ld4mrec", 1)
    with pytest.raises(StoreError, match=r"no runs of mgcn.*There are runs of ld4mrec.*bench run"):
        select(runs, models=["mgcn"])


def test_no_runs_and_no_such_seed_are_errors(runs):
    with pytest.raises(StoreError, match=r"Dataset toy has no runs.*bench run --datasets toy --models ld4mrec"):
        select(runs)
    runs.add("ld4mrec", 1)
    with pytest.raises(StoreError, match="no runs with seeds 7, 9"):
        select(runs, seeds=[7, 9])


def test_different_versions_machines_and_commits_are_warned_of(runs):
    runs.add("ld4mrec", 1)
    assert mixed_conditions(select(runs)) == []
    changes = {"environment": {"packages": {"torch": "2.6.0"}, "cpu": "Other CPU"}, "git": {"commit": "fedcba98"}}
    runs.add("lightgcn", 1, changes=changes)
    versions, machines, commits = mixed_conditions(select(runs))
    assert "torch 2.13.0 / 2.6.0" in versions
    assert "Other CPU / Test CPU" in machines
    assert "Do not compare their times" in machines
    assert "01234567, fedcba98" in commits


def test_training_that_ended_at_the_limit_of_epochs_is_warned_of(runs):
    for seed in (1, 2):
        runs.add("ld4mrec", seed)
        runs.add("ease", seed, closed_form=True)
    assert cut_short(select(runs)) == []
    for seed in (1, 2):
        runs.add("lightgcn", seed, changes={"training": {"stopped": "max_epochs"}})
    (line,) = cut_short(select(runs))
    assert line.startswith("2 runs ended at the limit of 1,000 epochs, not because 20 evaluations brought no gain")
    assert "lightgcn (seeds 1, 2)" in line
    assert "ld4mrec" not in line


def test_the_frame_of_runs_has_every_run_and_every_cell_never_begun(runs):
    runs.add("lightgcn", 1, changes={"protocol": {"training": {"patience": 5}}})
    runs.add("ld4mrec", 1)
    runs.add("ld4mrec", 2)
    runs.add_failed("lightgcn", 1)
    frame = runs_frame(select(runs)).set_index(["model", "seed", "included"])
    assert len(frame) == 5
    assert frame.loc[("lightgcn", 2, True), "status"] == "missing"
    failed = frame.loc[("lightgcn", 1, True)]
    assert (failed["status"], failed["error"], failed["error_epoch"]) == ("failed", "the loss is nan", 3)
    assert frame.loc[("lightgcn", 1, False), "reason_left_out"] == "another protocol"
