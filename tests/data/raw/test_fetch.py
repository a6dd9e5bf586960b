import hashlib
import io
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.data.raw.fetch import Located, locate, needed_files
from bench.data.raw.unavailable import UnavailableError
from bench.data.reading.items import read_items
from bench.data.reading.read import interaction_batches
from bench.data.recipes.recipe import load_recipe
from bench.errors import DataError, UsageError
from bench.workspace import Workspace, builtin_recipes

PAIRS = b"user,item\n1,2\n"
IMAGE = '[features.image]\nencoder = "file"\nfile = "image.npy"\n'


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "datasets", tmp_path / "results")


@pytest.fixture
def find(tmp_path, workspace):
    """Locate the files of a recipe with the given sources; returns (located, report lines)."""

    def run(sources: str, source: str | None = None, rest: str = "", **options: object) -> tuple[Located, list[str]]:
        path = tmp_path / "mine.toml"
        path.write_text(f'name = "mine"\n{sources}\n{rest}')
        lines: list[str] = []
        return locate(load_recipe(path), workspace, source=source, report=lines.append, **options), lines

    return run


def entry(kind: str, name: str, keys: str = "", file: str = "pairs.csv") -> str:
    return f'[[sources]]\nname = "{name}"\nkind = "{kind}"\n{keys}\ninteractions = {{ file = "{file}" }}\n'


def http(url: str, extra: str = "", file: str = "pairs.csv", name: str = "web") -> str:
    return entry("http", name, f'downloads = [{{ url = "{url}"{extra} }}]', file)


def local(folder: str, file: str = "pairs.csv", name: str = "here") -> str:
    return entry("local", name, f'folder = "{folder}"', file)


def package(name: str, folder: str = "data") -> str:
    return entry("package", name, f'package = "{name}"\nfolder = "{folder}"')


def manual(file: str = "pairs.csv") -> str:
    keys = 'page = "https://example.org/set"\nhow = "Log in, accept the terms, and take the zip files."'
    return entry("manual", "by-hand", keys, file)


KAGGLE = entry("kaggle", "kaggle", 'handle = "some/set"\npage = "https://www.kaggle.com/some/set"')
DRIVE = entry("drive", "drive", 'folder_id = "0123456789abc"')
GENERATED = '[[sources]]\nkind = "generated"\ngenerator = "planted"\n'


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def put(path: Path, content: bytes = PAIRS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def refusal(find, *arguments: object, error: type = DataError, **options: object) -> str:
    with pytest.raises(error) as caught:
        find(*arguments, **options)
    return str(caught.value)


def pairs(located: Located) -> bytes:
    return located.files.find("pairs.csv").read_bytes()


def test_a_file_from_the_web(web, find, workspace):
    web.files["/a/pairs.csv"] = (200, PAIRS)
    located, lines = find(http(f"{web.url}/a/pairs.csv"))
    assert located.files.folder == workspace.raw("mine")
    assert pairs(located) == PAIRS
    assert lines[-1] == f"source 'web': {workspace.raw('mine')}"
    find(http(f"{web.url}/a/pairs.csv"))
    assert web.asked == ["/a/pairs.csv"], "asked once"


def test_an_archive_from_the_web_stays_packed(web, find, workspace):
    web.files["/set.zip"] = (200, zipped({"set/pairs.csv": PAIRS, "../outside.csv": b"no"}))
    located, _ = find(http(f"{web.url}/set.zip", file="set/pairs.csv"))
    assert located.files.find("set/pairs.csv").read_bytes() == PAIRS
    assert [path.name for path in workspace.raw("mine").iterdir()] == ["set.zip"]
    message = refusal(find, http(f"{web.url}/set.zip", file="other.csv"))
    assert "lacks other.csv. It holds set.zip, set.zip/set/pairs.csv." in message


def test_a_broken_archive_from_the_web(web, find, workspace):
    web.files["/set.zip"] = (200, b"no zip")
    message = refusal(find, http(f"{web.url}/set.zip"))
    assert f"{workspace.raw('mine') / 'set.zip'} is damaged or not complete" in message


def test_a_file_in_an_archive_that_cannot_be_read(find, workspace):
    data = bytearray(zipped({"pairs.csv": PAIRS}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path = put(workspace.raw("mine") / "set.zip", bytes(data))
    assert f"source 'by-hand': {path}: pairs.csv is locked with a password." in refusal(find, manual())


def test_variants_of_a_dataset_share_their_raw_files(web, find, workspace, tmp_path):
    web.files["/pairs.csv"] = (200, PAIRS)
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\n{http(f"{web.url}/pairs.csv")}')
    variant = load_recipe(path).with_changes({"name": "mine@5core"})
    located = locate(variant, workspace, source=None, report=lambda line: None)
    assert located.files.folder == workspace.raw("mine")
    assert located.recipe.name == "mine@5core"


def test_local_folders(find, tmp_path, monkeypatch):
    put(tmp_path / "raw" / "pairs.csv")
    assert find(local("raw"))[0].files.folder == tmp_path / "raw", "relative to the recipe"
    assert find(local(str(tmp_path / "raw")))[0].files.folder == tmp_path / "raw"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find(local("~/raw"))[0].files.folder == tmp_path / "raw"
    message = refusal(find, local("nowhere"))
    assert f"there is no folder {tmp_path / 'nowhere'}. Put pairs.csv there" in message
    assert "lacks other.csv. It holds pairs.csv" in refusal(find, local("raw", "other.csv"))


def test_all_files_of_a_recipe_must_be_there(find, tmp_path):
    put(tmp_path / "raw" / "pairs.csv")
    assert "lacks image.npy" in refusal(find, local("raw"), None, IMAGE)


def test_the_recipe_is_the_one_of_the_source(find, tmp_path):
    put(tmp_path / "raw" / "pairs.csv")
    own = local("raw") + "[sources.features]\n"
    located, _ = find(own, None, IMAGE)
    assert located.recipe.features == {}, "so image.npy is not needed"


def test_what_a_recipe_needs(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        name = "mine"
        [[sources]]
        kind = "local"
        folder = "raw"
        interactions = { file = ["a.txt", "b.txt"] }
        items = { file = "items.txt" }
        [[sources]]
        name = "parts"
        kind = "local"
        folder = "raw"
        interactions = { format = "user-lists", parts = { train = "t.json", valid = "v.json", test = "s.json" } }
        split = { method = "given" }
        [sources.features]
        image = { encoder = "file", file = "image.npy" }
        [features]
        image = { encoder = "records", file = "image.b" }
        other = { encoder = "file", file = "o.npy", same_items = { items = { file = "titles.csv" } } }
        text = { encoder = "tfidf-svd", fields = ["title"] }
        again = { encoder = "file", file = "o.npy" }
        """
    )
    recipe = load_recipe(path)
    first, second = recipe.sources
    tables = ["a.txt", "b.txt", "items.txt"]
    assert needed_files(recipe.at(first), first) == [*tables, "image.b", "o.npy", "titles.csv"]
    assert needed_files(recipe.at(second), second) == ["t.json", "v.json", "s.json", "image.npy"]


def test_the_first_source_that_works_is_taken(web, find):
    web.files["/pairs.csv"] = (200, PAIRS)
    sources = local("nowhere") + http(f"{web.url}/gone.csv", name="old") + http(f"{web.url}/pairs.csv", name="new")
    located, lines = find(sources)
    assert located.source.name == "new"
    words = [line.split(":")[0] for line in lines if line.startswith("source")]
    assert words == ["source 'here'", "source 'old'", "source 'new'"]
    located, lines = find(sources, "new")
    assert not any("here" in line for line in lines)
    with pytest.raises(DataError, match="there is no folder"):
        find(sources, "here")
    with pytest.raises(UsageError, match=r"Unknown source of mine 'nwe'\. Did you mean new"):
        find(sources, "nwe")


def test_when_no_source_works_each_says_why(web, find, tmp_path):
    put(tmp_path / "raw/a/pairs.csv")
    put(tmp_path / "raw/b/pairs.csv")
    message = refusal(find, local("nowhere") + http(f"{web.url}/gone/pairs.csv") + local("raw", name="twice"))
    assert message.splitlines()[0] == "The raw files of mine are not available."
    assert "source 'here': there is no folder" in message
    assert f"source 'web': {web.url}/gone/pairs.csv" in message
    assert "source 'twice': more than one file could be pairs.csv" in message


def test_packages_are_found_without_being_imported(find, tmp_path, monkeypatch):
    put(tmp_path / "carrier" / "__init__.py", b"raise RuntimeError('imported')")
    put(tmp_path / "carrier" / "data" / "pairs.csv")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find(package("carrier"))[0].files.folder == tmp_path / "carrier" / "data"
    assert "has no folder gone" in refusal(find, package("carrier", "gone"))
    message = refusal(find, package("no_such_package_at_all"))
    assert "is not installed (pip install no_such_package_at_all)" in message


def test_files_to_fetch_by_hand(find, workspace):
    raw = workspace.raw("mine")
    message = refusal(find, manual(), None, IMAGE)
    assert message.splitlines()[1] == (
        f"  source 'by-hand': its files have to be fetched by hand from https://example.org/set. Log in, accept the "
        f"terms, and take the zip files. Put them, packed or not, into {raw}, or say with --from DIR where they are. "
        f"{raw} lacks pairs.csv, image.npy. It holds no files."
    )
    put(raw / "set.zip", zipped({"deep/PAIRS.csv": PAIRS}))
    assert f"{raw} lacks image.npy. It holds set.zip, set.zip/deep/PAIRS.csv." in refusal(find, manual(), None, IMAGE)
    located, _ = find(manual())
    assert pairs(located) == PAIRS


def test_kaggle_and_drive_go_to_their_own_fetchers(find, workspace, monkeypatch):
    asked = []

    def fetch(source: object, folder: Path, report: object) -> Path:
        asked.append((source.kind, folder))
        if source.kind == "kaggle":
            raise UnavailableError("no token.")
        return put(folder / "inner" / "pairs.csv").parent

    hosted = types.ModuleType("bench.data.raw.hosted")
    hosted.from_kaggle = hosted.from_drive = fetch
    monkeypatch.setitem(sys.modules, "bench.data.raw.hosted", hosted)
    located, lines = find(KAGGLE + DRIVE)
    assert asked == [("kaggle", workspace.raw("mine")), ("drive", workspace.raw("mine"))]
    assert lines == ["source 'kaggle': no token.", f"source 'drive': {workspace.raw('mine') / 'inner'}"]
    assert located.files.folder == workspace.raw("mine") / "inner"


def test_a_generated_source_writes_its_files(find, workspace):
    located, _ = find(GENERATED + "params = { n_users = 30, n_items = 120, mean_clicks = 9.0 }")
    assert located.files.folder == workspace.raw("mine")
    assert located.files.names() == ["interactions.csv", "items.csv", "text.npy", "visual.npy"]
    assert np.load(workspace.raw("mine") / "text.npy").shape[0] == 120
    message = refusal(find, GENERATED + "params = { n_usres = 30 }")
    assert "mine.toml: the generator 'planted' refuses its params: " in message


def test_a_folder_of_ones_own_stands_for_any_source(web, find, tmp_path):
    """Nothing is fetched, and the first source whose files are all there is taken."""
    folder = tmp_path / "own"
    put(folder / "old.zip", zipped({"new.csv": PAIRS}))
    sources = http(f"{web.url}/pairs.csv") + package("carrier") + local("nowhere", "new.csv") + KAGGLE + GENERATED
    located, lines = find(sources, folder=folder)
    assert located.source.name == "here"
    assert located.files.folder == folder
    assert located.files.find("new.csv").read_bytes() == PAIRS
    assert lines[0] == f"source 'web': {folder} lacks pairs.csv. It holds old.zip, old.zip/new.csv."
    assert (web.asked, list(tmp_path.glob("datasets/*"))) == ([], [])

    message = refusal(find, sources, "kaggle", folder=folder)
    assert message.splitlines()[1:] == [
        f"  source 'kaggle': {folder} lacks pairs.csv. It holds old.zip, old.zip/new.csv."
    ]
    message = refusal(find, http("https://example.org/a.csv") + manual("b.csv") + GENERATED, folder=folder)
    assert f"source 'web': {folder} lacks pairs.csv." in message
    assert f"source 'by-hand': {folder} lacks b.csv." in message
    assert "generated" not in message


def test_folders_that_cannot_be_taken_from(find, tmp_path):
    gone = tmp_path / "gone"
    assert refusal(find, manual(), folder=gone).startswith(f"There is no folder {gone}: --from takes")
    assert "of mine is generated. Leave --from out." in refusal(find, GENERATED, folder=tmp_path, error=UsageError)
    message = refusal(find, manual(), folder=tmp_path, base="https://example.org/", error=UsageError)
    assert "use one of the two" in message


def test_another_address(web, find, tmp_path):
    web.files["/mirror/pairs.csv"] = (200, PAIRS)
    put(tmp_path / "raw" / "pairs.csv", b"not these")
    keys = 'downloads = [{ url = "pairs.csv" }]\nbase = "http://127.0.0.1:9/"'
    located, lines = find(local("raw") + entry("http", "web", keys), base=f"{web.url}/mirror/")
    assert located.source.name == "web"
    assert pairs(located) == PAIRS
    assert not any("here" in line for line in lines), "only the web has an address"
    base = "https://example.org/"
    message = refusal(find, local("raw") + http(f"{web.url}/x.csv"), "here", base=base, error=UsageError)
    assert message == "--url is for sources of kind 'http', but the source 'here' of mine is of another kind: local."
    message = refusal(find, local("raw") + manual(), base=base, error=UsageError)
    assert message.endswith("but every source of mine is of another kind: local, manual.")


def test_nothing_here_imports_what_takes_long():
    code = "import sys, bench.data; print([m for m in ('torch', 'recbole', 'requests') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


GENRES = [
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
]
FILMS = [
    ("1", "Plain Story", "1995", ["Animation", "Children's", "Comedy"], ""),
    ("2", "Été, L' (The Summer)", "1961", ["Drama"], ""),
    ("3", 'Fourth "Wall"', "1931", ["Film-Noir", "Sci-Fi", "Western"], ""),
    ("4", "On Video: Part III", "1988", ["Horror"], " (V)"),
]


def test_both_sources_of_ml_100k_give_the_same_frames(web, workspace, tmp_path, monkeypatch):
    ratings = [("1", "2", 3, 881250949), ("1", "1", 5, 881250950), ("22", "4", 1, 891717742), ("22", "3", 2, 891717743)]
    inter = "".join(f"{user}\t{item}\t{rating}\t{time}\n" for user, item, rating, time in ratings)

    folder = tmp_path / "carrier" / "dataset_example" / "ml-100k"
    folder.mkdir(parents=True)
    (folder / "ml-100k.inter").write_text(f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n{inter}")
    # Like the one film made for video in RecBole's copy, whose title kept its year and whose year became "V".
    names = [(f"{title} ({year})", "V") if video else (title, year) for _, title, year, _, video in FILMS]
    films = "".join(
        f"{film[0]}\t{title}\t{year}\t{' '.join(film[3])}\n" for film, (title, year) in zip(FILMS, names, strict=True)
    )
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    (folder / "ml-100k.item").write_text(header + films, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    flags = ["|".join("1" if genre in genres else "0" for genre in GENRES) for _, _, _, genres, _ in FILMS]
    u_item = "".join(
        f"{number}|{title} ({year}){video}|01-Jan-{year}||http://example.org/{number}|{row}\n"
        for (number, title, year, _, video), row in zip(FILMS, flags, strict=True)
    )
    files = {"ml-100k/u.data": inter.encode(), "ml-100k/u.item": u_item.encode("latin-1"), "ml-100k/README": b"terms"}
    web.files["/ml-100k.zip"] = (200, zipped(files))

    text = (builtin_recipes() / "ml-100k.toml").read_text(encoding="utf-8")
    recipe = load_recipe(builtin_recipes() / "ml-100k.toml")
    (download,) = recipe.sources[1].downloads
    content = web.files["/ml-100k.zip"][1]
    text = text.replace('package = "recbole"', 'package = "carrier"').replace(recipe.sources[1].base, f"{web.url}/")
    text = text.replace(str(download.size), str(len(content)))
    text = text.replace(download.sha256, hashlib.sha256(content).hexdigest())
    path = tmp_path / "ml-100k.toml"
    path.write_text(text, encoding="utf-8")

    frames = {}
    for source in ("recbole", "grouplens"):
        located = locate(load_recipe(path), workspace, source=source, report=lambda line: None)
        (batch,) = interaction_batches(located.files, located.source.interactions)
        columns = {"user": batch.users().to_pylist(), "item": batch.items().to_pylist()}
        descriptions = read_items(located.files, located.source.items).frame
        frames[source] = (
            pd.DataFrame(columns | {"rating": batch.ratings(), "timestamp": batch.seconds()}),
            descriptions[["id", "title", "year", "genres"]],
        )
    pd.testing.assert_frame_equal(frames["recbole"][0], frames["grouplens"][0])
    pd.testing.assert_frame_equal(frames["recbole"][1], frames["grouplens"][1])
    assert frames["grouplens"][1].iloc[3].tolist() == ["4", "On Video: Part III", "1988", "Horror"]
    assert frames["grouplens"][0]["rating"].tolist() == [3.0, 5.0, 1.0, 2.0]
