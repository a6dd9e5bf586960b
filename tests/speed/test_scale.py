"""Large synthetic data have the size asked for, and every model's process is watched."""

import json

import numpy as np
import pytest

from bench.cli import main
from bench.errors import UsageError
from bench.speed.scale import Scale, measure_at_scale, write_scaled

SMALL = Scale(n_users=300, n_items=120, n_interactions=2_000, n_modalities=2, width=8, tested=50)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_scaled(tmp_path_factory.mktemp("scaled") / "synthetic", SMALL)


def run(dataset, *models, batches=2, limit_mib=4096.0, settings=()):
    lines: list[str] = []
    costs = measure_at_scale(
        dataset, models, settings, batches=batches, limit_mib=limit_mib, threads=1, report=lines.append
    )
    return costs, lines


def test_the_data_have_the_numbers_asked_for(small):
    counts = small.interactions["split"].value_counts()
    assert dict(counts) == {"train": 2_000, "valid": 50, "test": 50}
    assert (small.n_users, small.n_items) == (300, 120)
    assert {name: matrix.shape for name, matrix in small.features.items()} == {
        "modality1": (120, 8),
        "modality2": (120, 8),
    }
    train = small.matrix("train")
    assert np.diff(train.indptr).min() >= 3
    assert len(np.unique(small.interactions["item"])) == 120
    assert (small.matrix("valid").sum(axis=1) == small.matrix("test").sum(axis=1)).all(), "tested users have both"


@pytest.mark.parametrize("shape", [(20, 500, 600), (500, 20, 2_510), (50, 50, 290), (50, 50, 600)])
def test_other_shapes(tmp_path, shape):
    users, items, interactions = shape
    data = write_scaled(tmp_path / "s", Scale(users, items, interactions, n_modalities=0, tested=5))
    assert (data.interactions["split"] == "train").sum() == interactions
    assert (data.n_items, data.features) == (items, {})


@pytest.mark.parametrize("shape", [(100, 50, 539), (10, 10, 100), (10, 500, 539), (4, 500, 5000)])
def test_numbers_that_cannot_be_are_refused(tmp_path, shape):
    with pytest.raises(UsageError, match="can have from .* to .* training interactions"):
        write_scaled(tmp_path / "s", Scale(*shape, tested=5))


def test_a_few_batches_stand_for_an_epoch(small):
    (pairs, form), lines = run(small, "vbpr", "itemknn", settings=["vbpr.batch_size=64"])
    assert (pairs.outcome, pairs.batches, pairs.of_batches) == ("measured", 2, 32)
    assert pairs.model == "vbpr[batch_size=64]"
    assert pairs.peak_mib > 100
    assert pairs.scored_users == 50
    assert (form.outcome, form.epoch_s, form.batches) == ("measured", None, None)
    assert form.build_s > 0
    assert lines[0].startswith("vbpr[batch_size=64]: 2 of 32 batches, 0.")


def test_more_than_the_limit_is_refused_stopped_or_failed(small, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "greedy.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Greedy(nn.Module):\n"
        "    batching = 'none'\n"
        "    def __init__(self, interactions, features, *, mib: int = 3000):\n"
        "        super().__init__()\n"
        "        if mib < 0:\n            raise ValueError('less than nothing')\n"
        "        self.held = torch.ones(mib * 2**18)\n"
        "        import time; time.sleep(1)\n"
        "    def score(self, users):\n        return torch.zeros(len(users), 120)\n"
        "class Knowing(Greedy):\n"
        "    @classmethod\n"
        "    def memory_bytes(cls, n_users, n_items, n_interactions, **others):\n"
        "        return n_users * n_items * n_interactions * 1000\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (knowing, greedy), lines = run(small, "greedy:Knowing", "greedy:Greedy", limit_mib=1500)
    assert knowing.outcome == "refused"
    assert knowing.needed_mib == pytest.approx(300 * 120 * 2_000 * 1000 / 2**20)
    assert "needs about 67.1 GiB" in lines[0]
    assert greedy.outcome == "over"
    assert greedy.peak_mib > 1500
    (failed,), lines = run(small, "greedy:Greedy", settings=["greedy:Greedy.mib=-1"])
    assert (failed.outcome, failed.error) == ("failed", "ValueError: less than nothing")


def test_the_command(tmp_path, capsys):
    small = ["--users", "300", "--items", "120", "--interactions", "2000", "--width", "8", "--tested", "50"]
    with pytest.raises(SystemExit) as ended:
        main(["speed", "scale", *small, "--models", "mf-bpr", "--scratch", str(tmp_path), "--json"])
    assert not ended.value.code
    (cost,) = json.loads(capsys.readouterr().out)
    assert (cost["model"], cost["outcome"]) == ("mf-bpr", "measured")
    assert list(tmp_path.iterdir()) == [], "the data are gone"
    with pytest.raises(SystemExit) as ended:
        main(["speed", "scale", *small, "--models", "mf-bpr", "--limit", "0.1", "--scratch", str(tmp_path)])
    assert ended.value.code == 1
    assert "over" in capsys.readouterr().out
