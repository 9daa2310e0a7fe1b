"""Whether what is written to a stream may have colours: the one place that decides it."""

from __future__ import annotations

import os
from typing import TextIO


def has_colours(stream: TextIO | None) -> bool:
    """FORCE_COLOR says yes; else only a terminal has colours, without NO_COLOR, and unless TERM is ``dumb``."""
    if stream is None:
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return not os.environ.get("NO_COLOR") and can_be_steered(stream)


def can_be_steered(stream: TextIO) -> bool:
    """Whether it is a terminal that knows escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
