import json
from dataclasses import replace
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest
import torch

from bench.errors import UsageError
from bench.evaluation import PROTOCOLS, RankingEvaluator, mean_metrics, per_user_metrics
from bench.experiments.cell import run_cell
from bench.experiments.execute import Execution, choose_device
from bench.experiments.plan import make_plan, protocol_of
from bench.experiments.store import RunStore

PROTOCOL = protocol_of("mmrec", max_epochs=3, patience=2)
CPU = torch.device("cpu")


class Silent:
    def __init__(self):
        self.events = []

    def cell_started(self, cell):
        self.events.append(("start", cell.title))

    def epoch_done(self, cell, epoch):
        self.events.append(("epoch", cell.title))

    def cell_done(self, cell, record):
        self.events.append(("done", cell.title, record.status))

    def cell_left(self, cell):
        self.events.append(("left", cell.title))

    def timing_started(self, cell):
        self.events.append(("timing", cell.title))


def execute(toy, results, models, *, seeds=(1,), jobs=1, settings=(), retry=False):
    store = RunStore(results)
    cells = make_plan([toy], models, seeds, PROTOCOL, store, settings=settings)
    listener = Silent()
    waiting = [cell for cell in cells if cell.waits(retry)]
    records = Execution({toy.name: toy}, store, CPU, jobs, listener).run(waiting)
    return records, cells, listener


def module(folder, monkeypatch, name, body):
    monkeypatch.chdir(folder)
    head = "import os\nimport torch\nfrom torch import nn\n\n\n"
    (folder / f"{name}.py").write_text(head + dedent(body))


def test_a_run_leaves_everything_it_promises(toy, tmp_path):
    (record,), _, listener = execute(toy, tmp_path, ["mf-bpr"])
    names = {path.name for path in record.folder.iterdir()}
    assert names == {"run.json", "history.csv", "users.parquet", "topk.parquet", "model.safetensors"}
    data = json.loads((record.folder / "run.json").read_text())
    assert data["status"] == "finished"
    assert data["training"]["epochs"] == 3
    assert data["cost"]["epoch_s"] > 0
    assert data["cost"]["inference_s"] > 0
    assert len(record.history()) == 3
    assert listener.events.count(("epoch", "mf-bpr on toy, seed 1")) == 3


def test_the_stored_means_and_lists_are_those_of_the_stored_users(toy, tmp_path):
    (record,), _, _ = execute(toy, tmp_path, ["ease"])
    users = record.users().set_index("user")
    for name, value in mean_metrics(users).items():
        assert record.data["metrics"]["test"][name] == pytest.approx(value, abs=1e-12)
    lists = record.topk()
    truth = toy.matrix("test")
    hits = pd.Series([truth[u, i] > 0 for u, i in zip(lists["user"], lists["item"], strict=True)], index=lists.index)
    recall = hits[lists["rank"] <= 20].groupby(lists["user"]).sum() / np.diff(truth.indptr)[users.index]
    assert np.allclose(recall.loc[users.index], users["recall@20"])
    train = toy.matrix("train")
    assert not any(train[u, i] for u, i in zip(lists["user"], lists["item"], strict=True))


def test_a_finished_cell_is_not_run_again(toy, tmp_path):
    execute(toy, tmp_path, ["popularity"])
    records, cells, _ = execute(toy, tmp_path, ["popularity", "ease"])
    assert [cell.state for cell in cells] == ["finished", "new"]
    assert [record.label for record in records] == ["ease"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_another_process_took_since_the_plan_was_made_is_left_as_it_is(toy, tmp_path, jobs):
    store = RunStore(tmp_path)
    cells = make_plan([toy], ["popularity", "ease"], [1], PROTOCOL, store)
    (taken,), _, _ = execute(toy, tmp_path, ["popularity"])
    before = {path: path.read_bytes() for path in taken.folder.iterdir()}
    listener = Silent()
    records = Execution({toy.name: toy}, store, CPU, jobs, listener).run(cells)
    assert [record.label for record in records] == ["ease"]
    assert ("left", "popularity on toy, seed 1") in listener.events
    assert {path: path.read_bytes() for path in taken.folder.iterdir()} == before


BROKEN = """
class Broken(nn.Module):
    batching = "pairs"

    def __init__(self, interactions, features, *, learning_rate: float = 0.1, batch_size: int = 512):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.learning_rate, self.batch_size, self.calls = learning_rate, batch_size, 0
        self.n_items = interactions.shape[1]

    def loss(self, batch):
        self.calls += 1
        return self.weight * (float("nan") if self.calls == 2 else 1.0)

    def score(self, users):
        return torch.zeros(len(users), self.n_items)
"""


def test_a_failed_cell_is_kept_with_its_reason_and_stops_no_other(toy, tmp_path, monkeypatch):
    module(tmp_path, monkeypatch, "broken_cell", BROKEN)
    models = ["broken_cell:Broken", "popularity"]
    records, _, _ = execute(toy, tmp_path / "results", models)
    assert [record.status for record in records] == ["failed", "finished"]
    error = records[0].data["error"]
    assert (error["type"], error["epoch"], error["step"]) == ("TrainingError", 1, 2)
    again, cells, _ = execute(toy, tmp_path / "results", models)
    assert ([cell.state for cell in cells], again) == (["failed", "finished"], [])
    retried, _, _ = execute(toy, tmp_path / "results", models, retry=True)
    assert [record.status for record in retried] == ["failed"]


def test_a_cell_that_another_process_failed_since_it_was_planned_is_left_alone(toy, tmp_path, monkeypatch):
    module(tmp_path, monkeypatch, "failing_cell", BROKEN)
    _, cells, _ = execute(toy, tmp_path / "results", ["failing_cell:Broken"])
    store, device = RunStore(tmp_path / "results"), torch.device("cpu")
    (failed,) = store.records("toy")
    assert run_cell(replace(cells[0], state="new"), toy, store, device, timed=True) is None
    assert store.records("toy") == [failed]
    again = run_cell(replace(cells[0], state="failed"), toy, store, device, timed=True)
    assert again is not None
    assert again.data["created"] > failed.data["created"]


def test_nan_scores_fail_the_cell(toy, tmp_path, monkeypatch):
    body = BROKEN.replace("torch.zeros(len(users), self.n_items)", "torch.full((len(users), self.n_items), torch.nan)")
    module(tmp_path, monkeypatch, "nan_scores", body.replace("self.calls == 2", "False"))
    (record,), _, _ = execute(toy, tmp_path / "results", ["nan_scores:Broken"])
    assert record.status == "failed"
    assert "NaN" in record.data["error"]["message"]


def test_an_interrupt_leaves_the_cell_to_be_run_again(toy, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bench.experiments.cell.fit", interrupt)
        execute(toy, tmp_path, ["popularity"])
    (record,) = RunStore(tmp_path).records("toy")
    assert record.status == "running"
    assert record.data["process"]["pid"]
    _, cells, _ = execute(toy, tmp_path, ["popularity"])
    assert cells[0].state == "busy"
    record.data["process"]["started"] -= 100
    RunStore(tmp_path).write(record.folder, record.data)
    (finished,), cells, _ = execute(toy, tmp_path, ["popularity"])
    assert (cells[0].state, finished.status) == ("interrupted", "finished")


def test_side_by_side_gives_the_same_metrics_and_times_alone(toy, tmp_path):
    alone, _, _ = execute(toy, tmp_path / "alone", ["popularity", "ease"])
    beside, _, listener = execute(toy, tmp_path / "beside", ["popularity", "ease"], jobs=2)
    expected = {record.label: record.data["metrics"] for record in alone}
    assert {record.label: record.data["metrics"] for record in beside} == expected
    stored = RunStore(tmp_path / "beside").records("toy")
    assert {record.data["cost"]["source"] for record in stored} == {"timing pass"}
    assert sum(event[0] == "timing" for event in listener.events) == 2


def test_a_worker_that_dies_fails_its_cell_only(toy, tmp_path, monkeypatch):
    body = BROKEN.replace('return self.weight * (float("nan")', "os._exit(9)\n        return self.weight * (0.0")
    module(tmp_path, monkeypatch, "dying", body)
    records, _, _ = execute(toy, tmp_path / "results", ["dying:Broken", "popularity", "ease"], jobs=2)
    found = {record.label: record.status for record in records}
    assert found == {"dying:Broken": "failed", "popularity": "finished", "ease": "finished"}
    stored = {record.label: record for record in RunStore(tmp_path / "results").records("toy")}
    assert "died without a word" in stored["dying:Broken"].data["error"]["message"]


def test_a_worker_that_dies_importing_the_model_fails_its_cell_only(toy, tmp_path, monkeypatch):
    module(tmp_path, monkeypatch, "dying_early", BROKEN + "\n\nif os.environ.get('DIE_ON_IMPORT'):\n    os._exit(9)\n")
    store = RunStore(tmp_path / "results")
    cells = make_plan([toy], ["dying_early:Broken", "popularity"], [1], PROTOCOL, store)
    monkeypatch.setenv("DIE_ON_IMPORT", "yes")
    records = Execution({toy.name: toy}, store, CPU, 2, Silent()).run(cells)
    assert {record.label: record.status for record in records} == {
        "dying_early:Broken": "failed",
        "popularity": "finished",
    }


def test_models_are_scored_in_evaluation_mode_without_gradients(toy, tmp_path, monkeypatch):
    body = BROKEN.replace("self.calls == 2", "False").replace(
        "return torch.zeros(len(users), self.n_items)",
        "assert not self.training, 'scored in training mode'\n"
        "        assert not torch.is_grad_enabled(), 'scored with gradients'\n"
        "        return torch.zeros(len(users), self.n_items)",
    )
    module(tmp_path, monkeypatch, "scored_right", body)
    (record,), _, _ = execute(toy, tmp_path / "results", ["scored_right:Broken"])
    assert record.data["error"] is None


def test_evaluation_under_validation_masking_hides_validation_items(toy, tmp_path):
    protocol = protocol_of("recbole", max_epochs=1, patience=1)
    store = RunStore(tmp_path)
    cells = make_plan([toy], ["popularity"], [1], protocol, store)
    (record,) = Execution({toy.name: toy}, store, CPU, 1, Silent()).run(cells)
    counts = torch.from_numpy(np.asarray(toy.matrix("train").sum(axis=0)).ravel())
    evaluator = RankingEvaluator(
        toy.matrix("train"),
        toy.matrix("test"),
        exclude=toy.matrix("valid"),
        protocol=PROTOCOLS["recbole"],
        device=CPU,
    )
    expected = mean_metrics(per_user_metrics(evaluator.ranks(lambda u: counts.repeat(len(u), 1)), PROTOCOLS["recbole"]))
    assert record.data["metrics"]["test"]["recall@20"] == pytest.approx(expected["recall@20"])


def test_devices_are_chosen_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UsageError, match="expected a CUDA GPU"):
        choose_device("cuda")
    with pytest.raises(UsageError, match="expects auto, cpu, cuda"):
        choose_device("tpu")
