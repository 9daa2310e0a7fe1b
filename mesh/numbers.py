"""Whole numbers in texts of others: header values, metadata."""

from __future__ import annotations


def parse_count(text: bytes | str | None, digits: int = 9) -> int | None:
    """The whole number in ``text``, or None if it is not one: ``b"250"`` gives 250; ``b"-1"``, ``b""`` and None do not.

    digits: longer texts are not numbers. Python refuses to read thousands of digits, with an error of its own, and
        such a number would not fit anywhere.
    """
    if text and text.isdigit() and text.isascii() and len(text) <= digits:
        return int(text)
    return None
