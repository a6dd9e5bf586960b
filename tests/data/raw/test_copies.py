import gzip
import hashlib

import pytest

from bench.data.raw.copies import report_other_copies
from bench.data.raw.rawfiles import RawFiles
from bench.data.recipes.recipe import load_recipe

PAIRS = b"user,item\r\n1,2\r\n"


@pytest.fixture
def reported(tmp_path):
    def run(keys: str, names: list[str]) -> list[str]:
        (tmp_path / "mine.toml").write_text(
            f'name = "mine"\n[[sources]]\nkind = "http"\ninteractions = {{ file = "pairs.csv" }}\n{keys}'
        )
        lines: list[str] = []
        source = load_recipe(tmp_path / "mine.toml").sources[0]
        report_other_copies(RawFiles(tmp_path / "raw"), source, names, lines.append)
        return lines

    (tmp_path / "raw").mkdir()
    return run


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_download_that_is_another_copy_is_reported(reported, tmp_path):
    (tmp_path / "raw" / "pairs.csv").write_bytes(PAIRS)
    url = "https://example.org/pairs.csv"
    assert reported(f'downloads = [{{ url = "{url}", sha256 = "{sha(PAIRS)}" }}]\n', ["pairs.csv"]) == []
    (line,) = reported(f'downloads = [{{ url = "{url}", sha256 = "{"0" * 64}" }}]\n', ["pairs.csv"])
    assert line.startswith(f"warning: {tmp_path / 'raw' / 'pairs.csv'} is another than the known copy")
    unix = sha(PAIRS.replace(b"\r\n", b"\n"))
    assert reported(f'downloads = [{{ url = "{url}", sha256 = "{unix}", line_ends = "lf" }}]\n', ["pairs.csv"]) == []
    assert reported(f'downloads = [{{ url = "{url}", size = 3 }}]\n', ["pairs.csv"])


def test_checksums_of_a_source_are_of_the_unpacked_content(reported, tmp_path):
    (tmp_path / "raw" / "pairs.csv.gz").write_bytes(gzip.compress(PAIRS))
    downloads = 'downloads = [{ url = "https://example.org/set.zip" }]\n'
    checksums = '[sources.checksums]\n"pairs.csv" = "SHA"\n'
    assert reported(downloads + checksums.replace("SHA", sha(PAIRS)), ["pairs.csv"]) == []
    (line,) = reported(downloads + checksums.replace("SHA", "1" * 64), ["pairs.csv"])
    assert f"its SHA-256 is {sha(PAIRS)}, not {'1' * 64}" in line
