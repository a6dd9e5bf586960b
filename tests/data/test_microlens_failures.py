"""`bench prepare microlens` on damaged files: one clear paragraph, nothing prepared, and all is well once repaired."""

from pathlib import Path

import numpy as np
import pytest
from lens_files import bench, lay, matrix, microlens_files, npy, pairs_csv, serve, titles
from published import without_facts

from bench.data import PreparedDataset
from bench.workspace import Workspace

pytestmark = pytest.mark.usefixtures("in_empty_folder")

FILES = microlens_files()
PAIRS, SEQUENCES, TITLES, OTHER_TITLES, VISUAL, TEXT = FILES
PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>\n"


def with_nan(item):
    """Return the matrix with a hole in the row of an item, and one in a row that no item of the core has."""
    values = matrix(0)
    values[item - 1, 2] = np.nan
    values[1] = np.inf
    return npy(values)


def refused(capsys, *command):
    """Run a command that must fail, and return what it says in its one paragraph."""
    bench(*command, code=2)
    said = capsys.readouterr()
    error = said.err.partition("Error: ")[2]
    assert error
    assert "Traceback" not in said.err
    assert said.out == ""
    assert not list(Path("datasets").glob("prepared/*")), "nothing is prepared, and nothing left over"
    return error


CASES = {
    "a missing column": (
        *(PAIRS, pairs_csv().replace(b"user", b"user_id", 1)),
        *("column 'user' (did you mean 'user_id'?)", "line 1, split at a comma, has the columns 'user_id', 'item',"),
    ),
    "bytes that are no UTF-8": (
        *(PAIRS, pairs_csv() + b"24,\xff3,1583378629552\n"),
        *("MicroLens-50k_pairs.csv is not utf-8 text: line 194 holds the byte 0xff.", 'encoding = "latin-1"'),
    ),
    "a date in place of milliseconds": (
        *(PAIRS, pairs_csv("24,3,2020-03-05\n")),
        *("line 194: the column 'timestamp' should hold a time in milliseconds since 1970", "holds '2020-03-05'."),
    ),
    "a row cut short": (
        *(PAIRS, pairs_csv("24,3")),
        *("the header has 3 columns, but line 194 has 2 when split at a comma.", "Check that line"),
    ),
    "no rows": (PAIRS, b"user,item,timestamp\n", "has a header but no interactions.", "MicroLens-50k_pairs.csv"),
    "a title with an open quote": (
        *(TITLES, FILES[TITLES] + b'51,"seen\r\n'),
        *("MicroLens-50k_titles.csv, line 22: a quote opens in this row and is not closed.", "'free_text'"),
    ),
    "an item with two titles": (
        *(TITLES, FILES[TITLES] + b"3,again\r\n"),
        *("line 22: the column 'item' should hold an id that no line before has", "holds '3'"),
    ),
    "a title without a comma before it": (
        *(OTHER_TITLES, FILES[OTHER_TITLES] + b"nonsense\n"),
        *("MicroLens-100k_title_en.csv: the recipe declares 2 columns, but line 21 has 1", "Check that line"),
    ),
    "a web page in place of titles": (
        *(OTHER_TITLES, PAGE),
        *("MicroLens-100k_title_en.csv is a web page, not the file itself", "fetch it again by hand"),
    ),
    "a web page in place of a matrix": (
        *(VISUAL, PAGE),
        *("MicroLens-100k_image_features_CLIPRN50.npy cannot be read as a plain .npy array", "fetch it again"),
    ),
    "a matrix cut short": (
        *(TEXT, FILES[TEXT][:600]),
        *("MicroLens-100k_title_en_text_features_BgeM3.npy cannot be read as a plain .npy array", "fetch it again"),
    ),
    "a matrix of too few rows": (
        *(VISUAL, npy(matrix(0, rows=22))),
        *("has 22 rows, numbered from 0, but the items ask for rows 0 to 22.", "Check that the file belongs to this"),
    ),
    "a matrix with holes": (
        *(VISUAL, with_nan(item=23)),
        *("_CLIPRN50.npy) have 1 values that are NaN or infinite, in 1 of 12 rows, first for item '23'.", "Repair the"),
    ),
    "one number an item": (
        *(VISUAL, npy(matrix(0)[:, 0])),
        *("should hold one number per item and feature, [n_items, width], but holds: shape (50,)", "_CLIPRN50.npy"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_damaged_files(tmp_path, capsys, case):
    path, content, finding, advice = CASES[case]
    without_facts("microlens", Workspace())
    command = ("prepare", "microlens", "--from", str(tmp_path / "have"))
    lay(tmp_path / "have", FILES | {path: content}, flat=True)
    error = refused(capsys, *command)
    assert finding in error
    assert advice in error
    assert str(tmp_path / "have" / Path(path).name) in error.replace("\n", " ")
    assert "\n\n" not in error

    lay(tmp_path / "have", {path: FILES[path]}, flat=True)
    bench(*command)
    assert len(PreparedDataset.load(Path("datasets/prepared/microlens")).interactions) == 144


def test_a_file_that_is_not_there(tmp_path, capsys):
    command = ("prepare", "microlens", "--from", str(tmp_path / "have"))
    lay(tmp_path / "have", {path: content for path, content in FILES.items() if path != VISUAL}, flat=True)
    error = refused(capsys, *command)
    assert f"{tmp_path / 'have'} lacks MicroLens-100k_image_features_CLIPRN50.npy. It holds MicroLens-100k_t" in error
    assert error.count("source '") == 2, "both sources say what they lack"


def test_a_download_with_another_checksum(web, capsys):
    """The shipped recipe as it is: it knows the real files, and these are others."""
    serve(web, FILES)
    command = ("prepare", "microlens", "--url", web.url)
    error = refused(capsys, *command)
    size = len(FILES[PAIRS])
    finding = f"{web.url}/{PAIRS} gave {size:,} bytes, but the recipe expects 9,431,093: the download is damaged or"
    assert finding in error
    assert f"{web.url}/{SEQUENCES} gave " in error
    assert "put it at datasets/raw/microlens/MicroLens-50k_pairs.csv, or use --from DIR" in error
    assert not list(Path("datasets/raw").rglob("*.*")), "no bad file got its name"

    web.file(f"/{PAIRS}", bytes(9431093))
    error = refused(capsys, *command)
    assert "but the recipe expects 7ff8b91bcc84f5434ac2c5be7d0b7d7730f5e84f79f9648b5ae67a7641f97bbd" in error


def test_a_web_page_in_place_of_a_download(web, capsys):
    without_facts("microlens", Workspace())
    serve(web, FILES | {VISUAL: PAGE})
    command = ("prepare", "microlens", "--source", "westlake", "--url", web.url)
    error = refused(capsys, *command)
    assert f"{web.url}/{VISUAL} gave a web page instead of data: a login, a consent or a quota page." in error

    serve(web, FILES)
    before = len(web.asked)
    bench(*command)
    assert web.asked[before:] == [f"/{VISUAL}", f"/{TEXT}"], "what was there is not fetched again"


def test_a_download_that_breaks_off(web, capsys):
    without_facts("microlens", Workspace())
    serve(web, FILES)
    web.file(f"/{PAIRS}", FILES[PAIRS], etag='"1"')
    web.breaks = [1000, 0, 0, 0, 0, 0, 0, 0]
    command = ("prepare", "microlens", "--source", "westlake", "--url", web.url)
    error = refused(capsys, *command)
    assert f"{web.url}/{PAIRS} broke off in the middle" in error
    assert "are kept and continued" in error
    assert not Path("datasets/raw/microlens/MicroLens-50k_pairs.csv").exists()

    web.breaks = []
    before = len(web.asked)
    bench(*command)
    assert web.received[before]["Range"] == "bytes=1000-"
    assert Path("datasets/raw/microlens/MicroLens-50k_pairs.csv").read_bytes() == FILES[PAIRS]
    dataset = PreparedDataset.load(Path("datasets/prepared/microlens"))
    assert dataset.items["title"].tolist()[:2] == [titles()[1], titles()[3]]
