import json
import math
import statistics

import pytest

from bench.analysis.reference import Reference, load_reference, reference_from_runs, save_reference
from bench.analysis.regression import compare, quality_margin
from bench.analysis.selection import select_runs
from bench.errors import StoreError

MEANS = [0.20, 0.21, 0.22]


def observe(runs, calibration_s: float = 0.1) -> Reference:
    return reference_from_runs(select_runs(runs.records(), "toy", reference="ld4mrec"), calibration_s)


@pytest.fixture
def stored(runs) -> Reference:
    runs.add_model("ld4mrec", MEANS)
    runs.add_model("popularity", [0.1] * 3, closed_form=True)
    return observe(runs)


def changed(reference: Reference, label: str, shift: float = 0.0, cost: float = 1.0, n: int = 3) -> Reference:
    """Return a reference whose model has its metrics shifted and its cost multiplied."""
    content = reference.model_dump()
    model = content["models"][label]
    model["seeds"] = model["seeds"][:n]
    model["metrics"] = {name: [value + shift for value in values[:n]] for name, values in model["metrics"].items()}
    model["mean"] = {name: statistics.fmean(values) for name, values in model["metrics"].items()}
    model["std"] = {name: statistics.stdev(values) if n > 1 else 0.0 for name, values in model["metrics"].items()}
    model["cost"] = {name: value * cost for name, value in model["cost"].items()}
    return Reference.model_validate(content)


def verdicts(movements, label: str) -> dict[str, str]:
    return {movement.quantity: movement.verdict for movement in movements if movement.model == label}


def test_runs_become_a_reference(stored):
    model = stored.models["ld4mrec"]
    assert model.seeds == [1, 2, 3]
    assert model.metrics["recall@20"] == pytest.approx(MEANS)
    assert model.mean["recall@20"] == pytest.approx(0.21)
    assert model.std["recall@20"] == pytest.approx(0.01)
    assert model.cost == {"epoch_s": pytest.approx(2.1), "inference_s": pytest.approx(0.2)}
    closed = stored.models["popularity"]
    assert closed.closed_form
    assert closed.cost == {"fit_s": pytest.approx(5.0), "inference_s": pytest.approx(0.2)}
    assert stored.versions == {"python": "3.11.7", "torch": "2.13.0"}


def test_a_failed_model_is_not_in_a_reference_and_shows_as_missing(stored, runs):
    for seed in (1, 2, 3):
        runs.add_failed("ld4mrec", seed)
    observed = observe(runs)
    assert list(observed.models) == ["popularity"]
    movements = compare(stored, observed)
    assert set(verdicts(movements, "ld4mrec").values()) == {"missing"}
    assert set(verdicts(movements, "popularity").values()) == {"ok"}


def test_a_reference_survives_its_file(stored, tmp_path):
    path = tmp_path / "reference" / "toy.json"
    save_reference(stored, path)
    assert load_reference(path) == stored
    assert json.loads(path.read_text())["models"]["ld4mrec"]["seeds"] == [1, 2, 3]
    assert path.read_text().endswith("}\n")


def test_the_same_results_are_ok(stored):
    movements = compare(stored, stored)
    assert {movement.verdict for movement in movements} == {"ok"}
    assert len(movements) == 2 * (4 + 2)


def test_the_margin_is_three_standard_errors_of_the_difference(stored):
    # s = 0.01, three seeds against three: 3 x 0.01 x sqrt(2/3).
    assert quality_margin(stored.models["ld4mrec"], "recall@20", 3) == pytest.approx(0.03 * math.sqrt(2 / 3))
    assert quality_margin(stored.models["ld4mrec"], "recall@20", 1) == pytest.approx(0.03 * math.sqrt(4 / 3))


@pytest.mark.parametrize(("shift", "verdict"), [(0.02, "ok"), (-0.02, "ok"), (0.03, "moved"), (-0.03, "moved")])
def test_quality_is_judged_on_both_sides_by_the_seeds_spread(stored, shift, verdict):
    movements = compare(stored, changed(stored, "ld4mrec", shift))
    assert verdicts(movements, "ld4mrec")["recall@20"] == verdict
    moved = next(m for m in movements if m.model == "ld4mrec" and m.quantity == "recall@20")
    assert (moved.note == "better than stored") == (shift == 0.03)
    assert moved.low < moved.stored < moved.high


def test_less_than_one_percent_is_no_movement_however_small_the_spread(runs):
    runs.add_model("ld4mrec", [0.2000, 0.2001, 0.2002])
    stored = observe(runs)
    assert verdicts(compare(stored, changed(stored, "ld4mrec", 0.0019)), "ld4mrec")["recall@20"] == "ok"
    assert verdicts(compare(stored, changed(stored, "ld4mrec", 0.0021)), "ld4mrec")["recall@20"] == "moved"


@pytest.mark.parametrize(("shift", "verdict"), [(1e-8, "ok"), (0.0001, "ok"), (0.0005, "moved"), (-0.0005, "moved")])
def test_a_closed_form_is_held_to_a_few_users(stored, shift, verdict):
    assert verdicts(compare(stored, changed(stored, "popularity", shift)), "popularity")["recall@20"] == verdict


@pytest.mark.parametrize(("factor", "verdict", "note"), [(2.4, "ok", ""), (2.6, "moved", ""), (0.1, "ok", "faster")])
def test_cost_may_fall_but_not_grow(stored, factor, verdict, note):
    movements = compare(stored, changed(stored, "ld4mrec", cost=factor))
    assert verdicts(movements, "ld4mrec")["epoch_s"] == verdict
    cost = next(m for m in movements if m.quantity == "epoch_s")
    assert (note in cost.note) if note else cost.note == ""
    assert (cost.low, cost.high) == (0.0, pytest.approx(2.1 * 2.5))


def test_another_cost_factor(stored):
    assert verdicts(compare(stored, changed(stored, "ld4mrec", cost=2.6), cost_factor=3), "ld4mrec")["epoch_s"] == "ok"


def test_new_and_missing_quantities_are_named(stored):
    content = stored.model_dump()
    content["models"]["lightgcn"] = content["models"].pop("popularity")
    del content["models"]["ld4mrec"]["cost"]["epoch_s"]
    for part in ("metrics", "mean", "std"):
        content["models"]["ld4mrec"][part]["hit@10"] = content["models"]["ld4mrec"][part].pop("ndcg@10")
    movements = compare(stored, Reference.model_validate(content))
    assert set(verdicts(movements, "popularity").values()) == {"missing"}
    assert set(verdicts(movements, "lightgcn").values()) == {"new"}
    found = verdicts(movements, "ld4mrec")
    assert (found["epoch_s"], found["ndcg@10"], found["hit@10"]) == ("missing", "missing", "new")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": "0" * 64}, "fingerprint ffffffffffff"),
        ({"dataset": "ml-100k"}, "they were made on toy"),
        ({"protocol": {"training": {"patience": 5}}}, "training.patience: stored 20, now 5"),
    ],
)
def test_other_data_and_protocols_are_not_comparable(stored, change, words):
    other = Reference.model_validate({**stored.model_dump(), **change})
    with pytest.raises(StoreError, match="cannot be compared") as error:
        compare(stored, other)
    assert words in str(error.value)
    assert "bench check --update" in str(error.value)


def test_other_hyperparameters_are_not_comparable(stored):
    content = stored.model_dump()
    content["models"]["ld4mrec"]["hyperparameters"] = {"embedding_dim": 32, "dropout": 0.1}
    with pytest.raises(StoreError) as error:
        compare(stored, Reference.model_validate(content))
    text = "ld4mrec (dropout: stored absent, now 0.1, embedding_dim: stored 64, now 32, n_layers: stored 2, now absent)"
    assert text in str(error.value)


def test_tuples_and_lists_of_hyperparameters_are_the_same(runs):
    runs.add_model("ld4mrec", MEANS, changes={"hyperparameters": {"hidden_dims": [200, 600]}})
    stored = observe(runs)
    assert compare(stored, Reference.model_validate_json(stored.model_dump_json()))


def test_a_single_seed_of_a_trained_model_is_no_reference(runs, tmp_path):
    runs.add_model("ld4mrec", [0.2])
    with pytest.raises(StoreError, match="at least two seeds.*ld4mrec has one"):
        save_reference(observe(runs), tmp_path / "toy.json")
    assert not (tmp_path / "toy.json").exists()


def test_a_single_new_seed_can_be_checked(stored):
    movements = compare(stored, changed(stored, "ld4mrec", n=1))
    assert verdicts(movements, "ld4mrec")["recall@20"] == "ok"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c["models"]["ld4mrec"]["mean"].update({"recall@20": 0.9}), "mean of recall@20 is 0.9"),
        (lambda c: c["models"]["ld4mrec"]["metrics"]["recall@20"].pop(), "2 values for 3 seeds"),
        (lambda c: c.update(typo=1), "typo"),
        (lambda c: c.pop("fingerprint"), "fingerprint"),
        (lambda c: c.update(schema_version=99), "schema version 99"),
    ],
)
def test_a_file_edited_by_hand_is_refused(stored, tmp_path, edit, words):
    path = tmp_path / "toy.json"
    save_reference(stored, path)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError) as error:
        load_reference(path)
    assert words in str(error.value)
    assert "--update" in str(error.value)


def test_no_file_and_no_json_are_clear_errors(tmp_path):
    with pytest.raises(StoreError, match=r"no stored results at .*bench check --update"):
        load_reference(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(StoreError, match="not a readable reference"):
        load_reference(tmp_path / "bad.json")


def test_a_calibration_without_time_is_refused(runs):
    runs.add_model("ld4mrec", MEANS)
    with pytest.raises(ValueError, match="positive calibration"):
        observe(runs, 0.0)
