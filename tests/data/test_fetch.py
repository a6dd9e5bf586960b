import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from bench.data.fetch import locate
from bench.data.read import read_interactions, read_items
from bench.data.recipe import load_recipe
from bench.errors import DataError, UsageError
from bench.workspace import Workspace, builtin_recipes

PAIRS = b"user,item\n1,2\n"


class Web:
    """A web server on this machine; `files` maps a path to (status, body)."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.promised = 0
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                status, body = web.files.get(self.path, (404, b"not here"))
                self.send_response(status)
                self.send_header("Content-Length", str(max(len(body), web.promised)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Stay silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    web.server.shutdown()
    web.server.server_close()
    thread.join()


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "datasets", tmp_path / "results")


@pytest.fixture
def find(tmp_path, workspace):
    """Locate the files of a recipe with the given sources; returns (located, report lines)."""

    def run(sources: str, source: str | None = None, rest: str = ""):
        path = tmp_path / "mine.toml"
        path.write_text(f'name = "mine"\n{sources}\n{rest}')
        lines: list[str] = []
        return locate(load_recipe(path), workspace, source=source, report=lines.append), lines

    return run


def http(url: str, extra: str = "", file: str = "pairs.csv", name: str = "web") -> str:
    download = f'{{ url = "{url}"{extra} }}'
    return (
        f'[[sources]]\nname = "{name}"\nkind = "http"\ndownloads = [{download}]\ninteractions = {{ file = "{file}" }}\n'
    )


def local(folder: str, file: str = "pairs.csv", name: str = "here") -> str:
    return f'[[sources]]\nname = "{name}"\nkind = "local"\nfolder = "{folder}"\ninteractions = {{ file = "{file}" }}\n'


def sha256(content: bytes) -> str:
    return f', sha256 = "{hashlib.sha256(content).hexdigest()}"'


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def refusal(find, *arguments: str) -> str:
    with pytest.raises(DataError) as caught:
        find(*arguments)
    return str(caught.value)


def test_a_download_is_checked_and_kept(web, find, workspace):
    web.files["/a/pairs.csv"] = (200, PAIRS)
    located, lines = find(http(f"{web.url}/a/pairs.csv", sha256(PAIRS) + f", size = {len(PAIRS)}"))
    assert located.folder == workspace.raw("mine")
    assert (located.folder / "pairs.csv").read_bytes() == PAIRS
    assert f"downloading {web.url}/a/pairs.csv" in lines
    find(http(f"{web.url}/a/pairs.csv", sha256(PAIRS)))
    assert web.asked == ["/a/pairs.csv"], "asked once"


def test_md5_and_no_checksum(web, find):
    web.files["/pairs.csv"] = (200, PAIRS)
    find(http(f"{web.url}/pairs.csv", f', md5 = "{hashlib.md5(PAIRS).hexdigest()}"'))
    _, lines = find(http(f"{web.url}/pairs.csv"))
    assert any("no checksum" in line and hashlib.sha256(PAIRS).hexdigest() in line for line in lines)


def test_wrong_checksum_and_wrong_size_leave_nothing(web, find, workspace):
    web.files["/pairs.csv"] = (200, PAIRS)
    message = refusal(find, http(f"{web.url}/pairs.csv", f', sha256 = "{"9" * 64}"'))
    assert f"with the sha256 {hashlib.sha256(PAIRS).hexdigest()}, but the recipe expects {'9' * 64}" in message
    assert "source 'web'" in message
    message = refusal(find, http(f"{web.url}/pairs.csv", ", size = 999"))
    assert f"gave {len(PAIRS)} bytes, but the recipe expects 999" in message
    assert list(workspace.raw("mine").iterdir()) == []


def test_a_damaged_file_is_fetched_again(web, find, workspace):
    web.files["/pairs.csv"] = (200, PAIRS)
    workspace.raw("mine").mkdir(parents=True)
    (workspace.raw("mine") / "pairs.csv").write_bytes(PAIRS[:5])
    located, _ = find(http(f"{web.url}/pairs.csv", sha256(PAIRS)))
    assert (located.folder / "pairs.csv").read_bytes() == PAIRS


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Quota</title>", b"\n <html><body>Log in</body></html>"])
def test_a_web_page_instead_of_data(web, find, workspace, page):
    web.files["/pairs.csv"] = (200, page)
    assert "a web page instead of data" in refusal(find, http(f"{web.url}/pairs.csv", sha256(PAIRS)))
    assert not (workspace.raw("mine") / "pairs.csv").exists()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "is not there any more (404)"),
        (410, "is not there any more (410)"),
        (403, "refuses access (403): it wants a login or accepted terms"),
        (500, "answered with the error 500; try again later"),
    ],
)
def test_answers_that_are_no_file(web, find, workspace, status, words):
    web.files["/pairs.csv"] = (status, b"no")
    message = refusal(find, http(f"{web.url}/pairs.csv"))
    assert words in message
    assert f"put it at {workspace.raw('mine') / 'pairs.csv'}" in message


def test_offline(find, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    assert "cannot be reached: this machine is offline" in refusal(find, http(f"http://127.0.0.1:{port}/pairs.csv"))


def test_a_transfer_that_breaks_off(web, find, workspace):
    web.files["/pairs.csv"] = (200, PAIRS)
    web.promised = 1000
    message = refusal(find, http(f"{web.url}/pairs.csv"))
    assert "broke off in the middle; try again later" in message
    assert not (workspace.raw("mine") / "pairs.csv").exists()


def test_a_folder_that_cannot_be_written(web, find, workspace):
    workspace.datasets.mkdir()
    workspace.raw("mine").parent.write_text("a file where a folder should be")
    web.files["/pairs.csv"] = (200, PAIRS)
    assert "pairs.csv cannot be written" in refusal(find, http(f"{web.url}/pairs.csv"))


def test_a_terminal_sees_a_bar(web, find, monkeypatch):
    web.files["/pairs.csv"] = (200, PAIRS)
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    find(http(f"{web.url}/pairs.csv"))
    assert "pairs.csv" in screen.getvalue()


def test_zip_and_tar_give_the_wanted_files_only(web, find, workspace):
    files = {"set/pairs.csv": PAIRS, "set/readme.txt": b"hello", "../outside.csv": b"no"}
    web.files["/set.zip"] = (200, zipped(files))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("tarred/pairs.csv")
        member.size = len(PAIRS)
        archive.addfile(member, io.BytesIO(PAIRS))
    web.files["/set.tar.gz"] = (200, buffer.getvalue())
    located, _ = find(http(f"{web.url}/set.zip", sha256(web.files["/set.zip"][1]), "set/pairs.csv"))
    find(http(f"{web.url}/set.tar.gz", "", "tarred/pairs.csv"))
    found = sorted(path.relative_to(located.folder).as_posix() for path in located.folder.rglob("*") if path.is_file())
    assert found == ["set.tar.gz", "set.zip", "set/pairs.csv", "tarred/pairs.csv"]
    assert (located.folder / "set/pairs.csv").read_bytes() == PAIRS


def test_an_archive_without_the_wanted_file(web, find):
    web.files["/set.zip"] = (200, zipped({"other.csv": PAIRS}))
    assert "lacks pairs.csv. It holds set.zip" in refusal(find, http(f"{web.url}/set.zip"))


def test_unpacked_files_come_back_when_lost(web, find):
    web.files["/set.zip"] = (200, zipped({"pairs.csv": PAIRS}))
    source = http(f"{web.url}/set.zip")
    located, _ = find(source)
    (located.folder / "pairs.csv").unlink()
    located, _ = find(source)
    assert (located.folder / "pairs.csv").read_bytes() == PAIRS


def test_a_new_archive_replaces_what_the_old_one_gave(web, find):
    for content in (PAIRS, PAIRS + b"3,4\n"):
        web.files["/set.zip"] = (200, zipped({"pairs.csv": content}))
        located, _ = find(http(f"{web.url}/set.zip", sha256(web.files["/set.zip"][1])))
        assert (located.folder / "pairs.csv").read_bytes() == content


def test_local_folders(find, tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "pairs.csv").write_bytes(PAIRS)
    assert find(local("raw"))[0].folder == tmp_path / "raw", "relative to the recipe"
    assert find(local(str(tmp_path / "raw")))[0].folder == tmp_path / "raw"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find(local("~/raw"))[0].folder == tmp_path / "raw"
    message = refusal(find, local("nowhere"))
    assert f"there is no folder {tmp_path / 'nowhere'}. Put pairs.csv there" in message
    assert "lacks other.csv. It holds pairs.csv" in refusal(find, local("raw", "other.csv"))


def test_all_files_of_a_recipe_must_be_there(find, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "pairs.csv").write_bytes(PAIRS)
    feature = '[features.image]\nencoder = "file"\nfile = "image.npy"\n'
    assert "lacks image.npy" in refusal(find, local("raw"), None, feature)


def test_the_first_source_that_works_is_taken(web, find, tmp_path):
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


def test_when_no_source_works_each_says_why(web, find):
    message = refusal(find, local("nowhere") + http(f"{web.url}/gone.csv"))
    assert message.splitlines()[0] == "The raw files of mine are not available."
    assert "source 'here': there is no folder" in message
    assert f"source 'web': {web.url}/gone.csv is not there any more (404)" in message


def package(name: str, folder: str = "data") -> str:
    keys = f'name = "{name}"\nkind = "package"\npackage = "{name}"\nfolder = "{folder}"'
    return f'[[sources]]\n{keys}\ninteractions = {{ file = "pairs.csv" }}\n'


def test_packages_are_found_without_being_imported(find, tmp_path, monkeypatch):
    (tmp_path / "carrier" / "data").mkdir(parents=True)
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "carrier" / "data" / "pairs.csv").write_bytes(PAIRS)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find(package("carrier"))[0].folder == tmp_path / "carrier" / "data"
    assert "has no folder gone" in refusal(find, package("carrier", "gone"))
    message = refusal(find, package("no_such_package_at_all"))
    assert "is not installed (pip install no_such_package_at_all)" in message


def test_nothing_here_imports_torch_or_recbole():
    code = "import sys, bench.data; print([m for m in ('torch', 'recbole') if m in sys.modules])"
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
    text = text.replace('package = "recbole"', 'package = "carrier"').replace(download.url, f"{web.url}/ml-100k.zip")
    text = text.replace(str(download.size), str(len(content)))
    text = text.replace(download.sha256, hashlib.sha256(content).hexdigest())
    path = tmp_path / "ml-100k.toml"
    path.write_text(text, encoding="utf-8")

    frames = {}
    for source in ("recbole", "grouplens"):
        located = locate(load_recipe(path), workspace, source=source, report=lambda line: None)
        frames[source] = (
            read_interactions(located.folder, located.source.interactions),
            read_items(located.folder, located.source.items)[["id", "title", "year", "genres"]],
        )
    pd.testing.assert_frame_equal(frames["recbole"][0], frames["grouplens"][0])
    pd.testing.assert_frame_equal(frames["recbole"][1], frames["grouplens"][1])
    assert frames["grouplens"][1].iloc[3].tolist() == ["4", "On Video: Part III", "1988", "Horror"]
    assert frames["grouplens"][0]["rating"].tolist() == [3.0, 5.0, 1.0, 2.0]
