"""The one place that decides if output to a stream may have colours."""

from __future__ import annotations

import os
from typing import TextIO


def has_colours(stream: TextIO | None) -> bool:
    """True with FORCE_COLOR; otherwise for a terminal, without NO_COLOR and if TERM is not ``dumb``."""
    if stream is None:
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return not os.environ.get("NO_COLOR") and can_be_steered(stream)


def can_be_steered(stream: TextIO) -> bool:
    """True for a terminal that knows escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
