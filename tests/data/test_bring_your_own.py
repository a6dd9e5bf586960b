"""Data of one's own from end to end: a recipe of at most ten lines, and the files as they are."""

import csv
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from published_files import bench, loaded, npy, put, refused, sizes, steps

pytestmark = pytest.mark.usefixtures("in_empty_folder")

CSV = """
name = "films"
steps = [{ kind = "dedupe" }, { kind = "core", k = 3 }]
split.method = "chronological"
features.poster = { encoder = "file", file = "poster.npy", rows = "order" }
features.text = { encoder = "tfidf-svd", fields = ["title", "plot"], width = 3 }
[[sources]]
kind = "local"
folder = "mine"
interactions = { file = "log.csv", user = "who", item = "what", timestamp = "when", timestamp_unit = "iso" }
items = { file = "films.csv", id = "film" }
"""

RECBOLE = """
name = "films"
steps = [{ kind = "positive", minimum = 3 }]
features.text = { encoder = "tfidf-svd", fields = ["title"] }
[[sources]]
kind = "local"
folder = "mine"
layout = "recbole"
dataset = "ml"
interactions = { rating = "rating:float", timestamp = "timestamp:float" }
items.fields = { title = "movie_title:token_seq", genre = "class:token_seq" }
"""

MMREC = """
name = "films"
sources = [{ kind = "local", folder = "mine", layout = "mmrec", dataset = "shop" }]
split = { method = "given" }
[features]
image = { encoder = "file", file = "image_feat.npy" }
text = { encoder = "file", file = "text_feat.npy" }
"""

PICTURES = """
name = "films"
sources = [{ kind = "local", folder = "mine", interactions = { file = "log.csv" } }]
steps = [{ kind = "available", modalities = ["poster"] }]
[features]
poster = { encoder = "image:model", images = ["posters/{id}.png"], missing = "drop" }
"""

# Six users who each saw five of six films, a visitor with two, and a film seen once.
SEEN = [(user, (user + place) % 6, 100 * place + user) for user in range(6) for place in range(5)]
LOG = pd.DataFrame(
    [
        *((f"u{user}", f"0{film}", time) for user, film, time in SEEN),
        *(("visitor", "00", 1), ("visitor", "01", 2)),
        ("u0", "09", 9),
        ("u0", "00", 999),
    ],
    columns=["who", "what", "when"],
).assign(when=lambda rows: pd.to_datetime(rows["when"], unit="D"))
FILMS = pd.DataFrame({"film": ["09", *(f"0{film}" for film in reversed(range(6)))]}).assign(
    title=lambda rows: 'the "film", number ' + rows["film"], plot=["", "", "a dog", "a cat", "two, dogs", "no dog", "x"]
)
POSTER = np.arange(14, dtype=np.float64).reshape(7, 2)
FORMS = ["csv", "tsv", "csv.gz", "parquet"]


def own(text: str) -> str:
    """Save a recipe, and hold it to ten lines."""
    lines = text.strip().splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 120
    path = Path("datasets/films.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return "films"


def save(frame: pd.DataFrame, name: str) -> None:
    path = Path("datasets/mine") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        # Quotes keep a cell together where commas separate, and are letters elsewhere.
        form = {"sep": "\t", "quoting": csv.QUOTE_NONE} if name.endswith(".tsv") else {}
        frame.to_csv(path, index=False, **form)


def save_films(form: str) -> str:
    put(Path("datasets/mine"), {"poster.npy": npy(POSTER)})
    save(LOG, f"log.{form}")
    save(FILMS, f"films.{form}")
    return CSV.replace("log.csv", f"log.{form}").replace("films.csv", f"films.{form}")


@pytest.mark.parametrize("form", FORMS)
def test_tables_of_any_form_and_any_names(form, capsys):
    bench("prepare", own(save_films(form)))
    dataset = loaded("films")
    assert steps(dataset) == [("read", 7, 7, 34), ("dedupe", 7, 7, 33), ("core", 6, 6, 30)]
    assert sizes(dataset) == (18, 6, 6)
    assert dataset.items["id"].tolist() == [f"0{film}" for film in range(6)]
    last = dataset.interactions[dataset.interactions["split"] == "test"]
    assert last["item"].tolist() == [(user + 4) % 6 for user in range(6)]
    assert last["timestamp"].tolist() == [86_400 * (400 + user) for user in range(6)]
    assert dataset.features["poster"][:, 0].tolist() == [12, 10, 8, 6, 4, 2], "rows follow the items file"
    items = pd.read_parquet(dataset.folder / "items.parquet").set_index("id")
    assert items.loc["03", ["title", "plot"]].tolist() == ['the "film", number 03', "a cat"]
    assert dataset.features["text"].shape == (6, 3)
    assert "step core (users >= 3, items >= 3): 7 -> 6 users, 7 -> 6 items, 33 -> 30" in capsys.readouterr().err


def test_the_form_has_no_part_in_the_fingerprint():
    found = set()
    for form in FORMS:
        bench("prepare", own(save_films(form)), "--force")
        found.add(loaded("films").fingerprint)
    assert len(found) == 1


def test_whole_numbers_in_parquet_are_the_ids_of_the_text():
    recipe = CSV.replace("log.csv", "log.FORM").replace("films.csv", "films.FORM")
    found = set()
    for form in ("csv", "parquet"):
        put(Path("datasets/mine"), {"poster.npy": npy(POSTER)})
        save(LOG.assign(what=LOG["what"].astype(int)), f"log.{form}")
        save(FILMS.assign(film=FILMS["film"].astype(int)), f"films.{form}")
        bench("prepare", own(recipe.replace("FORM", form)), "--force")
        found.add(loaded("films").fingerprint)
    assert len(found) == 1
    assert loaded("films").items["id"].tolist() == ["0", "1", "2", "3", "4", "5"]


def test_a_recipe_in_a_file_anywhere():
    save_films("csv")
    own(CSV)
    Path("datasets/films.toml").rename("datasets/mine/recipe.toml")
    Path("datasets/mine/recipe.toml").write_text(CSV.replace('folder = "mine"', 'folder = "."'))
    bench("prepare", "datasets/mine/recipe.toml")
    assert steps(loaded("films"))[-1] == ("core", 6, 6, 30)


def test_without_items_and_features():
    save(LOG.drop_duplicates(["who", "what"]), "log.csv")
    source = '{ kind = "local", folder = "mine", interactions = { file = "log.csv", user = "who", item = "what" } }'
    bench("prepare", own(f'name = "films"\nsources = [{source}]\nsteps = [{{ kind = "core", k = 3 }}]'))
    dataset = loaded("films")
    assert (sizes(dataset), dataset.features) == ((18, 6, 6), {})
    assert "timestamp" not in dataset.interactions.columns


def floats() -> None:
    save(LOG.assign(what=[None, *LOG["what"].astype(int)[1:]]), "log.parquet")


def other_names() -> None:
    save(LOG.rename(columns={"what": "watt"}), "log.parquet")


def web_page() -> None:
    put(Path("datasets/mine"), {"log.parquet": b"<html>Sign in</html>"})


def fewer_rows() -> None:
    put(Path("datasets/mine"), {"poster.npy": npy(POSTER[:-1])})


def not_finite() -> None:
    put(Path("datasets/mine"), {"poster.npy": npy(np.where(POSTER == 5, np.inf, POSTER))})


def repeated_film() -> None:
    save(pd.concat([FILMS, FILMS[2:3]]), "films.parquet")


FAILURES = [
    (floats, r"the column 'what' should hold ids .* type is double, as pandas makes of whole numbers where one is mi"),
    (
        other_names,
        r"expects the column 'what' \(did you mean 'watt'\?\), but the file has the columns 'who', 'watt', '",
    ),
    (web_page, r"log.parquet is damaged, or no Parquet file although it is called one"),
    (fewer_rows, r"poster.npy has 6 rows, but the items file has 7"),
    (not_finite, r"'poster' features \(.*poster.npy\) have 1 values that are NaN or infinite"),
    (
        repeated_film,
        r"films.parquet, row 7 \(counted from 0\): the column 'film' should hold an id that no line before",
    ),
]


@pytest.mark.parametrize(("spoil", "words"), FAILURES)
def test_a_file_that_is_wrong_and_then_repaired(capsys, spoil, words):
    own(save_films("parquet"))
    spoil()
    message = refused(capsys, "prepare", "films")
    assert re.search(words, message), message
    save_films("parquet")
    bench("prepare", "films")


def atomic_files() -> dict[str, bytes]:
    rows = "".join(f"{user}\t{film + 100}\t{5 if film != user else 1}.0\t{time}\n" for user, film, time in SEEN)
    films = "".join(f"{film + 100}\tFilm {film}, a title\t1990\tDrama Action\n" for film in range(6))
    return {
        "ml.inter": f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n{rows}".encode(),
        "ml.item": f"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n{films}".encode(),
    }


@pytest.mark.parametrize("packed", [False, True])
def test_atomic_files_of_recbole(packed):
    files = atomic_files()
    put(Path("datasets/mine"), {f"{name}.gz": gzip.compress(text) for name, text in files.items()} if packed else files)
    bench("prepare", own(RECBOLE))
    dataset = loaded("films")
    assert steps(dataset) == [("read", 6, 6, 30), ("positive", 6, 6, 24)]
    assert sizes(dataset) == (12, 6, 6)
    assert dataset.items["id"].tolist() == ["100", "101", "102", "103", "104", "105"]
    assert dataset.features["text"].shape[0] == 6
    assert dataset.interactions["timestamp"].max() == 405
    items = pd.read_parquet(dataset.folder / "items.parquet")
    assert items.iloc[2].tolist() == ["102", "Film 2, a title", "Drama Action"]


def test_a_folder_of_mmrec():
    rows = "".join(f"{user}\t{film}\t1.0\t{film % 3}\n" for user, film, _ in SEEN)
    image, text = np.arange(24.0).reshape(6, 4), np.ones((6, 2), dtype=np.float32)
    inter = f"userID\titemID\trating\tx_label\n{rows}".encode()
    put(Path("elsewhere"), {"shop.inter": inter, "image_feat.npy": npy(image), "text_feat.npy": npy(text)})
    bench("prepare", own(MMREC), "--from", "elsewhere")
    dataset = loaded("films")
    assert steps(dataset) == [("read", 6, 6, 30)]
    assert sizes(dataset) == tuple(sum(film % 3 == part for _, film, _ in SEEN) for part in range(3))
    assert dataset.features["image"].tolist() == image.tolist()
    assert dataset.features["text"].shape == (6, 2)


def tiny_model() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained("model")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    Path("model/preprocessor_config.json").write_text(json.dumps(settings))


def test_pictures_in_a_folder():
    tiny_model()
    from PIL import Image

    save(LOG[:30].rename(columns={"who": "user", "what": "item"}), "log.csv")
    folder = Path("datasets/mine/posters")
    folder.mkdir()
    for film in range(5):
        Image.new("RGB", (20, 30), (0, 0, 200) if film in (1, 2) else (60 * film, 10, 10)).save(folder / f"0{film}.png")
    bench("prepare", own(PICTURES), "--device", "cpu")
    dataset = loaded("films")
    assert steps(dataset) == [("read", 6, 6, 30), ("available", 6, 5, 25)], "a film without a picture goes"
    poster = dataset.features["poster"]
    assert poster.shape == (5, 8)
    np.testing.assert_array_equal(poster[1], poster[2])
    assert len(np.unique(poster, axis=0)) == 4
