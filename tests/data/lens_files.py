"""Small files in the formats of MicroLens and MovieLens, whose k-cores can be counted by hand.

Twelve users see all of twelve items, six others all of six others, and around them lies what a core must drop:

| users | items | of them | 10-core | 5-core |
|---|---|---|---|---|
| 1 to 12 | `POPULAR` | all | stay | stay |
| 13 to 18 | `NICHE` | all | go | stay |
| 19 | `POPULAR` | 4 | goes | goes |
| 20 | `POPULAR` and `LONE` | 4 + 1 | goes | goes once `LONE` is gone |
| 21 to 23 | `LONE` | 1 | go | go, and `LONE` has only 4 |
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from webserver import Web

from bench.cli import main
from bench.data import load_recipe
from bench.workspace import builtin_recipes

POPULAR, NICHE, LONE = list(range(1, 25, 2)), list(range(40, 46)), 49
RAW = {"users": 23, "items": 19, "interactions": 192}
CORE_5 = {"users": 18, "items": 18, "interactions": 180}
CORE_10 = {"users": 12, "items": 12, "interactions": 144}
# What the titles of the 100k set leave empty.
UNTITLED = 7
START_MS = 1_583_378_629_552

Files = dict[str, bytes]


def bench(*arguments: str, code: int = 0) -> None:
    """Run a command in this process and hold it to its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


def interactions() -> list[tuple[int, int, int]]:
    """Return user, item and place in time, by user and item, which is not the order of time."""
    pairs = [(user, item) for user in range(1, 13) for item in POPULAR]
    pairs += [(user, item) for user in range(13, 19) for item in NICHE]
    pairs += [(user, item) for user in (19, 20) for item in POPULAR[:4]]
    pairs += [(user, LONE) for user in range(20, 24)]
    places = np.random.default_rng(3).permutation(len(pairs)).tolist()
    return [(*pair, place) for pair, place in zip(pairs, places, strict=True)]


def milliseconds(place: int) -> int:
    return START_MS + 61_001 * place


def pairs_csv(more: str = "") -> bytes:
    rows = "".join(f"{user},{item},{milliseconds(place)}\n" for user, item, place in interactions())
    return f"user,item,timestamp\n{rows}{more}".encode()


def sequences() -> dict[int, list[int]]:
    """Return the items of every user, oldest first."""
    by_user: dict[int, list[int]] = {}
    for user, item, _ in sorted(interactions(), key=lambda row: row[2]):
        by_user.setdefault(user, []).append(item)
    return by_user


def pairs_tsv() -> bytes:
    return "".join(f"{user}\t{' '.join(map(str, items))}\n" for user, items in sequences().items()).encode()


def titles() -> dict[int, str]:
    """Return a title for every item, with quotes, commas, hashtags and Chinese; one item has no interaction."""
    named = {item: f"Clip {item}, seen by many # pets # fun{item % 4}" for item in [*POPULAR, 30, *NICHE, LONE]}
    return named | {3: 'The "best" cat, ever', 5: "猫 和 狗 # 宠物", 9: "one two three"}


def quoted_titles(of: Mapping[int, str], line_end: str = "\r\n") -> bytes:
    """Write titles as those of the 50k set are: a header, quotes where needed."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=line_end).writerows([("item", "title"), *of.items()])
    return text.getvalue().encode()


def bare_titles(of: Mapping[int, str]) -> bytes:
    """Write titles as those of the 100k and the 1M set are: no header, no quotes, all after the first comma."""
    return "".join(f"{item},{title}\n" for item, title in of.items()).encode()


def matrix(shift: int, kind: str = "float32", rows: int = 50) -> np.ndarray:
    """Return numbers that tell their row and column, exact also in half precision; row r belongs to item r + 1."""
    return (np.arange(4 * rows).reshape(rows, 4) / 8 + shift).astype(kind)


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def microlens_files(kind: str = "float32") -> Files:
    """Return the files of the 50k set by their addresses below the server's."""
    features = "MicroLens-100k-Dataset/extracted_modality_features/MicroLens-100k"
    other = titles() | {UNTITLED: "", 9: "One  TWO three"}
    return {
        "MicroLens-50k-Dataset/MicroLens-50k_pairs.csv": pairs_csv(),
        "MicroLens-50k-Dataset/MicroLens-50k_pairs.tsv": pairs_tsv(),
        "MicroLens-50k-Dataset/MicroLens-50k_titles.csv": quoted_titles(titles()),
        "MicroLens-100k-Dataset/MicroLens-100k_title_en.csv": bare_titles(other),
        f"{features}_image_features_CLIPRN50.npy": npy(matrix(0, kind)),
        f"{features}_title_en_text_features_BgeM3.npy": npy(matrix(30, kind)),
    }


GENRES = [
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
]


def films() -> dict[int, tuple[str, str, list[str]]]:
    """Return title, year and genres of every film; one has no rating."""
    plain = {
        item: (f"Story {item}, The", str(1930 + item), ["Drama"] if item % 3 else ["Comedy", "Drama"])
        for item in [*POPULAR, 30, *NICHE, LONE]
    }
    return plain | {3: ("Été à Nîmes", "1961", ["Romance"]), 5: ("Two (Part 2)", "1999", ["Children's", "Sci-Fi"])}


def ratings() -> Iterator[tuple[int, int, int, int]]:
    """Yield user, film, rating from 1 to 5, and seconds."""
    for user, item, place in interactions():
        yield user, item, place % 5 + 1, 874_724_710 + 61 * place


def ml_1m_files() -> Files:
    rows = "".join(f"{'::'.join(map(str, row))}\n" for row in ratings())
    movies = "".join(f"{film}::{title} ({year})::{'|'.join(of)}\n" for film, (title, year, of) in films().items())
    return {
        "ml-1m/ratings.dat": rows.encode(),
        "ml-1m/movies.dat": movies.encode("latin-1"),
        "ml-1m/users.dat": b"1::F::1::10::48067\n",
        "ml-1m/README": b"terms",
    }


def ml_100k_files() -> Files:
    """Return the members of GroupLens' archive."""
    rows = "".join("\t".join(map(str, row)) + "\n" for row in ratings())
    items = ""
    for film, (title, year, of) in films().items():
        flags = "|".join("1" if genre in of else "0" for genre in GENRES)
        items += f"{film}|{title} ({year})|01-Jan-{year}||http://example.org/{film}|{flags}\n"
    return {"ml-100k/u.data": rows.encode(), "ml-100k/u.item": items.encode("latin-1"), "ml-100k/README": b"terms"}


def ml_100k_atomic_files() -> Files:
    """Return the same as the files of RecBole's copy."""
    rows = "".join("\t".join(map(str, row)) + "\n" for row in ratings())
    items = "".join(f"{film}\t{title}\t{year}\t{' '.join(of)}\n" for film, (title, year, of) in films().items())
    return {
        "ml-100k.inter": f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n{rows}".encode(),
        "ml-100k.item": f"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n{items}".encode(),
    }


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def serve(web: Web, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        web.file(f"/{path}", content)


def lay(folder: Path, files: Mapping[str, bytes], *, flat: bool = False) -> Path:
    """Write files into a folder, under their paths or their bare names."""
    for path, content in files.items():
        target = folder / (Path(path).name if flat else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


def with_facts(name: str, folder: Path, facts: Mapping[str | int, str | int]) -> Path:
    """Copy a shipped recipe into a folder, with other sizes, checksums and counts in place of the real ones."""
    text = (builtin_recipes() / f"{name}.toml").read_text(encoding="utf-8")
    for real, other in facts.items():
        text, n_found = re.subn(rf"\b{real}\b", str(other), text)
        assert n_found, f"{name} does not know {real}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    load_recipe(path)
    return path
