"""A client's headers that come again byte for byte, as they mostly do on a connection that is kept open.

The first request with them was read by llhttp, header by header, and found to be sound; what is equal to it needs no
second reading. Only the request line is new, and it is taken here only in its plainest form. Everything else (another
header, more or less than exactly one request in what came) goes to llhttp as if this were not there.
"""

from __future__ import annotations

import re

from gateway.headers import Head

MOST_BYTES = 2048
"""Bytes of headers that are remembered for a connection."""

# Of what llhttp takes for a target, origin-form without fragment; the methods are those with nothing special to them.
_LINE = re.compile(rb'(GET|POST|PUT|PATCH|DELETE|HEAD) (/[!"$->@-~]*)(?:\?([!"$-~]*))? HTTP/1\.1')


class Repeated:
    """The headers of one request as they were on the wire, and what they come to. ``length`` is that of the body."""

    __slots__ = ("_block", "_length", "head")

    def __init__(self, block: bytes, head: Head, length: int) -> None:
        self._block = block
        self._length = length
        self.head = head

    def read(self, data: bytes) -> tuple[str, bytes, bytes, bytes] | None:
        """Method, path, query and body of ``data``, where it is one whole request with the same headers."""
        end = data.find(b"\r\n")
        if not data.startswith(self._block, end):
            return None
        body = end + len(self._block)
        if len(data) != body + self._length:
            return None
        line = _LINE.fullmatch(data, 0, end)
        if line is None:
            return None
        method, path, query = line.groups()
        return method.decode(), path, query or b"", data[body:]


def remember(data: bytes, head: Head) -> Repeated | None:
    """What to compare later requests with, where ``data`` was one whole request that llhttp read; ``head`` are its
    headers. None where it does not lend itself to that."""
    end, last = data.find(b"\r\n"), data.find(b"\r\n\r\n")
    length = int(head.known.get(b"content-length", b"0"))
    if not 0 < end <= last <= end + MOST_BYTES or len(data) != last + 4 + length:
        return None
    return Repeated(data[end : last + 4], head, length)
