"""The access log: one line a request, written in batches, never a value that the client sent but its method.

JSON lines, or text for people. The path is the route's template; only if no route matched is it the path itself,
shortened and without its query.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from typing import BinaryIO

import msgspec

from mesh import codec
from mesh.printable import clean, escaped_json


class AccessRecord(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What happened to one request. Durations in milliseconds; ``time`` is when the record was written."""

    time: str
    level: str
    logger: str
    method: str
    status: int
    request_id: str
    route: str = ""
    path: str = ""
    service: str = ""
    instance: str = ""
    attempts: int = 0
    reason: str = ""
    origin: str = ""
    duration_ms: float = 0.0
    upstream_ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    trace: str = ""
    client: str = ""


class AccessLog:
    """Collects lines and writes them a few times a second, so that a request never waits for a terminal or a pipe.

    Lines for people are written at once: they are read together with those of other processes.
    """

    FLUSH_S = 0.1

    def __init__(self, *, enabled: bool = True, text: bool = False, stream: BinaryIO | None = None) -> None:
        self.enabled = enabled
        self._text = text
        self._stream = stream if stream is not None else sys.stderr.buffer
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._second = self._millisecond = 0
        self._clock = self._time = ""
        self._thread = 0

    def write(self, record: AccessRecord) -> None:
        if not self.enabled:
            return
        millisecond = int(time.time() * 1000)
        if millisecond != self._millisecond:  # many requests may share it
            self._millisecond = millisecond
            second = millisecond // 1000
            if second != self._second:
                self._second = second
                self._clock = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._time = f"{self._clock}.{millisecond % 1000:03d}+00:00"
        record.time = self._time
        line = _readable(record) if self._text else codec.encode(record)
        if not line.isascii():  # a template may have any character that a path may have
            line = (clean if self._text else escaped_json)(line.decode()).encode()
        self._lines.append(line)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._thread = threading.get_ident()
            self._timer = loop.call_later(0 if self._text else self.FLUSH_S, self.flush)

    def comes_first(self, record: logging.LogRecord) -> bool:
        """A filter for the handlers of other logs on the same stream: lines that are older than a record are first."""
        if self._lines and self._thread == threading.get_ident():
            self.flush()
        return True

    def flush(self) -> None:
        """Write what is there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            lines, self._lines = self._lines, []
            try:
                self._stream.write(b"\n".join(lines) + b"\n")
                self._stream.flush()
            except (OSError, ValueError):  # the log's reader is gone: serving goes on
                self.enabled = False


def _readable(record: AccessRecord) -> bytes:
    where = f" {record.service}.{record.instance}" if record.instance else ""
    why = f" {record.reason} ({record.origin})" if record.reason else ""
    tries = f" attempts={record.attempts}" if record.attempts > 1 else ""
    path = record.route or ascii(record.path)[1:-1]
    return (
        f"{record.time[11:23]} {record.method} {path} {record.status} {record.duration_ms:.1f}ms{where}{tries}{why}"
        f" id={record.request_id}"
    ).encode()
