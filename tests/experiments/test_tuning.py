"""The search is fair, looks at validation only, goes on where it stopped, and its presets are taken up."""

import json
import tomllib

import pandas as pd
import pytest
import torch

import bench.experiments.tuning as tuning_module
from bench.cli import main
from bench.errors import StoreError, UsageError
from bench.experiments.plan import configure, protocol_of
from bench.experiments.search import search_space, settings_to_try
from bench.experiments.tuning import Budget, Tuning
from bench.models import REGISTRY, ModelSpec, find_model, load_class, load_presets

CPU = torch.device("cpu")
QUICK = protocol_of("mmrec", max_epochs=2, patience=20)


@pytest.fixture
def tuning(toy, tmp_path):
    lines: list[str] = []
    made = Tuning(toy, tmp_path, QUICK, CPU, lines.append)
    made.lines = lines
    return made


@pytest.mark.parametrize("name", REGISTRY)
def test_every_search_space_fits_its_constructor(name):
    space = search_space(REGISTRY[name])
    assert all(len(values) == len(set(values)) for values in space.values())
    assert space or name in ("popularity",)


def test_settings_are_different_begin_with_the_defaults_and_continue_a_smaller_budget():
    spec = find_model("lightgcn")
    few, many = settings_to_try(spec, 5), settings_to_try(spec, 12)
    assert few[0] == {}
    assert many[:5] == few
    assert len({tuple(sorted(setting.items())) for setting in many}) == 12
    defaults = {"n_layers": 3, "learning_rate": 1e-3, "reg_weight": 1e-4}
    assert all(value != defaults[name] for setting in many for name, value in setting.items())


def test_what_is_fixed_is_in_every_setting_and_takes_its_name_out_of_the_search():
    spec = find_model("lightgcn")
    outside = settings_to_try(spec, 12, {"embedding_dim": 32})
    assert outside == [{"embedding_dim": 32} | setting for setting in settings_to_try(spec, 12)]
    pinned = settings_to_try(spec, 12, {"n_layers": 2})
    assert pinned[0] == {"n_layers": 2}
    assert {setting["n_layers"] for setting in pinned} == {2}
    assert len({tuple(sorted(setting.items())) for setting in pinned}) == 12
    by_default = settings_to_try(spec, 12, {"n_layers": 3})
    assert not any("n_layers" in setting for setting in by_default)
    with pytest.raises(UsageError, match="expected an integer >= 1, found -1"):
        settings_to_try(spec, 12, {"n_layers": -1})


def test_a_small_space_is_searched_in_full():
    tried = settings_to_try(find_model("ease"), 100)
    assert sorted(setting.get("reg_weight", 200.0) for setting in tried) == sorted(
        load_class(find_model("ease")).search_space["reg_weight"]
    )
    assert settings_to_try(find_model("popularity"), 100) == [{}]


def test_a_space_with_an_unknown_name_or_value_is_refused(monkeypatch):
    cls = load_class(find_model("ease"))
    monkeypatch.setattr(cls, "search_space", {"reg_wait": (1.0,)})
    with pytest.raises(UsageError, match=r"search space of ease 'reg_wait'. Did you mean reg_weight\?"):
        search_space(find_model("ease"))
    monkeypatch.setattr(cls, "search_space", {"reg_weight": (-1.0,)})
    with pytest.raises(UsageError, match="search space ease.reg_weight: expected a number > 0"):
        search_space(find_model("ease"))


def test_the_best_mean_over_the_seeds_wins(tuning, monkeypatch):
    # Values by setting and seed: 50 is best with the first seed only.
    values = {20.0: (0.5, 0.5, 0.5), 50.0: (0.6, 0.2, 0.2), 100.0: (0.55, 0.54, 0.53), 200.0: (0.1, 0.9, 0.9)}
    monkeypatch.setattr(load_class(find_model("ease")), "search_space", {"reg_weight": tuple(values)})

    def train(self, cell):
        value = values[cell.configuration.hyperparameters["reg_weight"]][cell.seed - 11]
        return {"valid": value, "best_epoch": 0, "epochs": 0, "error": None, "seconds": 0.0}

    monkeypatch.setattr(Tuning, "_train", train)
    winner = tuning.search(find_model("ease"), Budget(settings=16, finalists=3))
    assert winner.changed == {"reg_weight": 100.0}
    assert winner.scores == (0.55, 0.54, 0.53)
    assert winner.n_trials == 4 + 3 * 2
    made = {(trial.changed.get("reg_weight", 200.0), trial.seed) for trial in tuning.trials()}
    assert made == {(weight, seed) for weight in (20.0, 50.0, 100.0) for seed in (11, 12, 13)} | {(200.0, 11)}


def test_a_search_goes_on_where_it_stopped(tuning, monkeypatch):
    budget = Budget(settings=2, finalists=1, seeds=(11, 12))
    first = tuning.search(find_model("lightgcn"), budget)
    assert not any("made before" in line for line in tuning.lines)
    monkeypatch.setattr(Tuning, "_train", lambda self, cell: pytest.fail("trained again"))
    again = tuning.search(find_model("lightgcn"), budget)
    assert again == first
    assert sum("made before" in line for line in tuning.lines) == 3


def test_test_is_never_looked_at(tuning, toy, monkeypatch):
    asked: list[str] = []
    matrix = type(toy).matrix

    def watched(self, part):
        asked.append(part)
        return matrix(self, part)

    monkeypatch.setattr(type(toy), "matrix", watched)
    tuning.search(find_model("mf-bpr"), Budget(settings=1, finalists=1, seeds=(11,)))
    assert set(asked) == {"train", "valid"}


def test_a_failing_setting_loses_and_does_not_end_the_search(tuning, monkeypatch):
    build = tuning_module.build_model

    def fragile(cell, dataset, device):
        if cell.configuration.hyperparameters["reg_weight"] == 200.0:
            raise MemoryError("too large")
        return build(cell, dataset, device)

    monkeypatch.setattr(tuning_module, "build_model", fragile)
    winner = tuning.search(find_model("ease"), Budget(settings=3, finalists=1, seeds=(11,)))
    assert winner.changed
    assert "FAILED, OOM: too large" in tuning.lines[0]
    monkeypatch.setattr(load_class(find_model("ease")), "search_space", {})
    assert tuning.search(find_model("ease"), Budget(settings=1, finalists=1, seeds=(11,))) is None


def test_an_unreadable_trial_is_named(tuning):
    tuning.search(find_model("popularity"), Budget(settings=1, finalists=1, seeds=(11,)))
    (path,) = tuning.folder.glob("*.json")
    path.write_text("{")
    with pytest.raises(StoreError, match="is not a readable trial"):
        list(tuning.trials())


def test_the_command_writes_presets_that_run_takes_up(in_empty_folder, capsys):
    arguments = [
        "tune",
        "--dataset",
        "toy",
        "--settings",
        "3",
        "--finalists",
        "2",
        "--seeds",
        "11,12",
        "--max-epochs",
        "2",
    ]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--models", "ease,lightgcn", "--json"])
    assert not ended.value.code
    found = {each["model"]: each for each in json.loads(capsys.readouterr().out)}
    presets = load_presets("toy", in_empty_folder / "results")
    for model in ("ease", "lightgcn"):
        assert presets[model] == found[model]["changed"]
        assert found[model]["trials"] == 3 + 2
    text = (in_empty_folder / "results/toy/presets.toml").read_text()
    assert "# Chosen by bench tune on toy, on validation recall@20; test was never looked at." in text
    assert "5 trials: 3 settings with seed 11, the best 2 with the seeds 11, 12; patience 20" in text
    (configuration,) = configure(["ease"], [], "toy", results=in_empty_folder / "results")
    assert configuration.hyperparameters["reg_weight"] == found["ease"]["changed"].get("reg_weight", 200.0)
    table = (in_empty_folder / "results/toy/tuning/trials.csv").read_text().splitlines()
    assert len(table) == 1 + 10
    with pytest.raises(SystemExit):
        main([*arguments, "--models", "mf-bpr"])
    kept = load_presets("toy", in_empty_folder / "results")
    assert kept["ease"] == presets["ease"], "what was found for other models is kept"
    assert "mf-bpr" in kept


def test_the_command_fixes_what_is_set_and_says_so(in_empty_folder, capsys):
    budget = ["--settings", "3", "--finalists", "1", "--seeds", "11,", "--max-epochs", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--dataset", "toy", "--models", "lightgcn,ease", *budget, "--set", "lightgcn.n_layers=1"])
    assert not ended.value.code
    assert load_presets("toy", in_empty_folder / "results")["lightgcn"]["n_layers"] == 1
    of_lightgcn, of_ease = (in_empty_folder / "results/toy/presets.toml").read_text().split("[ease]")
    assert "at most 1 epochs; n_layers=1 was given." in of_lightgcn
    assert "was given" not in of_ease
    table = pd.read_csv(in_empty_folder / "results/toy/tuning/trials.csv")
    assert table.loc[table["model"] == "lightgcn", "setting"].str.contains("n_layers=1").all()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--dataset", "toy", "--models", "ease", *budget, "--set", "lightgcn.n_layers=1"])
    assert ended.value.code == 2
    assert "--set lightgcn.n_layers=1 is for a model that is not run." in capsys.readouterr().err


def test_a_search_that_is_stopped_leaves_what_it_has_found(in_empty_folder, monkeypatch, capsys):
    search = Tuning.search

    def stop_at_the_second(tuning, spec, *rest):
        if spec.name == "lightgcn":
            raise KeyboardInterrupt
        return search(tuning, spec, *rest)

    monkeypatch.setattr(Tuning, "search", stop_at_the_second)
    with pytest.raises(SystemExit):
        main(["tune", "--dataset", "toy", "--models", "ease,lightgcn", "--settings", "2", "--finalists", "1"])
    assert list(tomllib.loads((in_empty_folder / "results/toy/presets.toml").read_text())) == ["ease"]
    assert len((in_empty_folder / "results/toy/tuning/trials.csv").read_text().splitlines()) == 1 + 2 + 2


def test_a_number_of_seeds_is_refused_for_the_reports_use_them(in_empty_folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--dataset", "toy", "--models", "ease", "--seeds", "11"])
    assert ended.value.code == 2
    assert "a search takes a list of seeds that no report uses, such as 11,12,13" in capsys.readouterr().err


def test_presets_that_are_no_toml_are_named(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "presets.toml").write_text("[")
    with pytest.raises(UsageError, match="presets.toml are not valid TOML"):
        load_presets("toy", tmp_path)


def test_a_third_partys_model_without_a_space_is_tried_by_default():
    spec = ModelSpec("x", "baselines.popularity:Popularity", "third-party", "")
    assert settings_to_try(spec, 5) == [{}]
