"""A driver's outcome comes back whole, and every way to fail has its reason."""

import pytest

from bench.speed.peers.comparison import _ratio, _typical
from bench.speed.peers.process import DriverError, run_driver
from bench.speed.peers.readings import Readings

DRIVER = """
import os, signal, sys
from bench.speed.peers.readings import Readings, drive

def measure(job):
    print("words that nobody reads")
    assert len(sys.argv) == 1, "the peer would take our words for its own"
    os.chdir(job["elsewhere"])
    if job["how"] == "import":
        import a_package_that_nobody_has
    if job["how"] == "raise":
        raise ValueError("two\\nlines")
    if job["how"] == "exit":
        sys.stderr.write("last words\\n\\n")
        os._exit(3)
    if job["how"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    threads = float(os.environ["OMP_NUM_THREADS"] + os.environ["MKL_NUM_THREADS"])
    return Readings(build_s=threads, epoch_s=[1.5, 0.5], valid_s=[], peak_mib=3.0)

drive(measure)
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "a_driver.py").write_text(DRIVER)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    return {"elsewhere": "elsewhere"}


def test_readings_come_back_from_one_thread(job):
    assert run_driver("a_driver", {**job, "how": "well"}) == Readings(11.0, [1.5, 0.5], [], 3.0)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("import", r"^it needs the Python package 'a_package_that_nobody_has', which is not installed"),
        ("raise", r"^ValueError: two lines \(a_driver.py, line 12\)$"),
        ("exit", r"^its process ended with code 3: last words$"),
        ("kill", r"^its process was ended by SIGKILL, as when memory runs out$"),
    ],
)
def test_a_failure_has_its_reason(job, how, reason):
    with pytest.raises(DriverError, match=reason):
        run_driver("a_driver", {**job, "how": how})


def test_the_first_epoch_is_a_warm_up_unless_it_is_the_only_one():
    assert _typical([9.0, 1.0, 4.0, 2.0]) == 2.0
    assert _typical([9.0]) == 9.0


def test_ratios_are_taken_round_by_round():
    def readings(*seconds):
        return [Readings(0.0, [each], [], 0.0) for each in seconds]

    # The machine is half as fast in the second round: the ratio is the same.
    found = _ratio({"ours": readings(1.0, 2.0, 1.0), "theirs": readings(3.0, 6.0, 5.0)}, lambda each: each.epoch_s[0])
    assert (found.ours_s, found.theirs_s) == (1.0, 5.0)
    assert (found.ratio, found.low, found.high) == (3.0, 3.0, 5.0)
