"""Small messages of one turn of the event loop, to one receiver, as one NATS message.

Under load a gateway has many requests for the same instance at once, and the instance many replies for the same
gateway. What they cost in the NATS server is nearly all by the message, not by the byte. A bundle's payload is its
messages one after another, each framed nearly as NATS itself would::

    <endpoint> <token> <header bytes> <total bytes>\\r\\n<header block><payload>\\r\\n     a request
    <token> <header bytes> <total bytes>\\r\\n<header block><payload>\\r\\n                a reply

A message that is alone in its turn goes as it always did (ADR 17).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from mesh import headers

MARK = b"+"
"""The last token of a subject that takes bundles: no endpoint and no reply token has that name."""
APART = b"NATS/1.0\r\nMesh-Status: 503\r\nMesh-Bundles: off\r\n\r\n"
"""The header block that answers a bundle whose requests cannot be answered each by itself: none of them was begun, and
each is to be sent by itself. NATS maps the reply subject of what comes from another account, for one reply."""
_BUNDLES = b"mesh-bundles"
MOST_BYTES = 65_536
"""Payload of the largest bundle; stays below the server's max_payload too."""
LARGEST = 16_384
"""Header block and payload of the largest message that goes into a bundle."""
MOST_REQUESTS = 32
"""Requests of a bundle that are written without waiting for the end of the turn: their receiver works on them while the
others are still collected."""
FRAMING = 24
"""Bytes, at most, of a frame beside its names, header block and payload."""

Item = tuple[bytes, bytes, bytes, bytes, Any]
"""Names (endpoint and token of a request, with a blank; the token of a reply), reply subject (empty for a reply),
header block, payload, and of a request the object whose ``others`` says who shares its fate."""


class BadBundle(ValueError):
    """What came as a bundle is none: the rest of it is lost."""


class Bundle(Struct, eq=False):
    """Messages for one ``place`` (a subject without its last token, ending in a dot), not yet written.

    ``size`` is that of its payload in bytes, at most.
    """

    size: int = 0
    items: list[Item] = []

    def frames(self, place: bytes) -> list[bytes]:
        """The parts of what is to be written: a PUB command for all, or an HPUB command for the only one."""
        items = self.items
        if len(items) == 1:
            names, reply, block, payload, _ = items[0]
            command = b"HPUB %b%b %b%d %d\r\n" % (
                place,
                names.partition(b" ")[0],
                reply and reply + b" ",
                len(block),
                len(block) + len(payload),
            )
            return [command, block, payload, b"\r\n"]
        parts = [b""]
        for names, _, block, payload, _ in items:
            parts += (b"%b %d %d\r\n" % (names, len(block), len(block) + len(payload)), block, payload, b"\r\n")
        _, reply, _, _, first = items[0]
        if first is not None:
            first.others = [item[4] for item in items[1:]]
        parts[0] = b"PUB %b+ %b %d\r\n" % (place, reply, sum(map(len, parts)))
        parts.append(b"\r\n")
        return parts


class Takers(set[bytes]):
    """Inboxes (reply subjects without their last token) that take bundles: those from which one came."""

    MOST = 4096

    def remember(self, inbox: bytes) -> None:
        if inbox not in self:
            if len(self) >= self.MOST:  # callers come and go
                self.clear()
            self.add(inbox)


def refuses(block: bytes, payload: bytes) -> bool:
    """Whether a reply is the answer `APART` to a bundle. What a header's value says of bundles is no such answer."""
    if payload or not headers.has(block, _BUNDLES):
        return False
    pairs = headers.decode(block)
    return headers.find(pairs, headers.STATUS) == b"503" and headers.find(pairs, _BUNDLES) == b"off"


def unpack(data: bytes, number: int) -> Iterator[tuple[list[bytes], bytes, bytes]]:
    """Names (``number`` of them), header block and payload of each message. Raises `BadBundle` where it is broken."""
    position, size = 0, len(data)
    if size > MOST_BYTES:
        raise BadBundle(f"a bundle of {size} bytes; {MOST_BYTES} are allowed")
    while position < size:
        start = data.find(b"\r\n", position) + 2
        fields = data[position : start - 2].split(b" ")
        try:
            end = start + int(fields.pop())
            body = start + int(fields.pop())
        except (ValueError, IndexError):
            raise BadBundle(f"no frame begins at byte {position}") from None
        if start < 2 or len(fields) != number or not start <= body <= end or data[end : end + 2] != b"\r\n":
            raise BadBundle(f"the frame at byte {position} is broken")
        yield fields, data[start:body], data[body:end]
        position = end + 2
