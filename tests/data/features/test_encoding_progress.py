import pytest

import bench.data.progress as progress_module
from bench.data.features import encoding_progress


def test_progress_is_told_now_and_then(monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: False, raising=False)
    with encoding_progress.EncodingProgress("texts", 10_000, lines.append) as progress:
        for _ in range(4):
            now[0] += 20
            progress.advance(1_000)
    assert lines == [
        "encoding texts: 2,000 of 10,000, 50.0 per second, 3 min left",
        "encoding texts: 4,000 of 10,000, 50.0 per second, 2 min left",
    ]


def test_a_terminal_gets_a_bar_instead(monkeypatch):
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: True, raising=False)
    with encoding_progress.EncodingProgress("texts", 10, pytest.fail) as progress:
        progress.advance(4)
        assert progress._bar.tasks[0].completed == 4
        assert progress._bar.tasks[0].total == 10
