"""The output of commands: with colours on terminals only, and without texts that could steer a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TextIO

from mesh.colour import can_be_steered, has_colours
from mesh.printable import clean, json_text

COLOURS = {"green": 32, "yellow": 33, "red": 31, "blue": 34, "cyan": 36, "dim": 2, "bold": 1}
STATES = {"starting": "cyan", "ready": "green", "unready": "red", "draining": "blue", "suspect": "yellow"}
"""The colour of an instance's state."""
GAP = "  "


__all__ = ["COLOURS", "Terminal", "clean", "json_text"]


class Terminal:
    """A text stream with or without colours.

    stream: standard output unless given
    colour: True paints texts; None decides it by the stream (`has_colours`)
    """

    def __init__(self, stream: TextIO | None = None, colour: bool | None = None) -> None:
        self.stream = stream or sys.stdout
        self.colour = has_colours(self.stream) if colour is None else colour

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self.colour else text

    def line(self, text: str = "") -> None:
        """Print one line now, also into a pipe."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def json(self, value: Any) -> None:
        """Print one value as a line of JSON."""
        self.line(json_text(value))

    def clear(self) -> None:
        """Empty the screen of a terminal; into a pipe, print an empty line."""
        if can_be_steered(self.stream):
            self.stream.write("\x1b[H\x1b[2J")
        else:
            self.line()

    @property
    def width(self) -> int:
        """Columns of a line at most; 0 for any number, as in a pipe."""
        return shutil.get_terminal_size((80, 24)).columns if self.stream.isatty() else 0

    def table(
        self,
        head: Sequence[str],
        rows: Iterable[Sequence[str]],
        fit: Sequence[ColumnFit] = (),
        colour: Callable[[str, str], str] = lambda column, cell: "",
    ) -> None:
        """Print aligned columns.

        head: their titles
        fit: the columns that are shortened if the terminal is too narrow, the first one first
        colour: gives the colour of a cell, or nothing, for the title of its column and its text
        """
        cells = [[clean(str(cell)) for cell in row] for row in rows]
        natural = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(head)]
        widths = fitted(head, natural, fit, self.width)
        marks = {step.column: step.mark for step in fit}
        shown = [i for i, width in enumerate(widths) if width]
        titles = [head[i][: widths[i]].ljust(widths[i]) for i in shown]
        self.line(self.paint(GAP.join(titles).rstrip(), "bold"))
        for row in cells:
            line = ""
            for i in shown:
                text = _short(row[i], widths[i], marks.get(head[i], "…"))
                name = colour(head[i], row[i])
                line += (self.paint(text, name) if name else text) + " " * (widths[i] - len(text)) + GAP
            self.line(line.rstrip())
        hidden = [title.strip() for title, width in zip(head, widths, strict=True) if not width]
        if hidden:
            self.line(self.paint(f"not shown: {', '.join(hidden)}"[: self.width], "dim"))


class ColumnFit(NamedTuple):
    """How a column of a table is shortened if the terminal is too narrow.

    column: its title
    least: characters that it keeps; 0 leaves it out
    mark: the end of a text that was cut; empty for texts of which the beginning is copied, as of an id
    """

    column: str
    least: int = 0
    mark: str = "…"


def fitted(head: Sequence[str], widths: Sequence[int], fit: Sequence[ColumnFit], room: int) -> list[int]:
    """The width of each column, 0 for one that is left out.

    widths: those that the texts need
    room: characters of a line; 0 for any number
    """
    found = list(widths)

    def excess() -> int:
        return sum(w + len(GAP) for w in found if w) - len(GAP) - room if room else 0

    for step in fit:
        if excess() <= 0:
            break
        place = list(head).index(step.column)
        least = min(found[place], max(step.least, len(head[place])))
        found[place] = max(least, found[place] - excess()) if step.least else 0
    if excess() > 0:  # a row must not wrap: the widest column gets so much narrower
        widest = found.index(max(found))
        found[widest] = max(1, found[widest] - excess())
    return found


def _short(text: str, width: int, mark: str) -> str:
    return text if len(text) <= width else text[: width - len(mark)] + mark
