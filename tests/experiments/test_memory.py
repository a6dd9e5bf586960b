from types import SimpleNamespace

import psutil
import pytest

from bench.cli import main
from bench.errors import UsageError
from bench.experiments.memory import check_memory, estimate_bytes
from bench.experiments.plan import configure


def test_what_grows_with_the_square_of_items_says_what_it_needs(toy):
    ease, lightgcn = configure(["ease", "lightgcn"], ["ease.precision=float32"], "toy")
    assert estimate_bytes(ease, toy) == int(2.4 * 4 * toy.n_items**2)
    assert estimate_bytes(lightgcn, toy) is None


def test_a_plan_that_does_not_fit_is_refused_with_all_it_would_need(toy, monkeypatch):
    configurations = configure(["ease", "lightgcn"], [], "toy")
    check_memory(toy, configurations)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    with pytest.raises(UsageError, match=r"memory would not do: ease about 0.0 GiB; 0.0 GiB are free. Leave these"):
        check_memory(toy, configurations)
    check_memory(toy, configurations[1:])


@pytest.mark.parametrize("command", ["run", "tune"])
def test_nothing_runs_where_one_model_does_not_fit(command, in_empty_folder, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "toy"])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    dataset = "--datasets" if command == "run" else "--dataset"
    with pytest.raises(SystemExit) as ended:
        main([command, dataset, "toy", "--models", "popularity,ease", "--seeds", "1,2"])
    assert ended.value.code == 2
    assert "ease about" in capsys.readouterr().err
    assert not list(in_empty_folder.glob("results/toy/**/*.json"))
