import pytest

from bench.cli.console import split_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a, b,,c ", ["a", "b", "c"]),
        ("lightgcn[learning_rate=0.1,n_layers=2],ease", ["lightgcn[learning_rate=0.1,n_layers=2]", "ease"]),
        ("", []),
    ],
)
def test_names_are_split_at_commas_outside_brackets(text, names):
    assert split_names(text) == names
