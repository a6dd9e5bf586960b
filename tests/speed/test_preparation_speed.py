"""The measurement works and measures what it says; how fast it is belongs in no test."""

import json

import pyarrow.csv as pacsv
import pytest

from bench.cli import main
from bench.speed.preparation import measure
from bench.speed.rawlike import ACTIONS, write_hm, write_tmall


def test_hm_files_have_the_columns_and_forms_of_the_original(tmp_path):
    path = write_hm(tmp_path, 3000)
    lines = path.read_text().splitlines()
    assert lines[0] == "t_dat,customer_id,article_id,price,sales_channel_id"
    assert len(lines) == 3001
    days, customers, articles, *_ = zip(*(line.split(",") for line in lines[1:]), strict=True)
    assert list(days) == sorted(days)
    assert (days[0], days[-1]) == ("2018-09-20", "2020-09-22")
    assert {len(customer) for customer in customers} == {64}
    assert all(article.isdigit() and len(article) == 10 and article[0] == "0" for article in articles)


def test_tmall_files_are_three_parts_without_a_header(tmp_path):
    paths = write_tmall(tmp_path, 30_001)
    assert [path.name[-9:] for path in paths] == ["parta.txt", "partb.txt", "partc.txt"]
    options = pacsv.ReadOptions(column_names=["item", "user", "action", "vtime"])
    tables = [
        pacsv.read_csv(path, read_options=options, parse_options=pacsv.ParseOptions(delimiter="\x01")) for path in paths
    ]
    assert sum(map(len, tables)) == 30_001
    assert set(tables[0]["action"].to_pylist()) == set(ACTIONS)
    assert tables[0]["user"][0].as_py().startswith("u")


@pytest.mark.parametrize(("kind", "rows"), [("hm", 60_000), ("tmall", 400_000)])
def test_a_measurement_tells_what_was_prepared(kind, rows, tmp_path):
    lines: list[str] = []
    found = measure(kind, rows, tmp_path, lines.append)
    assert (found.format, found.rows) == (kind, rows)
    assert 0 < found.left < rows
    assert found.rows_per_s == pytest.approx(rows / found.seconds)
    assert found.peak_mib > 50
    assert lines[0].startswith(f"wrote {rows:,} rows")
    assert list(tmp_path.iterdir()) == [], "its files are gone"


def test_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["speed", "prepare", "--rows", "20000,40000", "--scratch", str(tmp_path), "--json"])
    assert not ended.value.code
    assert [each["rows"] for each in json.loads(capsys.readouterr().out)] == [20_000, 40_000]
    for arguments, words in (
        (["--format", "h&m"], "Unknown format 'h&m'. Did you mean hm?"),
        (["--rows", "x"], "whole"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["speed", "prepare", *arguments])
        assert ended.value.code == 2
        assert words in " ".join(capsys.readouterr().err.split())
