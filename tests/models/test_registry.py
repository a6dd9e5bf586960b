from typing import Annotated, Literal

import pytest
from annotated_types import Gt, Interval
from torch import nn

from bench.errors import UsageError
from bench.models import (
    REGISTRY,
    Hyperparameter,
    find_model,
    hyperparameters_of,
    load_class,
    parse_setting,
    resolve_hyperparameters,
)


class Example(nn.Module):
    batching = "none"

    def __init__(
        self,
        interactions,
        features,
        *,
        n_layers: Annotated[int, Gt(0)] = 2,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.5,
        mode: Literal["a", "b"] = "a",
        hidden_dims: tuple[int, ...] = (200,),
        flag: bool = False,
    ):
        super().__init__()

    def score(self, users): ...


EXAMPLE = hyperparameters_of(Example)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lightgcn.n_layers=2", ("lightgcn", "n_layers", 2)),
        ("lightgcn.learning_rate = 1e-3", ("lightgcn", "learning_rate", 1e-3)),
        ("my.module:Model.flag=true", ("my.module:Model", "flag", True)),
        ("m.hidden_dims=[200, 600]", ("m", "hidden_dims", [200, 600])),
        ("m.mode=b", ("m", "mode", "b")),
    ],
)
def test_settings_are_read_with_their_types(text, expected):
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["lightgcn", "n_layers=2", "=2", "lightgcn.=3"])
def test_a_setting_of_another_form_is_refused(text):
    with pytest.raises(UsageError, match="--set expects"):
        parse_setting(text)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_layers", 3, 3),
        ("dropout", 0, 0.0),
        ("mode", "b", "b"),
        ("hidden_dims", [200, 600], (200, 600)),
        ("flag", True, True),
    ],
)
def test_values_that_fit_pass(name, value, expected):
    assert EXAMPLE[name].validate(value, name) == expected


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n_layers", "x", "an integer > 0"),
        ("n_layers", 0, "an integer > 0"),
        ("n_layers", 2.5, "an integer > 0"),
        ("n_layers", True, "an integer > 0"),
        ("dropout", 1.0, "a number >= 0 and < 1"),
        ("mode", "c", "one of 'a', 'b'"),
        ("hidden_dims", ["x"], "a list of an integer"),
        ("flag", 1, "true or false"),
    ],
)
def test_values_that_do_not_fit_say_what_was_expected(name, value, words):
    with pytest.raises(UsageError, match=words):
        EXAMPLE[name].validate(value, name)


def test_names_aliases_and_paths_are_found():
    assert find_model("LightGCN").name == "lightgcn"
    assert find_model("bpr").name == "mf-bpr"
    assert find_model("package.module:Class").family == "third-party"
    recbole = find_model(" RecBole:lightgcn ")
    assert (recbole.name, recbole.family) == ("recbole:LightGCN", "recbole")
    assert recbole.inputs == "interactions"


def test_an_unknown_model_gets_near_matches():
    with pytest.raises(UsageError, match="Unknown model 'lightgnc'. Did you mean lightgcn"):
        find_model("lightgnc")


def test_an_unknown_model_of_recbole_gets_near_matches_whatever_the_case():
    with pytest.raises(UsageError, match="no general recommender 'easy'. Did you mean EASE"):
        find_model("recbole:easy")
    with pytest.raises(UsageError, match="no general recommender 'qqqq'. bench models --recbole"):
        find_model("recbole:qqqq")


def test_what_a_class_refuses_to_set_is_told_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (
        "import torch\n\n\nclass Model(torch.nn.Module):\n    batching = 'none'\n    refused = {'epochs': 'no need'}\n"
    )
    text += "    def __init__(self, interactions, features, *, width: int = 1): ...\n    def score(self, users): ...\n"
    (tmp_path / "refusing_model.py").write_text(text)
    spec = find_model("refusing_model:Model")
    with pytest.raises(UsageError, match="--set refusing_model:Model.epochs cannot be set here: no need"):
        resolve_hyperparameters(spec, {}, {"epochs": 3})
    with pytest.raises(UsageError, match="Did you mean width"):
        resolve_hyperparameters(spec, {}, {"widht": 3})


def test_a_package_that_a_class_needs_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "needing_model.py").write_text(
        "def __getattr__(name):\n    raise ImportError('pip install something')\n"
    )
    with pytest.raises(UsageError, match="Model 'needing_model:Model': pip install something"):
        load_class(find_model("needing_model:Model"))


def test_no_alias_names_two_models():
    names = [name for spec in REGISTRY.values() for name in (spec.name, *spec.aliases)]
    assert len(set(names)) == len(names)


def test_a_missing_module_or_class_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_registry.py").write_text("class Other:\n    pass\n")
    with pytest.raises(UsageError, match="'nowhere' cannot be imported"):
        load_class(find_model("nowhere:Model"))
    with pytest.raises(UsageError, match="Unknown class of module mine_registry 'Othr'. Did you mean"):
        load_class(find_model("mine_registry:Othr"))
    with pytest.raises(UsageError, match="must be a torch.nn.Module class"):
        load_class(find_model("mine_registry:Other"))


def test_the_users_value_wins_over_the_preset_and_that_over_the_default():
    spec = REGISTRY["lightgcn"]
    values = resolve_hyperparameters(spec, {"n_layers": 1, "reg_weight": 1e-2}, {"n_layers": 4})
    assert (values["n_layers"], values["reg_weight"]) == (4, 1e-2)
    with pytest.raises(UsageError, match="Unknown hyper-parameter of lightgcn .--set. 'layers'. Did you mean n_layers"):
        resolve_hyperparameters(spec, {}, {"layers": 2})


def test_a_parameter_without_annotation_is_refused():
    class Loose(nn.Module):
        def __init__(self, interactions, features, *, width=3):
            super().__init__()

    with pytest.raises(UsageError, match="'width' needs a type annotation"):
        hyperparameters_of(Loose)


def test_hyperparameter_descriptions_are_readable():
    assert Hyperparameter("k", Annotated[int, Gt(0)], 1).type_text == "an integer > 0"
