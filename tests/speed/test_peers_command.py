"""The whole command, on a checkout that has MMRec's names and next to nothing behind them."""

import json
import textwrap
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from bench.cli import main
from bench.cli.console import out
from bench.cli.speed_peers import _peer_table
from bench.speed.peers import mmrec_driver
from bench.speed.peers.comparison import Compared, Ratio
from bench.speed.peers.process import DriverError
from bench.speed.peers.readings import Readings
from bench.speed.peers.registry import find_peer
from bench.training.meter import Stopwatch

CHECKOUT = {
    "utils/configurator.py": """
        from pathlib import Path

        class Config(dict):
            def __init__(self, model, dataset, given):
                # As in MMRec, settings lie in the working folder and lists of values are to be tried one by one.
                assert Path("configs/overall.yaml").is_file()
                tried = {"hyper_parameters": ["seed", "reg_weight", "aggr"], "reg_weight": [2.0, 1.0], "aggr": ["add"]}
                super().__init__({**tried, "eval_batch_size": 4096, "device": "cpu", **given})
                self.update(model=model, dataset=dataset)
        """,
    "utils/dataset.py": """
        from pathlib import Path
        import lmdb
        import pandas as pd

        class Split:
            def __init__(self, table):
                self.table = table

            def __str__(self):
                self.inter_num = len(self.table)
                return "a split"

        class RecDataset:
            def __init__(self, config):
                folder = Path(config["data_path"] + config["dataset"])
                self.table = pd.read_csv(folder / config["inter_file_name"], sep="\\t")
                assert (folder / config["vision_feature_file"]).is_file()
                assert (folder / config["text_feature_file"]).is_file()

            def split(self):
                return [Split(self.table[self.table["x_label"] == label]) for label in (0, 1, 2)]
        """,
    "utils/dataloader.py": """
        class TrainDataLoader:
            def __init__(self, config, dataset, batch_size, shuffle):
                assert (batch_size, shuffle) == (2048, True)
                self.n_rows, self.ready = dataset.inter_num, False

            def pretrain_setup(self):
                self.ready = True

        class EvalDataLoader:
            def __init__(self, config, dataset, additional_dataset, batch_size):
                assert additional_dataset.inter_num > dataset.inter_num
        """,
    "utils/utils.py": """
        import importlib

        def get_model(name):
            return getattr(importlib.import_module("models." + name.lower()), name)

        def get_trainer():
            return importlib.import_module("common.trainer").Trainer

        def init_seed(seed):
            assert seed == 999
        """,
    "common/trainer.py": """
        import time

        class Trainer:
            req_training = True

            def __init__(self, config, model):
                self.model, self.lr_scheduler, self.steps = model, self, 0

            def step(self):
                self.steps += 1

            def _train_epoch(self, loader, epoch):
                assert loader.ready and self.model.prepared == epoch + 1 and self.steps == epoch
                time.sleep(0.1)
                return 0.5, []

            def _valid_epoch(self, loader):
                time.sleep(0.05)
        """,
    "models/bpr.py": """
        import time
        import numpy as np
        import torch
        from scipy.sparse import dok_matrix
        from torch_scatter import scatter_add

        class BPR(torch.nn.Module):
            def __init__(self, config, loader):
                super().__init__()
                # One was given, the other is the first of MMRec's own.
                assert (config["reg_weight"], config["aggr"]) == (0.25, "add")
                assert np.float is float and not torch.zeros(1).cuda().is_cuda
                matrix = dok_matrix((2, 2))
                matrix._update({(0, 1): 3.0})
                assert matrix.sum() == 3.0
                sums = scatter_add(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 0, 1]), dim=0, dim_size=3)
                assert sums.tolist() == [2.0, 5.0, 0.0]
                self.prepared, self.result_embed = 0, torch.nn.Parameter(torch.zeros(1))
                time.sleep(0.15)

            def pre_epoch_processing(self):
                self.prepared, self.result_embed = self.prepared + 1, torch.ones(1)
                time.sleep(0.03)

            def post_epoch_processing(self):
                pass
        """,
}


@pytest.fixture
def checkout(tmp_path):
    source = tmp_path / "checkout" / "src"
    for name, text in CHECKOUT.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(textwrap.dedent(text))
    (source / "configs").mkdir()
    (source / "configs" / "overall.yaml").touch()
    return tmp_path / "checkout"


def peers(*arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main(["speed", "peers", *arguments])
    assert (ended.value.code or 0) == code


@pytest.mark.usefixtures("in_empty_folder")
def test_both_programs_run(checkout, capsys):
    before = sorted(checkout.rglob("*"))
    settings = ("--set", "mf-bpr.reg_weight=0.25", "--epochs", "2", "--rounds", "1", "--json")
    peers("--peer", "mmrec", "--checkout", str(checkout), "--dataset", "toy", "--models", "mf-bpr", *settings)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["theirs"], found["trained"], found["error"]) == ("BPR", "epoch", None)
    (theirs,), (ours,) = found["readings"]["theirs"], found["readings"]["ours"]
    assert min(theirs["epoch_s"]) >= 0.13
    assert min(theirs["valid_s"]) >= 0.05
    assert theirs["build_s"] >= 0.15
    for side in (theirs, ours):
        assert len(side["epoch_s"]) == len(side["valid_s"]) == 2
        assert min(side["epoch_s"] + side["valid_s"]) > 0
    assert found["training"]["theirs_s"] == theirs["epoch_s"][1]
    assert found["training"]["ratio"] == pytest.approx(theirs["epoch_s"][1] / ours["epoch_s"][1])
    assert found["validation"]["ours_s"] == ours["valid_s"][1]
    assert found["ours_mib"] == ours["peak_mib"] > 0
    assert sorted(checkout.rglob("*")) == before, "nothing is written into the user's checkout"


@pytest.mark.usefixtures("in_empty_folder")
def test_turns_alternate_and_a_model_that_fails_does_not_stop_the_others(checkout, capsys, monkeypatch):
    jobs = []

    def instead(driver, job):
        jobs.append((driver.rpartition(".")[2], job["model"]))
        if job["model"] == "VBPR":
            raise DriverError("no [time] today")
        return Readings(0.5, [9.0, 1.0 if driver.endswith("own_driver") else 3.0], [0.5], 100.0)

    monkeypatch.setattr("bench.speed.peers.comparison.run_driver", instead)
    common = ("--peer", "mmrec", "--checkout", str(checkout), "--dataset", "toy")
    peers(*common, "--models", "vbpr,bm3", code=1)
    printed = capsys.readouterr()
    both = [("own_driver", "bm3"), ("mmrec_driver", "BM3")]
    assert jobs == [("own_driver", "vbpr"), ("mmrec_driver", "VBPR"), *both, *both]
    assert "vbpr: FAILED, MMRec: no [time] today" in printed.err
    assert "bm3: epoch 1.000 s, theirs 3.000 s, 3.0 times as long; validation 0.500 s" in printed.err
    assert "FAILED" in printed.out
    assert "3.0 (3.0-3.0)" in printed.out
    jobs.clear()
    peers(*common, "--rounds", "1", "--models", "all", "--set", "vbpr.embedding_dim=8", code=1)
    assert {model for driver, model in jobs if driver == "own_driver"} == set(find_peer("mmrec").counterparts)


def test_an_epoch_is_what_mmrec_calls_one(monkeypatch):
    events = []

    @contextmanager
    def stopwatch(device):
        watch = Stopwatch()
        events.append("start")
        yield watch
        watch.seconds = float(len(events))
        events.append("stop")

    def note(event, returned=None):
        return lambda *arguments: events.append(event) or returned

    monkeypatch.setattr(mmrec_driver, "stopwatch", stopwatch)
    model = SimpleNamespace(pre_epoch_processing=note("before"), post_epoch_processing=note("after"))
    trainer = SimpleNamespace(
        req_training=True,
        _train_epoch=note("epoch", (0.5, [])),
        lr_scheduler=SimpleNamespace(step=note("rate")),
        _valid_epoch=note("valid"),
    )
    found = mmrec_driver._times(model, trainer, "train", "valid", 1)
    assert events == ["start", "before", "epoch", "rate", "stop", "after", "start", "valid", "stop"]
    assert found == ([4.0], [8.0])
    trainer.req_training = False
    assert mmrec_driver._times(model, trainer, "train", "valid", 3)[0] == []
    trainer.req_training, trainer._train_epoch = True, note("epoch", (torch.tensor(float("nan")), []))
    with pytest.raises(ValueError, match="NaN in epoch 1"):
        mmrec_driver._times(model, trainer, "train", "valid", 1)


def test_mistakes(checkout, capsys):
    common = ("--dataset", "toy", "--checkout", str(checkout))
    peers("--peer", "mmrec", "--dataset", "toy", code=2)
    assert "--checkout" in capsys.readouterr().err
    peers("--peer", "mmrec", "--dataset", "toy", "--checkout", str(checkout / "src"), code=2)
    assert "expected a checkout of MMRec" in capsys.readouterr().err
    peers("--peer", "mmrek", *common, code=2)
    assert "Did you mean mmrec" in capsys.readouterr().err
    peers("--peer", "mmrec", "--dataset", "toy,toy2", "--checkout", str(checkout), code=2)
    assert "expected one dataset" in capsys.readouterr().err


def test_the_table(capsys):
    training, validation = Ratio(3.0, 1.5, 2.0, 1.91, 2.14), Ratio(1.0, 0.25, 4.0, 3.9, 4.1)
    good = Compared("ease", "EASE", "fit", training, validation, 1234.5, 99.6)
    out.print(_peer_table([good, Compared("bm3[reg=norm]", "BM3", error="MMRec: no")], "MMRec", "toy"))
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if " EASE " in line)
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells == [
        "ease", "EASE", "fit", "3.000", "1.500", "2.0 (1.9-2.1)", "1.000", "0.250", "4.0 (3.9-4.1)", "1,234", "100"
    ]  # fmt: skip
    assert "bm3[reg=norm]" in printed
    assert "FAILED" in printed
