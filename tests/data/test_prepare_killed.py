"""A preparation killed without a chance to clean up: the dataset is the old one or none, and the next call works."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shop_files import bench, load, none_is_prepared
from webserver import Web

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here"),
]

RECIPE = """
name = "mine"

[[sources]]
kind = "http"
base = "http://127.0.0.1:9/"
downloads = [{ url = "pairs.csv" }, { url = "image.npy" }]
interactions = { file = "pairs.csv" }

[features]
image = { encoder = "file", file = "image.npy" }
"""
# Runs the command with a death at the chosen call of the chosen function.
MORTAL = """
import importlib, os, signal, sys
from functools import reduce

module, path, call = sys.argv[1], sys.argv[2].split("."), int(sys.argv[3])
owner = reduce(getattr, path[:-1], importlib.import_module(module))
whole, calls = getattr(owner, path[-1]), []
def mortal(*arguments, **options):
    calls.append(arguments)
    if len(calls) == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **options)
setattr(owner, path[-1], mortal)
from bench.cli import main
main(sys.argv[4:])
"""
CHUNK_BYTES = 1 << 16
N_USERS = 3


def killed(module: str, function: str, call: int, *arguments: str) -> None:
    """Run a command in a process of its own that kills itself when it calls a function the `call`-th time."""
    command = [sys.executable, "-c", MORTAL, module, function, str(call), *arguments]
    environment = os.environ | {"NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr


def pairs(n_items: int) -> bytes:
    rows = [f"{user},{item}" for user in range(N_USERS) for item in range(n_items)]
    return "\n".join(["user,item", *rows]).encode()


@pytest.fixture
def matrix() -> bytes:
    content = io.BytesIO()
    np.save(content, np.arange(4 * 20_000, dtype=np.float32).reshape(4, 20_000))
    return content.getvalue()


@pytest.fixture
def prepare(web: Web, matrix: bytes) -> tuple[str, ...]:
    """The command that prepares the dataset from a web server that knows which version of a file it has."""
    Path("datasets").mkdir()
    Path("datasets/mine.toml").write_text(RECIPE)
    web.file("/pairs.csv", pairs(3), etag='"pairs"')
    web.file("/image.npy", matrix, etag='"image"')
    return "prepare", "mine", "--url", web.url


def leftovers() -> list[str]:
    return [path.name for path in Path("datasets/prepared").iterdir() if path.name != "mine"]


def test_a_killed_download_is_continued_where_it_was(web, prepare, matrix, capsys):
    # The first chunk is the one of the pairs, then come two of the matrix.
    killed("bench.data.raw.transfer", "TransferProgress.advance", 3, *prepare)
    raw = Path("datasets/raw/mine")
    assert (raw / "pairs.csv").read_bytes() == pairs(3)
    assert not (raw / "image.npy").exists()
    part = (raw / "image.npy.part").read_bytes()
    assert part == matrix[: len(part)]
    assert len(part) >= 2 * CHUNK_BYTES
    assert none_is_prepared()
    bench("datasets")
    n_asked = len(web.asked)
    bench(*prepare)
    assert web.asked[n_asked:] == ["/image.npy"]
    assert web.received[n_asked]["Range"] == f"bytes={len(part)}-"
    assert (raw / "image.npy").read_bytes() == matrix
    assert {path.name for path in raw.iterdir()} == {"pairs.csv", "image.npy"}
    assert load("mine").n_items == 3


POINTS = [
    pytest.param("bench.data.collect", "_columns", 1, id="reading"),
    pytest.param("bench.data.prepare", "build_features", 1, id="features"),
    pytest.param("numpy", "save", 1, id="writing"),
]


@pytest.mark.parametrize(("module", "function", "call"), POINTS)
def test_killed_on_the_way_the_old_one_stays(prepare, capsys, module, function, call):
    bench(*prepare)
    first = load("mine").fingerprint
    Path("datasets/raw/mine/pairs.csv").write_bytes(pairs(4))
    killed(module, function, call, *prepare, "--force")
    assert load("mine").fingerprint == first
    capsys.readouterr()
    bench("datasets")
    assert "mine" in capsys.readouterr().out
    bench(*prepare)
    assert load("mine").fingerprint == first
    assert leftovers() == []
    bench(*prepare, "--force")
    assert load("mine").n_items == 4
    assert leftovers() == []


def test_killed_between_the_two_renames_the_old_one_comes_back(prepare, capsys):
    bench(*prepare)
    first = load("mine").fingerprint
    Path("datasets/raw/mine/pairs.csv").write_bytes(pairs(4))
    # The old folder goes aside by the first call; the second would bring the new one.
    killed("pathlib", "Path.replace", 2, *prepare, "--force")
    assert not Path("datasets/prepared/mine").exists()
    assert len(leftovers()) == 2
    bench("datasets")
    bench(*prepare)
    assert "mine is already prepared" in capsys.readouterr().err
    assert load("mine").fingerprint == first
    assert leftovers() == []


def test_killed_before_there_was_any_dataset_there_is_none(prepare, capsys):
    killed("bench.data.replace", "_sync", 3, *prepare)
    assert len(leftovers()) == 1
    assert not Path("datasets/prepared/mine").exists()
    bench("datasets", "--json")
    [mine] = [each for each in json.loads(capsys.readouterr().out) if each["name"] == "mine"]
    assert mine["prepared"] == []
    bench(*prepare)
    assert load("mine").n_items == 3
    assert leftovers() == []
