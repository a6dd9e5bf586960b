"""What surrounds a RecBole run is as it was before: NumPy, generators, logging, environment, working folder."""

import logging
import subprocess
import sys
import threading
import warnings

import pytest
from scipy.sparse import dok_matrix

from baselines.recbole.compatibility import surroundings
from baselines.recbole.installation import package_folder

RUN = """
import json, logging, os, random, sys, warnings
import numpy as np, torch, yaml
from scipy.sparse import csr_array, dok_matrix
from bench.models import find_model, load_class
from bench.training import TrainingProtocol, borrowed, fit
from bench.training.protocol import begin_scoring

# All that RecBole imports of others, so that what these leave behind is not laid at its door.
import sklearn.linear_model, torch.utils.tensorboard
torch.optim.Adam(torch.nn.Linear(1, 1).parameters())

def state():
    return {
        "numpy": {name: id(value) for name, value in vars(np).items()},
        "scipy": {name: id(value) for name, value in vars(dok_matrix).items()},
        "yaml": repr(yaml.FullLoader.yaml_implicit_resolvers),
        "root": repr([vars(logging.getLogger())[key] for key in ("handlers", "filters", "level", "disabled")]),
        "warnings": repr(warnings.filters),
        "threads": torch.get_num_threads(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "python": random.getstate(),
        "generator": (np.random.get_state()[1].tolist(), np.random.get_state()[2:]),
        "torch": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "folder": sorted(os.listdir()),
        "arguments": list(sys.argv),
        "hooks": (sys.excepthook, sys.stdout, sys.stderr),
    }

train = csr_array((np.random.default_rng(1).random((30, 30)) < 0.4).astype(np.float32))
cpu = torch.device("cpu")
before = state()
for name in NAMES:
    with borrowed(1, "init", cpu):
        model = load_class(find_model("recbole:" + name))(train, {})
    assert getattr(model, "learning_rate", 0.001) == 0.001
    fit(model, train, lambda: 0.0, TrainingProtocol(max_epochs=1), seed=1, device=cpu)
    model.eval()
    with torch.no_grad():
        begin_scoring(model)
        model.score(torch.arange(5))
    after = state()
    assert before == after, (name, [key for key in before if before[key] != after[key]])
for module in ("ray", "recbole.quick_start", "recbole.trainer"):
    assert module not in sys.modules, module
"""
# Each touches something of its own: graphs, every generator, log messages, seeds, closed forms.
NAMES = ["LightGCN", "SGL", "LINE", "DGCF", "GCMC", "FISM", "Random", "SLIMElastic", "NCEPLRec"]


def test_a_run_leaves_everything_as_it_was(tmp_path):
    arguments = [sys.executable, "-c", RUN.replace("NAMES", repr(NAMES)), "--learning_rate=5", "--gpu_id=7", "loose"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert not list(tmp_path.iterdir())


def test_the_method_of_scipy_is_lent_and_taken_back():
    assert not hasattr(dok_matrix, "_update")
    with surroundings():
        with surroundings():
            pass
        matrix = dok_matrix((2, 3))
        matrix._update({(0, 1): 5.0, (1, 2): 7.0})
        assert matrix.toarray().tolist() == [[0, 5, 0], [0, 0, 7]]
    assert not hasattr(dok_matrix, "_update")


def test_an_error_inside_takes_everything_back_too():
    filters, shown = list(logging.getLogger().filters), list(warnings.filters)
    with pytest.raises(KeyError), surroundings():
        raise KeyError("inside")
    assert not hasattr(dok_matrix, "_update")
    assert logging.getLogger().filters == filters
    assert warnings.filters == shown


def test_a_method_that_scipy_still_has_is_put_back(monkeypatch):
    own = object()
    monkeypatch.setattr(dok_matrix, "_update", own, raising=False)
    with surroundings():
        assert dok_matrix._update is not own
    assert dok_matrix._update is own


def test_messages_of_others_still_get_through(caplog):
    with surroundings():
        logging.getLogger().warning("from elsewhere")
        theirs = str(package_folder() / "model" / "loss.py")
        record = logging.makeLogRecord({"pathname": theirs, "msg": "theirs", "levelno": logging.ERROR})
        logging.getLogger().handle(record)
    assert caplog.messages == ["from elsewhere"]


def test_a_second_thread_waits_its_turn():
    inside, seen = threading.Event(), []

    def other():
        inside.wait()
        with surroundings():
            seen.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with surroundings():
        inside.set()
        thread.join(timeout=0.2)
        assert not seen
    thread.join(timeout=5)
    assert seen == ["other"]
    assert not hasattr(dok_matrix, "_update")
