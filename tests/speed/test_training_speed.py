import json

import pytest

from bench.cli import main
from bench.models import find_model, load_class

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def speed(*arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main(["speed", "models", "--dataset", "toy", *arguments])
    assert (ended.value.code or 0) == code


def test_each_model_is_measured(toy, capsys):
    speed("--models", "ease,mf-bpr", "--epochs", "3", "--set", "mf-bpr.embedding_dim=8", "--json")
    ease, mf = json.loads(capsys.readouterr().out)
    assert (ease["model"], ease["epoch_s"]) == ("ease", None)
    assert ease["fit_s"] > 0
    assert (mf["model"], mf["fit_s"]) == ("mf-bpr[embedding_dim=8]", None)
    assert min(mf["epoch_s"], mf["inference_s"]) > 0
    assert mf["peak_mib"] >= 0
    assert (ease["n_parameters"], mf["n_parameters"]) == (0, 8 * (toy.n_users + toy.n_items))
    speed("--models", "mf-bpr", "--set", "mf-bpr.embedding_dim=8", "--epochs", "1")
    assert "mf-bpr[embedding_dim=8]" in capsys.readouterr().out


def test_a_model_that_fails_does_not_stop_the_others(capsys, monkeypatch):
    def broken(self, users):
        raise ValueError("no scores today")

    monkeypatch.setattr(load_class(find_model("ease")), "score", broken)
    speed("--models", "ease,popularity", code=1)
    printed = capsys.readouterr()
    assert "FAILED" in printed.out
    assert "ease: ValueError: no scores today" in printed.err
    assert "popularity: 0." in printed.err


def test_mistakes(capsys):
    speed("--models", "eas", code=2)
    assert "Did you mean ease" in capsys.readouterr().err
