"""Tables of text: every column under its title."""

from __future__ import annotations

import pytest

from gdmnet.table import cell_text, first_names, text_table


def test_names_stand_left_and_numbers_right():
    rows = [("case", "MAE", ""), ("a", 12.34567, "look"), ("long_name", None, "")]
    assert text_table(rows) == ["case         MAE", "a          12.35  look", "long_name      -"]


def test_numbers_have_the_decimals_of_their_column():
    rows = [("case", "MAE", "SSIM", "n"), ("a", 123.456, 0.9, 3.0), ("b", 7.0, 0.91234, 400.0)]
    assert text_table([*rows, ("c", None, float("nan"), None)]) == [
        "case    MAE    SSIM    n",
        "a     123.5  0.9000    3",
        "b       7.0  0.9123  400",
        "c         -     nan    -",
    ]


def test_facts_stand_left_and_are_indented():
    facts = {"python": "3.12", "n": 7}
    assert text_table(list(facts.items()), n_left=None, indent="  ") == [
        "  python  3.12",
        "  n       7",
    ]


def test_columns_that_do_not_fit_are_left_out():
    rows = [("case", "first", "second", "3"), ("a", 1.0, 2.0, 3.0)]
    assert text_table(rows, width=12) == ["case  first", "a         1"]


@pytest.mark.parametrize(
    ("cell", "text"), [(None, "-"), (12, "12"), (123456.0, "1.235e+05"), (0.5, "0.5"), ("x", "x")]
)
def test_cells_are_short(cell, text):
    assert cell_text(cell) == text


def test_many_names_are_counted_not_listed():
    assert first_names("abcdefg", 5) == "a, b, c, d, e and 2 more"
    assert first_names("abcde", 5) == "a, b, c, d, e"
    assert first_names([], 5, none="nothing") == "nothing"
