"""RecBole's models from the command line, with RecBole and as if it were not there."""

import importlib.util
import json
from pathlib import Path

import pytest

from baselines.recbole.catalogue import ENTRIES
from baselines.recbole.classes import class_of
from bench.cli import main

pytestmark = pytest.mark.usefixtures("in_empty_folder")
needs_recbole = pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed")


def bench(*arguments, code=0):
    """Run a command in this process and hold it to its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


@pytest.fixture
def without_recbole(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, package=None: None if n == "recbole" else real(n, package)
    )
    class_of.cache_clear()
    yield
    class_of.cache_clear()


@needs_recbole
def test_from_a_name_to_a_report(capsys):
    models = "recbole:lightgcn,RecBole:MultiVAE,recbole:EASE"
    settings = ("--set", "recbole:LightGCN.n_layers=1", "--set", "recbole:multivae.mlp_hidden_size=[20]")
    command = ("run", "--datasets", "toy", "--models", models, "--seeds", "2", "--max-epochs", "2", *settings)
    bench(*command)
    assert "6 of 6 cells finished" in capsys.readouterr().err
    records = {}
    for path in Path("results/toy/runs").glob("*/run.json"):
        record = json.loads(path.read_text())
        records[record["model"]["label"], record["seed"]] = record
    ours = "recbole:LightGCN[n_layers=1]"
    assert {label for label, _ in records} == {ours, "recbole:MultiVAE[mlp_hidden_size=20]", "recbole:EASE"}
    first = records[ours, 1]
    assert first["model"]["family"] == "recbole"
    assert first["hyperparameters"]["n_layers"] == 1
    assert first["hyperparameters"]["train_batch_size"] == 2048
    assert first["environment"]["packages"]["recbole"] == "1.2.1"
    assert first["training"]["n_parameters"] == (401 + 361) * 64
    assert records["recbole:EASE", 1]["training"]["stopped"] == "closed_form"
    assert records["recbole:EASE", 1]["metrics"]["test"]["recall@20"] > 0.2
    bench(*command)
    assert "6 finished before; 0 to run" in capsys.readouterr().err
    bench("report", "--datasets", "toy", "--reference", "recbole:EASE")
    assert ours in capsys.readouterr().out


@needs_recbole
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "recbole:LightGNC"], "no general recommender 'LightGNC'. Did you mean LightGCN"),
        (["--models", "recbole:"], "no general recommender ''"),
        (["--models", "recbole:SASRec"], "bench models --recbole lists all 33"),
        (["--models", "recbole:BPR", "--set", "recbole:BPR.embedding_sise=3"], "Did you mean embedding_size"),
        (["--models", "recbole:BPR", "--set", "recbole:BPR.embedding_size=3.5"], "expected an integer, found 3.5"),
        (["--models", "recbole:BPR", "--set", "recbole:BPR.learning_rate=0"], "expected a number > 0"),
        (["--models", "recbole:BPR", "--set", "recbole:bpr.epochs=3"], "epochs cannot be set here: it belongs to"),
        (["--models", "recbole:RaCT", "--set", "recbole:RaCT.train_stage=finetune"], "later stages start from"),
        (["--models", "recbole:BPR,recbole:bpr"], "recbole:BPR is named more than once"),
        (["--models", "recbole:BPR", "--set", "recbole:EASE.reg_weight=3"], "is for a model that is not run"),
    ],
)
def test_wrong_words_are_explained(arguments, words, capsys):
    bench("run", "--datasets", "toy", *arguments, code=2)
    message = " ".join(capsys.readouterr().err.split())
    assert words in message
    assert "Traceback" not in message
    assert not list(Path().glob("results/*"))


def test_the_list_needs_no_recbole(without_recbole, capsys):
    bench("models", "--recbole", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["installed"]) == ("1.2.1", False)
    assert "pip install --no-deps recbole==1.2.1" in found["missing"]
    assert [model["name"] for model in found["models"]] == [f"recbole:{name}" for name in ENTRIES]
    assert {model["status"] for model in found["models"]} <= {"works", "needs", "cannot"}


def test_the_list_as_a_table(capsys):
    bench("models", "--recbole")
    shown = capsys.readouterr().out
    assert all(f"recbole:{name}" in shown for name in ENTRIES)
    assert "pip install faiss-cpu" in shown


def test_a_run_without_recbole_says_why_and_how(without_recbole, capsys):
    bench("run", "--datasets", "toy", "--models", "recbole:EASE", code=2)
    message = " ".join(capsys.readouterr().err.split())
    assert "Model 'recbole:EASE': RecBole is not installed" in message
    assert "pins a ray that has no wheels for Python 3.12 and later" in message
    assert "pip install --no-deps recbole==1.2.1 && pip install colorama colorlog" in message
    assert "Traceback" not in message


@needs_recbole
def test_the_hyperparameters_of_one_are_shown(capsys):
    bench("models", "show", "recbole:ease", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "recbole:EASE"
    assert found["hyperparameters"] == {"reg_weight": {"type": "a number", "default": 250.0, "tuned": None}}
