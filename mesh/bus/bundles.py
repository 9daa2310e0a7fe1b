"""The format of bundles: small messages to one receiver as one NATS message. `mesh.bus.bundling` has their life.

A bundle's payload is its messages one after another, each framed almost as NATS itself frames them::

    <endpoint> <token> <header bytes> <total bytes>\\r\\n<header block><payload>\\r\\n     a request
    <token> <header bytes> <total bytes>\\r\\n<header block><payload>\\r\\n                a reply

Two requests to the instance ``I1`` of ``users``, as the bytes of one PUB command (`encode`)::

    PUB mesh.to.users.I1.+ mesh.inbox.gateway.G1.a1b2.t1 70\\r\\n
    get t1 12 12\\r\\nNATS/1.0\\r\\n\\r\\n\\r\\n
    add t2 12 26\\r\\nNATS/1.0\\r\\n\\r\\n{"name":"Ada"}\\r\\n
    \\r\\n

The reply subject of the second request is ``mesh.inbox.gateway.G1.a1b2.t2``. A message that is alone goes as an
ordinary NATS message (ADR 17).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from mesh import headers
from mesh.bus.pending import Pending

MARK: Final = b"+"
"""The last token of a subject to which bundles go; no endpoint and no reply token has this name."""
REFUSAL: Final = b"NATS/1.0\r\nMesh-Status: 503\r\nMesh-Bundles: off\r\n\r\n"
"""The header block that refuses a bundle: none of its requests was begun, and each is to be sent by itself.

NATS maps the reply subject of a message from another account, and lets one reply through: there the requests of a
bundle cannot be answered one by one."""
MAX_BUNDLE: Final = 65_536
"""Payload bytes of the largest bundle. A server's max_payload may ask for less."""
MAX_MESSAGE: Final = 16_384
"""Bytes of header block and payload of the largest message that goes into a bundle."""
FRAMING: Final = 24
"""Bytes, at most, that a message takes in a bundle besides its names, header block and payload."""

_BUNDLES = b"mesh-bundles"


class BadBundle(ValueError):
    """The payload is not a bundle, from some byte on: the rest of it is lost."""


class BundledMessage(Struct, eq=False):
    """A message that may share a bundle.

    names: ``<endpoint> <token>`` of a request, ``<token>`` of a reply.
    reply: the reply subject of a request; empty for a reply.
    block: its header block.
    payload: its payload.
    pending: the request; None for a reply.
    """

    names: bytes
    reply: bytes
    block: bytes
    payload: bytes
    pending: Pending | None


def encode(prefix: bytes, messages: list[BundledMessage]) -> list[bytes]:
    """The parts of the bytes to write: one PUB command for all messages, or an HPUB command if there is only one.

    prefix: the subject of the messages without its last token, ending in a dot.
    """
    first = messages[0]
    if len(messages) == 1:
        block, payload = first.block, first.payload
        command = b"HPUB %b%b %b%d %d\r\n" % (
            prefix,
            first.names.partition(b" ")[0],
            first.reply and first.reply + b" ",
            len(block),
            len(block) + len(payload),
        )
        return [command, block, payload, b"\r\n"]
    parts = [b""]
    for message in messages:
        block, payload = message.block, message.payload
        parts += (b"%b %d %d\r\n" % (message.names, len(block), len(block) + len(payload)), block, payload, b"\r\n")
    parts[0] = b"PUB %b+ %b %d\r\n" % (prefix, first.reply, sum(map(len, parts)))
    parts.append(b"\r\n")
    return parts


def unpack(data: bytes, number: int) -> Iterator[tuple[list[bytes], bytes, bytes]]:
    """Yield names, header block and payload of each message of a bundle.

    number: how many names each has: 2 in a bundle of requests, 1 in a bundle of replies.

    Raises `BadBundle` when it comes to a part that is broken, after it has yielded the messages before.
    """
    position, size = 0, len(data)
    if size > MAX_BUNDLE:
        raise BadBundle(f"a bundle of {size} bytes; {MAX_BUNDLE} are allowed")
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


def is_refusal(block: bytes, payload: bytes) -> bool:
    """True if a reply is a `REFUSAL`: the header's exact value counts, not a value that has its words in it."""
    if payload or not headers.has(block, _BUNDLES):
        return False
    pairs = headers.decode(block)
    return headers.find(pairs, headers.STATUS) == b"503" and headers.find(pairs, _BUNDLES) == b"off"
