"""Whatever breaks a preparation off, the dataset is the old one, the new one, or none; the next call works."""

import sys

import pytest

from bench.data import PreparedDataset, prepared_names
from bench.errors import DataError

# The package exports the function under the module's own name.
MODULE = sys.modules["bench.data.prepare"]
POINTS = ["locate", "Steps", "check_prepared", "assign_split", "order_ids", "build_features", "write_prepared"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("point", POINTS)
def test_breaking_off_between_the_steps(desk, monkeypatch, point, error):
    def break_off(*_: object, **__: object) -> None:
        raise error("broken off")

    with monkeypatch.context() as patch:
        patch.setattr(MODULE, point, break_off)
        with pytest.raises(error):
            desk.prepare()
        assert not desk.target.exists()
        assert prepared_names(desk.workspace) == []
    first, _ = desk.prepare()
    desk.write(desk.pairs + "10,10,0\n")
    with monkeypatch.context() as patch:
        patch.setattr(MODULE, point, break_off)
        with pytest.raises(error):
            desk.prepare(force=True)
    assert PreparedDataset.load(desk.target).fingerprint == first.fingerprint, "the old one is intact"
    second, _ = desk.prepare(force=True)
    assert second.fingerprint != first.fingerprint
    assert desk.leftovers() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("place", ["pandas.DataFrame.to_parquet", "numpy.save", "json.dumps"])
def test_breaking_off_while_writing(desk, monkeypatch, place, error):
    def break_off(*_: object, **__: object) -> None:
        raise error("broken off")

    first, _ = desk.prepare()
    desk.write(desk.pairs + "10,10,0\n")
    with monkeypatch.context() as patch:
        patch.setattr(place, break_off)
        with pytest.raises((error, DataError)):
            desk.prepare(force=True)
    assert PreparedDataset.load(desk.target).fingerprint == first.fingerprint, "the old one is intact"
    assert prepared_names(desk.workspace) == ["mine"]
    second, _ = desk.prepare(force=True)
    assert second.fingerprint != first.fingerprint
    assert desk.leftovers() == [], "what broke off is cleaned up"


def test_a_dataset_caught_between_two_renames_comes_back(desk):
    first, _ = desk.prepare()
    never_a_process = 2**22 + 1
    desk.target.rename(desk.target.with_name(f".mine.old-{never_a_process}"))
    desk.target.with_name(f".mine.partial-{never_a_process}").mkdir()
    again, lines = desk.prepare()
    assert lines == [f"mine is already prepared: {desk.target}"]
    assert again.fingerprint == first.fingerprint
    assert desk.leftovers() == []
