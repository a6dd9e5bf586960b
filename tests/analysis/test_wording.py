import math

import pandas as pd
import pytest

from bench.analysis.display import Cell, Table, words
from bench.analysis.markdown import render_table
from bench.analysis.wording import (
    flatten,
    interval,
    is_absent,
    listing,
    p_equation,
    p_text,
    percent,
    percent_interval,
    plural,
    settings,
    significant,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"),
        (1.5, "1.50"),
        (12.34, "12.3"),
        (9.996, "10.0"),
        (999.6, "1,000"),
        (123456, "123,000"),
        (0, "0"),
        (math.nan, "n/a"),
    ],
)
def test_three_significant_figures(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "1.00"),
        (0.25, "0.250"),
        (0.0625, "0.0625"),
        (0.00195, "0.00195"),
        (0.00049, "4.90e-04"),
        (1e-17, "< 1e-16"),
        (0.0, "< 1e-16"),
        (math.nan, "n/a"),
    ],
)
def test_p_values(p, text):
    assert p_text(p) == text


@pytest.mark.parametrize(("p", "text"), [(0.25, "p = 0.250"), (0.0, "p < 1e-16"), (math.nan, "p = n/a")])
def test_a_p_value_in_a_sentence(p, text):
    assert p_equation(p) == text


def test_changes_are_signed_and_absent_ones_are_words():
    assert percent(0.0123) == "+1.23 %"
    assert percent_interval(-0.01, 0.02) == "[-1.00, +2.00] %"
    assert interval(-0.001, 0.002) == "[-0.0010, +0.0020]"
    assert percent(math.nan) == percent_interval(math.nan, 0.1) == interval(math.nan, 1.0) == "n/a"
    assert all(is_absent(value) for value in (None, math.nan, pd.NA))


def test_lists_of_seeds():
    assert listing([1, 2, 3, 4]) == "1-4"
    assert listing([1, 2]) == "1, 2"
    assert listing([1, 2, 4]) == "1, 2, 4"
    assert plural([7], "seed") == "seed 7"


def test_settings_are_flat_and_without_quotes():
    values = {"a": {"b": [10, 20], "c": None}, "d": True, "e": 1e-3}
    assert flatten(values) == {"a.b": [10, 20], "a.c": None, "d": True, "e": 1e-3}
    assert settings(values) == "a.b=[10, 20], a.c=none, d=true, e=0.001"


def test_markdown_marks_the_best_and_the_second_and_keeps_columns():
    table = Table("t", ("a|b", "n"), ((Cell("x|y"), Cell("1", 1)), (Cell("z"), Cell("2", 2))), caption="why")
    lines = render_table(table).splitlines()
    assert "**1**" in lines[2]
    assert "<u>2</u>" in lines[3]
    assert "x\\|y" in lines[2]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[-1] == "why"


def test_a_table_with_an_empty_cell_is_refused():
    with pytest.raises(ValueError, match="filled cells"):
        Table("t", ("a", "b"), (words(["x", " "]),))
    with pytest.raises(ValueError, match="expected 2"):
        Table("t", ("a", "b"), (words(["x"]),))
