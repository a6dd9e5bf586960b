"""RecBole itself, beside ours on the generated data."""

import json

import pytest

from bench.cli import main
from bench.speed.peers.process import run_driver
from bench.speed.peers.registry import PEERS

pytest.importorskip("recbole")


@pytest.mark.usefixtures("in_empty_folder")
def test_a_model_that_trains(capsys):
    arguments = ["--models", "lightgcn", "--epochs", "1", "--rounds", "1", "--set", "lightgcn.n_layers=1"]
    with pytest.raises(SystemExit) as ended:
        main(["speed", "peers", "--peer", "recbole", "--dataset", "toy", *arguments, "--json"])
    assert not ended.value.code
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["theirs"], found["trained"]) == ("LightGCN", "epoch")
    for part in ("training", "validation"):
        assert min(found[part]["theirs_s"], found[part]["ours_s"], found[part]["ratio"]) > 0
    assert found["theirs_mib"] > 0


def test_a_closed_form_has_no_epochs(toy, tmp_path):
    recbole = PEERS["recbole"]
    recbole.write(toy, tmp_path, "ItemKNN")
    parameters = {"k": 10, "shrink": 0.0}
    job = {"data": str(tmp_path), "n_items": toy.n_items, "model": "ItemKNN", "parameters": parameters, "epochs": 2}
    found = run_driver(recbole.driver, job)
    assert found.build_s > 0
    assert found.epoch_s == []
    assert len(found.valid_s) == 2
