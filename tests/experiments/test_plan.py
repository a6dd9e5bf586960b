import dataclasses

import pytest

from bench.errors import UsageError
from bench.experiments.plan import configure, make_plan, protocol_of
from bench.experiments.provenance import source_hash
from bench.experiments.seeds import parse_seeds
from bench.experiments.store import RunStore
from bench.models import REGISTRY, find_model

PROTOCOL = protocol_of("mmrec", max_epochs=3, patience=2)


@pytest.mark.parametrize(
    ("text", "expected"), [("3", [1, 2, 3]), ("1,2,5", [1, 2, 5]), ("7,", [7]), (" 2 , 4 ", [2, 4])]
)
def test_seeds_are_a_count_or_a_list(text, expected):
    assert parse_seeds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "x", "1,1", "-1,2", "1.5"])
def test_other_seeds_are_refused(text):
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


def test_the_protocol_hands_the_tie_rule_to_training():
    assert protocol_of("recbole", max_epochs=5, patience=3)["training"]["ties"] == "last"
    assert PROTOCOL["training"] == {"max_epochs": 3, "patience": 2, "monitor": "recall@20", "ties": "first"}


def test_labels_show_the_users_changes_only():
    plain, changed = configure(
        ["popularity", "lightgcn"], ["lightgcn.n_layers=1", "lightgcn.learning_rate=0.25"], "none"
    )
    assert plain.label == "popularity"
    assert changed.label == "lightgcn[learning_rate=0.25,n_layers=1]"
    (same,) = configure(["lightgcn"], [f"lightgcn.n_layers={plain_default('lightgcn', 'n_layers')}"], "none")
    assert same.label == "lightgcn"
    assert same.overrides == {}


def plain_default(model, name):
    (configuration,) = configure([model], [], "none")
    return configuration.hyperparameters[name]


@pytest.mark.parametrize(
    ("models", "settings", "words"),
    [
        (["lightgnc"], [], "Unknown model 'lightgnc'. Did you mean lightgcn"),
        (["lightgcn", "LightGCN"], [], "named more than once"),
        (["lightgcn"], ["lightgcn.layers=2"], "Unknown hyper-parameter of lightgcn"),
        (["lightgcn"], ["lightgcn.n_layers=x"], "expected an integer"),
        (["lightgcn"], ["diffrec.batch_size=2"], "is for a model that is not run"),
        (["lightgcn"], ["n_layers=2"], "--set expects"),
    ],
)
def test_every_cell_is_validated_before_any_trains(models, settings, words):
    with pytest.raises(UsageError, match=words):
        configure(models, settings, "none")


def test_a_plan_goes_seed_by_seed_with_one_key_each(toy, tmp_path):
    cells = make_plan([toy], ["popularity", "ease"], [1, 2], PROTOCOL, RunStore(tmp_path))
    assert [(cell.seed, cell.configuration.label) for cell in cells] == [
        (1, "popularity"),
        (1, "ease"),
        (2, "popularity"),
        (2, "ease"),
    ]
    assert len({cell.key for cell in cells}) == 4
    assert {cell.state for cell in cells} == {"new"}


def test_other_data_protocol_or_settings_are_other_runs(toy, tmp_path):
    def key(dataset=toy, protocol=PROTOCOL, settings=()):
        (cell,) = make_plan([dataset], ["ease"], [1], protocol, RunStore(tmp_path), settings=settings)
        return cell.key

    others = [
        key(dataset=dataclasses.replace(toy, fingerprint="0" * 64)),
        key(protocol=protocol_of("mmrec", max_epochs=4, patience=2)),
        key(protocol=protocol_of("diffmm", max_epochs=3, patience=2)),
        key(settings=["ease.reg_weight=7.0"]),
    ]
    assert key() == key()
    assert len({key(), *others}) == 5


def test_a_multimedia_model_needs_features(toy, tmp_path):
    toy = dataclasses.replace(toy, features={})
    with pytest.raises(UsageError, match="ld4mrec needs item features, but dataset toy has none"):
        make_plan([toy], ["ld4mrec"], [1], PROTOCOL, RunStore(tmp_path))


def test_a_models_source_is_part_of_its_identity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_plan.py").write_text("import mine_plan_part\n")
    (tmp_path / "mine_plan_part.py").write_text("X = 1\n")
    spec = find_model("mine_plan:Model")
    before = source_hash(spec)
    assert source_hash(spec) == before
    (tmp_path / "mine_plan.py").write_text("import mine_plan_part\nY = 2\n")
    assert source_hash(spec) != before


def test_a_shared_part_of_the_models_counts_too():
    modules = {spec.reference.partition(":")[0] for spec in REGISTRY.values()}
    assert len({source_hash(spec) for spec in REGISTRY.values()}) == len(modules)
