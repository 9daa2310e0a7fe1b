"""Reads whole numbers that others wrote."""

from __future__ import annotations


def parse_count(text: bytes | str | None, digits: int = 9) -> int | None:
    """A whole number in ASCII digits, without a sign.

    text: the field's value; None for a field that is missing
    digits: the most digits that are read, so that no sender can make a number of any size

    Returns None for a text that is no such number.
    """
    return int(text) if text and len(text) <= digits and text.isascii() and text.isdigit() else None
