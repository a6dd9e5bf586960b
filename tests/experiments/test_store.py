import json
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event

import psutil
import pytest

from bench.errors import StoreError
from bench.experiments.store import RunStore, run_key


def key(**changes):
    identity = {
        "fingerprint": "f",
        "model": "m",
        "code": "c",
        "hyperparameters": {"a": 1, "b": (2, 3)},
        "seed": 1,
        "protocol": {"training": {"patience": 20}},
    }
    return run_key(**{**identity, **changes})


def test_the_key_changes_with_everything_numbers_depend_on_and_with_nothing_else():
    assert key() == key(hyperparameters={"b": [2, 3], "a": 1})
    changed = [
        key(fingerprint="g"),
        key(model="n"),
        key(code="d"),
        key(hyperparameters={"a": 2, "b": (2, 3)}),
        key(seed=2),
        key(protocol={"training": {"patience": 10}}),
    ]
    assert len({key(), *changed}) == 7


def test_a_started_run_shows_as_running_and_a_new_start_empties_it(tmp_path):
    store = RunStore(tmp_path)
    folder = store.folder("toy", "lightgcn[n_layers=3]", 1, "abcdef0123")
    assert folder.name == "lightgcn_n_layers=3-seed1-abcdef01"
    store.start(folder, {"key": "abcdef0123", "created": "2026"})
    (folder / "history.csv").write_text("epoch\n")
    assert [record.status for record in store.records("toy")] == ["running"]
    store.start(folder, {"key": "abcdef0123", "created": "2027"})
    assert not (folder / "history.csv").exists()
    assert store.datasets() == ["toy"]


def this_process():
    process = psutil.Process()
    return {"pid": process.pid, "started": process.create_time()}


UNDER_WAY = {"status": "running", "process": this_process()}
CUT_SHORT = {"status": "running", "process": {**this_process(), "started": 1.0}}


@pytest.mark.parametrize(
    ("there", "opens", "opens_over_failed"),
    [
        ({"status": "finished"}, False, False),
        (UNDER_WAY, False, False),
        (CUT_SHORT, True, True),
        ({"status": "failed"}, False, True),
    ],
    ids=["finished", "under way", "cut short", "failed"],
)
def test_what_there_is_of_a_run_says_whether_it_is_opened_again(tmp_path, there, opens, opens_over_failed):
    store = RunStore(tmp_path)
    folder = store.folder("toy", "m", 1, "k" * 10)
    for over_failed, expected in ((False, opens), (True, opens_over_failed)):
        folder.mkdir(parents=True, exist_ok=True)
        store.write(folder, {"key": "k", **there})
        content = (folder / "run.json").read_bytes()
        assert store.start(folder, {"key": "k"}, over_failed=over_failed) == expected
        assert ((folder / "run.json").read_bytes() == content) == (not expected)


def test_of_two_that_open_a_run_at_once_one_does(tmp_path):
    folder = RunStore(tmp_path).folder("toy", "m", 1, "k" * 10)
    data = {"key": "k", "process": this_process()}
    is_opening, goes_on = Event(), Event()

    class Pausing(RunStore):
        def write(self, folder, data):
            is_opening.set()
            goes_on.wait(10)
            super().write(folder, data)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(Pausing(tmp_path).start, folder, data)
        is_opening.wait(10)
        second = threads.submit(RunStore(tmp_path).start, folder, data)
        # Time for the second to pass, if nothing held it up.
        wait([second], timeout=0.5)
        goes_on.set()
        assert (first.result(), second.result()) == (True, False)


def test_an_unreadable_or_foreign_record_is_explained(tmp_path):
    store = RunStore(tmp_path)
    folder = store.folder("toy", "m", 1, "k" * 10)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    with pytest.raises(StoreError, match="is not a readable run record"):
        store.records("toy")
    (folder / "run.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(StoreError, match="schema version 99"):
        store.records("toy")


def test_a_results_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        RunStore(tmp_path / "results").check_writable()
