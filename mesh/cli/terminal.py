"""What commands print: colour only on terminals, and nothing that a service could use to steer the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from mesh.printable import clean, json_text

COLOURS = {"green": 32, "yellow": 33, "red": 31, "blue": 34, "cyan": 36, "dim": 2, "bold": 1}


__all__ = ["COLOURS", "Terminal", "clean", "json_text"]


class Terminal:
    """A text stream that may have colours: a terminal, unless NO_COLOR is set; FORCE_COLOR decides otherwise."""

    def __init__(self, stream: TextIO | None = None, colour: bool | None = None) -> None:
        self.stream = stream or sys.stdout
        if colour is None:
            forced = os.environ.get("FORCE_COLOR")
            colour = bool(forced) or (self.stream.isatty() and not os.environ.get("NO_COLOR"))
        self.colour = colour

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self.colour else text

    def line(self, text: str = "") -> None:
        """Print one line now, also into a pipe."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def json(self, value: Any) -> None:
        """Print one value as a line of JSON."""
        self.line(json_text(value))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print aligned columns."""
        cells = [[clean(str(cell)) for cell in row] for row in rows]
        widths = [max([len(head[i]), *(len(row[i]) for row in cells)]) for i in range(len(head))]
        self.line(self.paint("  ".join(h.ljust(w) for h, w in zip(head, widths, strict=True)).rstrip(), "bold"))
        for row in cells:
            self.line("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
