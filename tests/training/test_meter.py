import time

import torch

from bench.training.meter import memory_gauge, stopwatch

CPU = torch.device("cpu")


def test_stopwatch_measures_the_block():
    with stopwatch(CPU) as watch:
        time.sleep(0.05)
    assert 0.05 <= watch.seconds < 1.0


def test_the_gauge_sees_memory_that_was_freed_again():
    with memory_gauge(CPU) as gauge:
        block = torch.ones(64 * 2**20 // 4)
        del block
    assert 60 * 2**20 < gauge.peak_host_bytes < 200 * 2**20
    assert gauge.peak_device_bytes is None


def test_sampling_serves_where_the_kernel_keeps_no_mark(monkeypatch):
    monkeypatch.setattr("bench.training.meter._reset_high_water_mark", lambda: False)
    with memory_gauge(CPU) as gauge:
        block = torch.ones(64 * 2**20 // 4)
        time.sleep(0.1)
        del block
    assert gauge.method == "sampled"
    assert 60 * 2**20 < gauge.peak_host_bytes < 200 * 2**20
