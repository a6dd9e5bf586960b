import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analysis.report import build_report
from bench.errors import StoreError, UsageError
from bench.experiments.store import RunStore

CSV = {"accuracy", "efficiency", "runs", "summary", "comparisons"}


@pytest.fixture
def grid(runs, make_users):
    """Five seeds of five models on 120 users: one failed once, one always for want of memory, one closed form."""
    rng = np.random.default_rng(0)
    ability = rng.beta(1, 4, 120)
    fixed = rng.binomial(5, ability) / 5
    for label, factor in {"ld4mrec": 1.3, "diffrec": 1.2, "lightgcn": 1.0}.items():
        for seed in range(1, 6):
            chance = np.clip(ability * factor, 0, 1)
            runs.add(label, seed, make_users(rng.binomial(5, chance) / 5), valid=0.2 * factor + 0.001 * seed)
    for seed in range(1, 6):
        runs.add("popularity", seed, make_users(fixed), valid=0.1, closed_form=True)
        runs.add_failed("mgcn", seed, "OOM")
        if seed == 2:
            runs.add_failed("vbpr", seed)
        else:
            runs.add("vbpr", seed, make_users(fixed), valid=0.9, changes={"cost": None})
    return runs


def rows_of(markdown: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, its header first."""
    part = markdown.split(f"\n## {heading}", 1)[1]
    table = next(block for block in part.split("\n\n") if block.startswith("|"))
    lines = [line for line in table.splitlines() if ":--" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def all_tables(markdown: str) -> list[str]:
    return [line for line in markdown.splitlines() if line.startswith("|")]


def test_every_model_is_in_the_table_and_a_failed_one_says_so(grid):
    report = build_report(grid.store, "toy", pvalues=True)
    rows = {row[1]: row for row in rows_of(report.markdown, "Accuracy")}
    assert list(rows) == [
        "Model",
        "lightgcn",
        "mgcn",
        "popularity",
        "vbpr",
        "diffrec",
        "ld4mrec",
        "ld4mrec against diffrec",
    ]
    assert rows["mgcn"][2:] == ["0 of 5", "OOM", "OOM", "OOM", "OOM"]
    assert rows["vbpr"][2] == "4 of 5"
    assert re.fullmatch(r"(\*\*|<u>)?0\.\d{4} ± 0\.\d{4}(\*\*|</u>)?", rows["ld4mrec"][4])
    assert rows["Model"][3:] == ["Recall@10 ↑", "Recall@20 ↑", "NDCG@10 ↑", "NDCG@20 ↑"]


def test_no_cell_is_empty(grid):
    for pvalues in (True, False):
        for line in all_tables(build_report(grid.store, "toy", pvalues=pvalues).markdown):
            assert not re.search(r"\|\s*\|", line), line
            assert "nan" not in line.lower().replace("is nan", "")
            assert "None" not in line


def test_tables_line_up_as_plain_text(grid):
    lines = build_report(grid.store, "toy", pvalues=True).markdown.splitlines()
    for above, below in pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert len(above) == len(below)


def test_the_failures_are_listed_with_their_reasons(grid):
    report = build_report(grid.store, "toy")
    rows = rows_of(report.markdown, "Runs that did not finish")
    assert ["mgcn", "1-5", "failed", "epoch 3, step 17", "OOM: the loss is nan"] in rows
    assert ["vbpr", "2", "failed", "epoch 3, step 17", "TrainingError: the loss is nan"] in rows


def test_the_best_is_bold_on_unrounded_means(runs):
    for label, value in {"lightgcn": 0.20004, "vbpr": 0.20003, "diffrec": 0.20003, "ld4mrec": 0.1}.items():
        runs.add_model(label, [value, value])
    table = build_report(runs.store, "toy").accuracy
    column = table.columns.index("Recall@20 ↑")
    cells = {row[1].text: row[column] for row in table.rows[:4]}
    assert {cell.text for label, cell in cells.items() if label != "ld4mrec"} == {"0.2000 ± 0.0000"}
    places = {label: cell.rank for label, cell in cells.items()}
    assert places == {"lightgcn": 1, "vbpr": 2, "diffrec": 2, "ld4mrec": None}


def test_the_strongest_baseline_comes_from_validation_and_is_named(grid):
    report = build_report(grid.store, "toy", pvalues=True)
    # vbpr has the highest validation value but lacks a seed.
    assert report.baseline == "diffrec"
    assert "strongest baseline is diffrec" in report.markdown
    assert report.headline[0].startswith("Recall@20 of ld4mrec against diffrec")
    assert "after Holm over 3 comparisons" in report.headline[0]
    change = report.accuracy.rows[-1]
    assert re.fullmatch(r"[+-]\d+\.\d\d % \[[+-]\d+\.\d\d, [+-]\d+\.\d\d\] %", change[4].text)


def test_five_seeds_cannot_reach_alpha_and_the_report_says_it(grid):
    text = build_report(grid.store, "toy", pvalues=True).markdown
    assert "smallest p that any sign-based test (sign-flip, Wilcoxon) can give is 0.0625" in text
    assert "cannot reach 0.05" in text
    assert "not significant" not in text
    assert "with 4 degrees of freedom" in text
    over_seeds, over_users = build_report(grid.store, "toy", pvalues=True).remarks
    assert "vbpr: left out: seed 2 failed." in over_seeds
    assert any("cannot reach 0.05" in line for line in over_seeds)
    assert any("retraining" in line for line in over_users)
    assert "says nothing about retraining" in text


def test_three_seeds_name_their_floor_and_freedom(runs):
    rng = np.random.default_rng(3)
    for label in ("ld4mrec", "lightgcn"):
        runs.add_model(label, rng.normal(0.2, 0.01, 3))
    text = build_report(runs.store, "toy", pvalues=True).markdown
    assert "can give is 0.250" in text
    assert "it needs 6 seeds" in text
    assert "2 degrees of freedom" in text


def test_ten_seeds_leave_room(runs):
    rng = np.random.default_rng(3)
    for label in ("ld4mrec", "lightgcn"):
        runs.add_model(label, rng.normal(0.2, 0.01, 10))
    text = build_report(runs.store, "toy", pvalues=True).markdown
    assert "leaves room for 0.05" in text
    assert "cannot reach" not in text


def test_captions_state_how_it_was_tested(grid):
    report = build_report(grid.store, "toy", pvalues=True, alpha=0.01)
    for table, draws in zip(report.comparisons, ("all sign patterns", "9,999 draws"), strict=True):
        for part in ("two-sided", "paired t", draws, "Holm over", "alpha = 0.01", "95 %"):
            assert part in table.caption
    for part in ("over 5 seeds (seeds 1-5)", "unrounded means", "training items masked", "validation Recall@20"):
        assert part in report.accuracy.caption


@pytest.mark.parametrize(
    ("cold_users", "averaged"),
    [("drop", "plain mean over users with both test and training items."), ("keep", "plain mean over all users with")],
)
def test_the_caption_says_whether_users_without_training_items_count(runs, cold_users, averaged):
    for label in ("ld4mrec", "lightgcn"):
        runs.add(label, 1, changes={"protocol": {"evaluation": {"cold_users": cold_users}}})
    assert averaged in build_report(runs.store, "toy").accuracy.caption


def test_disagreement_of_tests_is_printed(runs):
    # One outlier widens the t interval; all signs agree, so the sign-flip test is at its floor.
    values = [0.2 + 0.0001 * i for i in range(1, 10)]
    runs.add_model("lightgcn", [0.2 - 0.00001 * i for i in range(10)])
    runs.add_model("ld4mrec", [*values, 0.9])
    text = build_report(runs.store, "toy", pvalues=True).markdown
    assert "the t test and the sign-flip test disagree at 0.05" in text


def test_without_pvalues_intervals_stay_and_tests_are_absent(grid):
    report = build_report(grid.store, "toy")
    assert "p (t)" not in report.markdown
    assert "95 % interval, relative" in report.markdown
    assert "p_t" not in report.frames["comparisons"].columns


def test_costs_have_words_where_there_is_no_number(grid):
    rows = {row[0]: row for row in rows_of(build_report(grid.store, "toy").markdown, "Cost")}
    assert rows["popularity"][1] == "closed form"
    assert rows["vbpr"][1] == rows["vbpr"][4] == "not timed (ran side by side)"
    assert rows["mgcn"][1] == "OOM"
    assert "[0.200, 0.220]" in rows["ld4mrec"][1]
    assert "Test CPU, 2 threads" in build_report(grid.store, "toy").markdown


def test_gpu_memory_has_a_column_only_where_a_gpu_was_used(runs):
    runs.add("ld4mrec", 1)
    assert not any("GPU" in column for column in build_report(runs.store, "toy").cost.columns)
    runs.add("lightgcn", 1, changes={"cost": {"peak_device_bytes": 2**30}})
    table = build_report(runs.store, "toy").cost
    assert table.rows[0][table.columns.index("Peak GPU memory, MiB ↓")].text == "1,020"


def test_an_estimated_training_time_is_marked(runs):
    runs.add("ld4mrec", 1, changes={"cost": {"source": "timing pass", "fit_s": None}})
    table = build_report(runs.store, "toy").cost
    assert table.rows[0][2].text == "≈ 12.0"
    assert "≈" in table.caption


def test_hyperparameters_say_where_they_come_from(runs):
    changes = {"preset": {"embedding_dim": 64}, "overrides": {"n_layers": 2}}
    runs.add("ld4mrec", 1, changes=changes)
    rows = rows_of(build_report(runs.store, "toy").markdown, "Hyper-parameters")
    assert ["ld4mrec", "n_layers=2", "embedding_dim=64", "none"] in rows


def test_other_runs_and_other_protocols_are_noted(runs):
    runs.add("lightgcn", 1, changes={"protocol": {"training": {"patience": 5}}})
    runs.add("ld4mrec", 1)
    text = build_report(runs.store, "toy").markdown
    assert "Not in this report: 1 run left out, another protocol (training.patience=5): lightgcn (seed 1)." in text


def test_choosing_the_epoch_on_test_is_warned_of(runs):
    runs.add("ld4mrec", 1, changes={"protocol": {"evaluation": {"name": "diffmm", "select_on": "test"}}})
    report = build_report(runs.store, "toy")
    assert any("TEST split" in line for line in report.warnings)
    assert "Warning: The protocol 'diffmm'" in report.markdown


def test_the_commands_run_it_again(runs):
    runs.add("ld4mrec", 7)
    overridden = {"overrides": {"n_layers": 4, "sizes": [1, 2]}, "model": {"name": "lightgcn"}}
    runs.add("lightgcn[n_layers=4]", 7, changes=overridden)
    text = build_report(runs.store, "toy", pvalues=True).markdown
    # A bare 7 would mean seven seeds.
    assert "bench run --models ld4mrec --datasets toy --seeds 7, --evaluation mmrec" in text
    assert "--set lightgcn.n_layers=4 --set 'lightgcn.sizes=[1, 2]'" in text
    assert "bench report --datasets toy --reference ld4mrec --metric recall@20 --pvalues" in text


def test_without_a_reference_the_tables_stand_and_p_values_are_refused(runs):
    runs.add("lightgcn", 1)
    report = build_report(runs.store, "toy")
    assert "no runs of the reference model ld4mrec" in report.markdown
    assert report.comparisons == ()
    with pytest.raises(StoreError, match=r"no runs of 'ld4mrec'.*--reference: lightgcn"):
        build_report(runs.store, "toy", pvalues=True)


def test_a_dataset_on_which_all_failed_still_has_a_report(runs):
    runs.add_failed("ld4mrec", 1)
    runs.add_failed("lightgcn", 1)
    report = build_report(runs.store, "toy", pvalues=True)
    assert {cell.text for row in report.accuracy.rows for cell in row[3:]} == {"failed"}
    assert "nothing is compared" in report.markdown


def test_an_interrupted_run_is_shown_as_such(runs):
    runs.add("lightgcn", 1)
    unfinished = {"status": "running", "=metrics": {}, "training": None, "cost": None}
    runs.add("ld4mrec", 1, changes=unfinished)
    report = build_report(runs.store, "toy")
    running, change = report.accuracy.rows[-2:]
    assert running[3].text == "running"
    assert change[3].text == "not compared"
    assert report.failures is not None
    assert "interrupted" in report.failures.rows[0][4].text


@pytest.mark.parametrize("metric", ["recal@20", "coverage@20"])
def test_a_metric_that_no_user_has_is_refused(runs, metric):
    runs.add("ld4mrec", 1)
    with pytest.raises(UsageError, match=f"Unknown metric '{metric}'"):
        build_report(runs.store, "toy", metric=metric)


def test_a_primary_metric_beyond_the_usual_gets_a_column(runs):
    runs.add_model("ld4mrec", [0.1, 0.2])
    runs.add_model("lightgcn", [0.1, 0.15])
    report = build_report(runs.store, "toy", metric="hit@10", pvalues=True)
    assert "Hit@10 ↑" in report.accuracy.columns
    assert report.comparisons[0].caption.startswith("Hit@10 on test")


def test_files_hold_the_raw_frames(grid, tmp_path: Path):
    report = build_report(grid.store, "toy", pvalues=True)
    written = report.write(tmp_path / "out")
    assert {path.name for path in written} == {"report.md", *(f"{name}.csv" for name in CSV)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in written}
    accuracy = pd.read_csv(tmp_path / "out" / "accuracy.csv")
    pd.testing.assert_frame_equal(accuracy, report.frames["accuracy"].astype(accuracy.dtypes), check_exact=True)
    comparisons = pd.read_csv(tmp_path / "out" / "comparisons.csv")
    assert {"p_t", "p_t_holm", "floor", "ci_low", "n"} <= set(comparisons.columns)
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8") == report.markdown


def test_a_report_is_the_same_when_built_again(grid):
    first, second = (build_report(grid.store, "toy", pvalues=True) for _ in range(2))
    assert first.markdown == second.markdown


def test_a_folder_that_cannot_be_written_is_a_clear_error(runs, tmp_path: Path):
    runs.add("ld4mrec", 1)
    report = build_report(runs.store, "toy")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot be written.*name another results folder"):
        report.write(tmp_path / "file")


def test_a_refused_write_leaves_the_old_file_and_no_partial_one(runs, tmp_path: Path, monkeypatch):
    runs.add("ld4mrec", 1)
    report = build_report(runs.store, "toy")
    report.write(tmp_path / "out")
    before = (tmp_path / "out" / "accuracy.csv").read_bytes()

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        report.write(tmp_path / "out")
    assert (tmp_path / "out" / "accuracy.csv").read_bytes() == before
    assert not list((tmp_path / "out").glob("*.partial"))


def test_no_runs_is_a_clear_error(tmp_path: Path):
    with pytest.raises(StoreError, match="has no runs"):
        build_report(RunStore(tmp_path), "toy")


def test_the_columns_that_the_terminal_keeps_are_there(grid):
    tables = pytest.importorskip("bench.cli.tables")
    for table in build_report(grid.store, "toy", pvalues=True).comparisons:
        assert set(tables.COMPARISON_COLUMNS) <= set(table.columns)
