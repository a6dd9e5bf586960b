"""Two machines that prepare the same raw files get the same dataset, to the last byte of its fingerprint."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from lens_files import GENRES, bench, lay, zipped
from published import without_facts

from bench.workspace import Workspace

FILMS, USERS = 150, 15
SYLLABLES = ["ba", "né", "ru", "ço", "mi", "ta", "lö", "ve", "si", "ka", "dø", "fu"]
# How Python orders sets, which letters a terminal knows, what time it is, and how many threads multiply matrices.
MACHINES = {
    "packed": {
        "PYTHONHASHSEED": "1",
        **{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "TZ": "JST-9",
        **{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    },
    "unpacked, elsewhere": {
        "PYTHONHASHSEED": "2",
        **{"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
        "TZ": "EST5EDT",
        **{"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    },
}


@pytest.fixture(scope="module")
def files():
    """Files in GroupLens' format with enough titles that their decomposition is worth several threads."""
    rng = np.random.default_rng(11)
    words = ["".join(rng.choice(SYLLABLES, 3)) for _ in range(400)]
    items = []
    for film in range(1, FILMS + 1):
        title = " ".join(rng.choice(words, rng.integers(2, 7)))
        flags = "|".join(map(str, rng.integers(0, 2, len(GENRES))))
        year = rng.integers(1930, 1999)
        items.append(f"{film}|{title} ({year})|01-Jan-{year}||http://example.org/{film}|{flags}\n")
    # Everyone has seen four of five films, and every film has twelve ratings.
    seen = [(user, film) for user in range(USERS) for film in range(FILMS) if (user + film) % 5]
    pairs = rng.permutation(seen).tolist()
    rows = [f"{user + 1}\t{film + 1}\t{at % 5 + 1}\t{880_000_000 + at // 3}\n" for at, (user, film) in enumerate(pairs)]
    return {"ml-100k/u.data": "".join(rows).encode(), "ml-100k/u.item": "".join(items).encode("latin-1")}


def start(folder, have, environment):
    """Start `bench prepare` in a folder of its own, as on a machine of its own."""
    without_facts("ml-100k", Workspace(folder / "datasets"))
    command = [sys.executable, "-m", "bench", "prepare", "ml-100k", "--source", "grouplens", "--from", str(have)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    return subprocess.Popen(
        command, cwd=folder, env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def content(folder):
    """Return the fingerprint and the bytes of all matrices."""
    prepared = folder / "datasets" / "prepared" / "ml-100k"
    document = json.loads((prepared / "dataset.json").read_text(encoding="utf-8"))
    return document["fingerprint"], {path.name: path.read_bytes() for path in (prepared / "features").iterdir()}


def test_two_machines_get_the_same_fingerprint(files, tmp_path):
    folders = {name: tmp_path / f"of machine {number}" for number, name in enumerate(MACHINES)}
    raw = {
        "packed": lay(tmp_path / "downloads", {"from the web/ml-100k.zip": zipped(files)}),
        "unpacked, elsewhere": lay(tmp_path / "Été", files, flat=True),
    }
    running = {name: start(folders[name], raw[name], MACHINES[name]) for name in MACHINES}
    for name, process in running.items():
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, (name, out, err)
    one, other = (content(folder) for folder in folders.values())
    assert one == other
    assert set(one[1]) == {"text.npy", "genre.npy"}
    assert np.load(folders["packed"] / "datasets/prepared/ml-100k/features/text.npy").shape == (FILMS, 64)


def shuffled(text):
    lines = np.array(text.splitlines(keepends=True), dtype=object)
    return b"".join(np.random.default_rng(5).permutation(lines))


def test_the_order_of_rows_has_no_part_in_it_and_what_they_say_has(files, tmp_path, monkeypatch):
    def prepared(name, **changes):
        folder = tmp_path / name
        without_facts("ml-100k", Workspace(folder / "datasets"))
        monkeypatch.chdir(folder)
        changed = {f"ml-100k/{member.replace('_', '.')}": text for member, text in changes.items()}
        bench("prepare", "ml-100k", "--source", "grouplens", "--from", str(lay(folder / "have", files | changed)))
        return content(folder)[0]

    ratings, films = files["ml-100k/u.data"], files["ml-100k/u.item"]
    first = prepared("first")
    assert prepared("rows", u_data=shuffled(ratings), u_item=shuffled(films)) == first
    changes = {
        "one second later": {"u_data": ratings.replace(b"\t880000000\n", b"\t880000001\n", 1)},
        "one word more": {"u_item": films.replace(b" (19", b" again (19", 1)},
        "one rating less": {"u_data": b"".join(ratings.splitlines(keepends=True)[1:])},
    }
    assert len({first, *(prepared(name, **change) for name, change in changes.items())}) == 4
