"""Small synthetic files in the formats that Amazon, TikTok and Last.fm data are published in, and commands on them."""

import gzip
import io
import json
import pickle
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from bench.cli import main
from bench.data import PreparedDataset

Listed = namedtuple("Listed", ("id", "path", "local_path"))


def bench(*arguments, code=0):
    """Run a command in this process and hold it to its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    assert (ended.value.code or 0) == code


def refused(capsys, *arguments) -> str:
    """Run a command that a mistake of the user's stops, and return its message: one paragraph, no traceback."""
    capsys.readouterr()
    bench(*arguments, code=2)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert not list(Path("datasets/prepared").glob("*/dataset.json"))
    return error.partition("Error: ")[2]


def loaded(name: str, folder: str = "datasets") -> PreparedDataset:
    dataset = PreparedDataset.load(Path(folder) / "prepared" / name)
    dataset.verify()
    return dataset


def steps(dataset: PreparedDataset) -> list[tuple[str, int, int, int]]:
    return [
        (step["step"], step["users"], step["items"], step["interactions"])
        for step in dataset.metadata["summary"]["steps"]
    ]


def sizes(dataset: PreparedDataset) -> tuple[int, ...]:
    """Interactions for training, validation and test."""
    found = tuple(int((dataset.interactions["split"] == part).sum()) for part in ("train", "valid", "test"))
    assert dataset.metadata["summary"]["split"] == dict(zip(("train", "valid", "test"), found, strict=True))
    return found


def npy(matrix) -> bytes:
    packed = io.BytesIO()
    np.save(packed, matrix, allow_pickle=False)
    return packed.getvalue()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def fake_drive(monkeypatch, files: dict[str, bytes]) -> list[str]:
    """Let gdown find `files` in any Drive folder; return the list that paths are added to when they are fetched."""
    asked: list[str] = []

    def download_folder(*, output: str, **options: object) -> list[Listed]:
        return [Listed(path, path, str(Path(output) / path)) for path in files]

    def download(*, id: str, output: str, **options: object) -> str:
        asked.append(id)
        Path(output).write_bytes(files[id])
        return output

    module = ModuleType("gdown")
    module.download, module.download_folder = download, download_folder
    module.exceptions = SimpleNamespace(DownloadError=type("DownloadError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "gdown", module)
    return asked


# Amazon: twelve users who each rate seven of ten products, and what a 5-core takes away.
ASINS = [f"{31850 + n:010d}" for n in range(5)] + [f"B000{n:05d}X" for n in range(5)]
USERS = [f"A{n:02d}DENSE" for n in range(12)]
RARE = "B00RARE000"
DAY = 1_388_275_200


def liked(user: int) -> list[int]:
    """The products of one user: all but three."""
    return [item for item in range(10) if (item - user) % 10 > 2]


def ratings() -> bytes:
    """97 rows: 84 dense ones, one repeated, four of a user too rare, three and five around a product too rare."""
    rows = [(USERS[user], ASINS[item], 5.0 if item else 1.0, DAY) for user in range(12) for item in liked(user)]
    rows.append((USERS[0], ASINS[liked(0)[0]], 2.0, DAY + 86_400))
    rows += [("AONCE", ASINS[item], 4.0, DAY) for item in range(4)]
    rows += [(USERS[user], RARE, 3.0, DAY) for user in range(3)]
    # With the rare product goes the fifth rating of this user, and so the user, in a second round.
    rows += [("ACASCADE", asin, 4.0, DAY) for asin in [RARE, *ASINS[6:]]]
    return "".join(f"{user},{asin},{rating},{time}\n" for user, asin, rating, time in rows).encode()


def meta(*extra: str) -> bytes:
    """Descriptions as Python literals, of all products but the last; the second has an asin only."""
    first = {
        "asin": ASINS[0],
        "related": {"also_bought": [RARE, "x"]},
        "title": 'Baby\'s "first" spoon',
        "price": 5.99,
        "salesRank": {"Baby": 7},
        "imUrl": "http://example.org/a.jpg",
        "brand": "Spoons & Söhne",
        "categories": [["Baby", "Feeding"], ["Gifts"]],
        "description": "line one\nline 'two' \\ {'asin': 'x'}",
    }
    entries = [first, {"asin": ASINS[1]}]
    entries += [{"title": f"cup number {n}", "categories": [["Baby"]], "asin": ASINS[n]} for n in range(2, 9)]
    entries.append({"asin": ASINS[2], "title": "a second line about the same product"})
    return gzip.compress("\n".join([*map(repr, entries), *extra, ""]).encode())


def records(ids=(ASINS[9], *ASINS[:3], "B00NOBODY0", *ASINS[4:9], ASINS[0]), numbers=4096) -> bytes:
    """Image features of all products but the fourth, one of them twice, one of a product that nobody rated."""
    kind = np.dtype([("id", "S10"), ("vector", "<f4", (numbers,))])
    block = np.zeros(len(ids), dtype=kind)
    for row, asin in enumerate(ids):
        block[row] = (asin.encode(), picture(asin, numbers) if asin not in ids[:row] else -1)
    assert kind.itemsize == 10 + 4 * numbers
    return block.tobytes()


def picture(asin: str, numbers: int = 4096):
    place = ASINS.index(asin) if asin in ASINS else 99
    return np.arange(numbers, dtype=np.float32) + np.float32(place * 2)


# TikTok: user u, item i and the part of the split.
TIKTOK = [(u, i, 0) for u in range(6) for i in range(4) if (u + i) % 3] + [(6, 5, 1), (0, 4, 1), (7, 0, 2), (1, 5, 2)]
SHAPE = (8, 6)


class coo_matrix:
    """What a SciPy of 2018 pickled."""

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        self._shape, self.maxprintlen, self.has_canonical_format = SHAPE, 50, False
        self.row, self.col = (np.array([pair[side] for pair in pairs], dtype=np.int32) for side in (0, 1))
        self.data = np.ones(len(pairs), dtype=np.float64)


def old_pickle(part: int) -> bytes:
    packed = pickle.dumps(coo_matrix([(u, i) for u, i, p in TIKTOK if p == part]), protocol=2)
    packed = packed.replace(b"cpublished_files\n", b"cscipy.sparse.coo\n")
    return packed.replace(b"numpy._core.", b"numpy.core.")


def tiktok_features(names: tuple[str, str]) -> dict[str, bytes]:
    rows = np.arange(SHAPE[1] * 4).reshape(SHAPE[1], 4)
    return {names[0]: npy((rows / 8).astype(np.float16)), names[1]: npy((-rows - 1).astype(np.float16))}


def tiktok_pickles() -> dict[str, bytes]:
    files = {name: old_pickle(part) for part, name in enumerate(("trnMat.pkl", "valMat.pkl", "tstMat.pkl"))}
    return files | tiktok_features(("image_feat.npy", "audio_feat.npy"))


def tiktok_lists() -> dict[str, bytes]:
    files = tiktok_features(("image_feat.npy", "audio_feat.npy"))
    for part, name in enumerate(("train.json", "val.json", "test.json")):
        lists = {str(u): [i for v, i, p in TIKTOK if (u, part) == (v, p)] for u in range(SHAPE[0])}
        files[name] = json.dumps(lists).encode()
    return files


def tiktok_table() -> dict[str, bytes]:
    rows = "".join(f"{u},{i},{p}\n" for u, i, p in reversed(TIKTOK))
    table = gzip.compress(f"user,item,split\n{rows}".encode())
    return {"interactions.csv.gz": table, **tiktok_features(("visual.npy", "acoustic.npy"))}


# Last.fm: user u, item i and the part of the split.
LASTFM = [(u, i, (u + i) % 3) for u in range(4) for i in range(4) if u != i]


def lastfm() -> dict[str, bytes]:
    rows = "".join(f"{u}\t{i}\t1\t{p}\n" for u, i, p in LASTFM)
    text = np.arange(4 * 384, dtype=np.float32).reshape(4, 384)
    sound = np.array([0.0, 255.0, 0.0, 255.0])[:, None] * np.ones(128)
    sound[:, 1] = 7
    return {
        "lfm2k.inter": f"userID\titemID\trating\tx_label\n{rows}".encode(),
        "all-MiniLM-L6-v2.npy": npy(text),
        "vggish.npy": npy(sound),
        "whisper.npy": npy(text[:, :512] * 0.5),
    }
