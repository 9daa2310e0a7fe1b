"""Logging: standard `logging` underneath, JSON lines or readable text, request id and trace in every line.

The mesh never logs what a request carried: bodies, header values, query strings. It does log names that others chose:
services, subjects, templates. The formatters escape everything in them that could steer a terminal.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from mesh.codec import encode_any
from mesh.colour import has_colours
from mesh.printable import clean, clean_lines, escaped_json

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}

Facts = Callable[[], dict[str, str]]
_sources: list[Facts] = []


def add_source(facts: Facts) -> None:
    """Add ``facts()``, such as the request id of the running handler, to every record from now on."""
    if facts not in _sources:
        _sources.append(facts)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a record besides its message: the facts of all sources, and ``extra`` of the logging call."""
    found: dict[str, Any] = {}
    for source in _sources:
        found.update(source())
    found.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
    return found


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return escaped_json(encode_any(line).decode())


class TextFormatter(logging.Formatter):
    """For people: time, level, message, then the fields as ``key=value``."""

    _COLOURS: ClassVar[dict[str, str]] = {
        "WARNING": "\x1b[33m",
        "ERROR": "\x1b[31m",
        "CRITICAL": "\x1b[31;1m",
        "DEBUG": "\x1b[2m",
    }

    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        extra = "".join(f" {clean(key)}={clean(str(value))}" for key, value in fields(record).items())
        message = clean_lines(record.getMessage())
        text = f"{clock} {record.levelname.lower():<7} {clean(record.name)}: {message}{extra}"
        start = self._COLOURS.get(record.levelname, "") if self._colour else ""
        text = f"{start}{text}\x1b[0m" if start else text
        return f"{text}\n    {clean_lines(self.formatException(record.exc_info))}" if record.exc_info else text


def is_due(count: int) -> bool:
    """True for the 1st, 2nd, 4th, 8th ... of a kind of event: what others can cause gives few lines, and always one."""
    return count & (count - 1) == 0


class LimitedLog:
    """Writes at most ``lines`` lines in any ``seconds`` to ``log``, and says once that some of ``what`` are left out.

    For what others can cause at will, and of which each line says something of its own.
    """

    def __init__(self, log: logging.Logger, lines: int, seconds: float, what: str) -> None:
        self._log = log
        self._seconds = seconds
        self._what = what
        self._written: deque[float] = deque(maxlen=lines)
        self._told = float("-inf")

    def write(self, now: float, level: int, text: str, *arguments: object) -> bool:
        """Write a line at ``now``, in seconds on a monotonic clock; False if it is left out."""
        written = self._written
        if len(written) == written.maxlen and now - written[0] < self._seconds:
            if now - self._told >= self._seconds:
                self._told = now
                self._log.warning("more than %d %s in %g s: the others are left out here", *self._limits())
            return False
        written.append(now)
        self._log.log(level, text, *arguments)
        return True

    def _limits(self) -> tuple[int | None, str, float]:
        return self._written.maxlen, self._what, self._seconds


def handler(format: str = "auto") -> logging.Handler:
    """A handler that writes records to standard error.

    format: ``json``, ``text``, or ``auto``: text on a terminal, JSON elsewhere
    """
    made = logging.StreamHandler(sys.stderr)
    if format == "json" or (format == "auto" and not sys.stderr.isatty()):
        made.setFormatter(JsonFormatter())
    else:
        made.setFormatter(TextFormatter(has_colours(sys.stderr)))
    return made


def configure(level: str = "INFO", format: str = "auto") -> None:
    """Send all records to standard error; ``format`` as in `handler`."""
    root = logging.getLogger()
    root.handlers[:] = [handler(format)]
    root.setLevel(level.upper())
    # These log every reconnect attempt and each choice of a selector: of no use to operators.
    for name in ("asyncio", "nats", "nats.aio.client", "uvicorn", "uvicorn.error", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
