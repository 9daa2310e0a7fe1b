"""Whole numbers in header fields: anyone may have written them."""

import pytest

from mesh.numbers import parse_count


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"007", 7),
        (b"999999999", 999_999_999),
        (b"1000000000", None),
        (b"", None),
        (None, None),
        (b"-1", None),
        (b"+1", None),
        (b" 1", None),
        (b"1.5", None),
        (b"1_0", None),
        ("²".encode(), None),
    ],
)
def test_a_count(text, number):
    assert parse_count(text) == number


def test_a_count_of_more_digits():
    assert parse_count(b"1" * 16, digits=16) == int("1" * 16)
    assert parse_count(b"1" * 17, digits=16) is None
