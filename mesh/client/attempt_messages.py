"""The messages of one attempt of a call: the request's header block, a cancellation, and what a reply must be."""

from __future__ import annotations

import logging

from msgspec import DecodeError, Struct
from msgspec.json import decode

from mesh import headers, messages
from mesh.boot_clock import boot_ms
from mesh.bus import Bus, Reply
from mesh.errors import MeshError
from mesh.messages import Cancel

_log = logging.getLogger("mesh.client")


class _Problem(Struct):
    """The one field of a problem document that decides about retries."""

    executed: str = ""


def request_block(left: float, *lines: bytes) -> bytes:
    """The header block of one attempt.

    left: seconds until the call's deadline.
    lines: header lines, each ending in CRLF.
    """
    return b"NATS/1.0\r\nMesh-Deadline: %d\r\nMesh-Sent: %d\r\n%b\r\n" % (
        max(1, int(left * 1000)),
        boot_ms(),
        b"".join(lines),
    )


def tell_cancelled(bus: Bus, service: str, instance: str, reply: bytes) -> None:
    """Tell an instance, or all instances of a service, that the caller no longer waits for an attempt.

    instance: its id; empty for all of the service.
    reply: the attempt's reply subject.
    """
    subject = bus.subjects.control("cancel", service, instance)
    try:
        bus.publish(bus.address(subject), messages.encode(Cancel(reply=reply.decode())))
    except MeshError as error:
        _log.debug("an attempt at %s.%s is not cancelled: %s", service, instance, error)


def is_usable(block: bytes, foreign: bool) -> bool:
    """True if a reply with this header block has a valid status. A reply of a foreign service needs none."""
    return headers.is_reply(block) or (foreign and headers.status_of(headers.decode(block)) is not None)


def says_not_executed(reply: Reply) -> bool:
    """True if a reply refuses its request and says that the handler did not run."""
    if headers.find(headers.decode(reply.block), headers.STATUS) not in (b"503", b"504"):
        return False
    try:
        return decode(reply.payload, type=_Problem).executed == "no"
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return False
