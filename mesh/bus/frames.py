"""The parser of the fast transport, without I/O: bytes from a NATS server in, messages out.

It takes the MSG and HMSG frames of registered subscriptions out of the stream. Every other byte goes to nats-py's own
reader, in whole lines and whole frames. Some frames would end that reader: a subject that is not UTF-8 or has a
vertical tab, a broken header block. Anybody on the bus can send one, so they are dropped and counted.

Of the NATS client protocol, from server to client, a frame is ``MSG <subject> <sid> [reply] <size>`` or
``HMSG <subject> <sid> [reply] <header size> <total size>``, then header block and payload. A request to the
subscription with the number 7, with a header block of 34 bytes and a payload of 2::

    HMSG mesh.to.users.I1.get 7 mesh.inbox.client.C1.a1b2.9f3c 34 36\r\n
    NATS/1.0\r\nMesh-Deadline: 5000\r\n\r\nhi\r\n

``callbacks[b"7"]`` is called with the subject, the reply subject, the block and ``b"hi"``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

Deliver = Callable[[bytes, bytes, bytes, bytes], None]
"""Called with subject, reply subject (or ``b""``), header block (or ``b""``) and payload."""

_log = logging.getLogger("mesh.bus")
_WHITE = re.compile(rb"[\x00-\x20\x7f]")
# The longest line of a server is INFO, with a cluster's URLs. Beyond this it is not a NATS server.
_MAX_LINE = 1024 * 1024


class FrameReader:
    """Takes what the socket gives (`feed`) and calls `Deliver` functions synchronously.

    pass_on: called with the bytes that are for nats-py.
    """

    __slots__ = (
        "_body",
        "_chunks",
        "_fields",
        "_missing",
        "_pass_on",
        "_rest",
        "_start",
        "callbacks",
        "dropped",
        "in_bytes",
        "in_msgs",
    )

    def __init__(self, pass_on: Callable[[bytes], None]) -> None:
        self.callbacks: dict[bytes, Deliver] = {}
        """What to call, by the number of the subscription (sid) as it is on the wire."""
        self.in_msgs = 0
        self.in_bytes = 0
        self.dropped = 0
        self._pass_on = pass_on
        self.reset()

    def reset(self) -> None:
        """Forget a part of a frame: a new connection begins with a whole one."""
        self._rest = b""
        self._chunks: list[bytes] = []
        self._missing = 0
        self._fields: list[bytes] | None = None  # of a large frame whose header block is here, with its offsets
        self._start = self._body = 0

    def _complete(self, last: bytes) -> bytes:
        """Deliver a large frame whose last piece is here. Returns the bytes that are still to be read.

        The payload is joined once, and not copied besides.
        """
        chunks, cut = self._chunks, self._missing
        fields, self._fields = self._fields, None
        self._chunks, self._missing = [], 0
        deliver = self.callbacks.get(fields[1]) if fields is not None else None
        if fields is None or deliver is None:
            return b"".join((*chunks, last))
        first, ends = chunks[0], last[cut:]
        if cut < 2:  # a part of the closing line end came before
            whole = b"".join((*chunks, last[:cut]))
            payload = whole[self._body : -2]
        else:
            payload = b"".join((memoryview(first)[self._body :], *chunks[1:], memoryview(last)[: cut - 2]))
        block = first[self._start : self._body]
        self.in_msgs += 1
        self.in_bytes += len(block) + len(payload)
        _deliver(deliver, fields, first[:1] == b"H", block, payload)
        return ends

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._missing:
            if len(data) < self._missing:
                self._chunks.append(data)
                self._missing -= len(data)
                return
            data = self._complete(data)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        position, size = 0, len(data)
        callbacks = self.callbacks
        while position < size:
            eol = data.find(b"\r\n", position)
            if eol < 0:
                if size - position > _MAX_LINE:
                    self._pass_on(data[position:])  # not a NATS server: let nats-py refuse it
                    return
                self._rest = data[position:]
                return
            first = data[position]
            if first == 77 and data.startswith(b"MSG ", position):  # M
                fields = data[position + 4 : eol].split(b" ")
                with_headers = False
            elif first == 72 and data.startswith(b"HMSG ", position):  # H
                fields = data[position + 5 : eol].split(b" ")
                with_headers = True
            else:
                self._pass_on(data[position : eol + 2])
                position = eol + 2
                continue
            start = eol + 2
            end = start + int(fields[-1])
            body = start + int(fields[-2]) if with_headers else start
            if end + 2 > size:
                self._missing = end + 2 - size
                self._chunks = [data[position:] if position else data]
                if body <= size:
                    self._fields, self._start, self._body = fields, start - position, body - position
                return
            self.in_msgs += 1
            self.in_bytes += end - start
            deliver = callbacks.get(fields[1])
            if deliver is not None:
                reply = fields[2] if len(fields) == (5 if with_headers else 4) else b""
                try:
                    deliver(fields[0], reply, data[start:body], data[body:end])
                except Exception:
                    _failed(fields[0])
            elif _nats_py_survives(fields, data[start : start + int(fields[-2])] if with_headers else b""):
                self._pass_on(data[position : end + 2])
            else:
                self.dropped += 1
            position = end + 2


def _deliver(deliver: Deliver, fields: list[bytes], with_headers: bool, block: bytes, payload: bytes) -> None:
    reply = fields[2] if len(fields) == (5 if with_headers else 4) else b""
    try:
        deliver(fields[0], reply, block, payload)
    except Exception:
        _failed(fields[0])


def _failed(subject: bytes) -> None:
    """Log a subscriber's bug: it must not stop the stream for the others."""
    _log.exception("a subscription callback failed", extra={"subject": subject.decode("ascii", "replace")})


def _nats_py_survives(fields: list[bytes], block: bytes) -> bool:
    """True if nats-py 2.16 reads this frame without the loss of its read loop (found by trial)."""
    for field in fields:
        if _WHITE.search(field):
            return False
        if not field.isascii():
            try:
                field.decode()
            except UnicodeDecodeError:
                return False
    if block:
        first, ended, _ = block.partition(b"\r\n")
        return bool(ended) and first.isascii() and (first == b"NATS/1.0" or first.startswith(b"NATS/1.0 "))
    return True
