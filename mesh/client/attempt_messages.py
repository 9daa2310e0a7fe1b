"""The messages that a caller sends for one attempt of a call: the request's header block, and a cancellation."""

from __future__ import annotations

import logging

from mesh import messages
from mesh.boot_clock import boot_ms
from mesh.bus import Bus
from mesh.errors import MeshError
from mesh.messages import Cancel

_log = logging.getLogger("mesh.client")


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
