"""What goes out with one attempt of a call, and what its end says."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec import DecodeError, Struct
from msgspec.json import decode

from mesh import headers, messages
from mesh.balancer import Outcome, Peer, Reason
from mesh.boot_clock import boot_ms
from mesh.bus import Bus, Reply
from mesh.errors import (
    BadReply,
    BusUnavailable,
    DeadlineExceeded,
    InstanceLost,
    MeshError,
    NoInstances,
    NoResponders,
    Starting,
)
from mesh.messages import Cancel
from mesh.watcher import Watcher

_log = logging.getLogger("mesh.client")


def reason_of(error: MeshError) -> Reason | None:
    """Why the attempt came to nothing, where that may be mended by another one."""
    if isinstance(error, NoResponders):
        return Reason.NO_RESPONDERS
    if isinstance(error, DeadlineExceeded):
        return Reason.TIMEOUT
    if isinstance(error, InstanceLost):
        return Reason.INSTANCE_LOST
    return Reason.CONNECTION_LOST if isinstance(error, BusUnavailable) else None


def told(failed: MeshError | None, error: MeshError) -> MeshError:
    """What the caller is told after ``error``, when it would have been told ``failed`` before.

    The last error, unless that one says that nothing ran where an attempt before may have.
    """
    return error if failed is None or failed.executed == "no" or error.executed != "no" else failed


def denies(reply: Reply) -> bool:
    """Whether a reply refuses the request, and says that it was not run."""
    if headers.find(headers.decode(reply.block), headers.STATUS) not in (b"503", b"504"):
        return False
    try:
        return decode(reply.payload, type=_Document).executed == "no"
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return False


class _Document(Struct):
    executed: str = ""


def outcome_of(error: MeshError, patience: float) -> Outcome:
    """What an error says about the instance."""
    if isinstance(error, NoResponders):
        return Outcome.NO_RESPONDERS
    if isinstance(error, DeadlineExceeded):
        return Outcome.TIMEOUT if patience >= 1 else Outcome.SHORT_TIMEOUT
    if isinstance(error, BadReply):
        return Outcome.BAD_REPLY
    # A lost bus says nothing about the instance.
    return Outcome.LOST if isinstance(error, InstanceLost) else Outcome.CANCELLED


def nobody(bus: Bus, watcher: Watcher, service: str, tried: Sequence[Peer]) -> MeshError:
    """Why there is no instance to call."""
    if not bus.connected:
        return BusUnavailable(bus.last_error or "not connected to NATS")
    if not watcher.knows(service):
        return Starting("the registry is not synchronised yet")
    if tried:
        return NoResponders(f"none of the instances of {service} that were tried is listening")
    return NoInstances(f"no live instance of {service}")


def tell_cancelled(bus: Bus, service: str, instance: str, reply: bytes) -> None:
    """Tell an instance (all of them where it is empty) that nobody waits on that reply subject."""
    subject = bus.subjects.control("cancel", service, instance)
    try:
        bus.publish(bus.address(subject), messages.encode(Cancel(reply=reply.decode())))
    except MeshError as error:
        _log.debug("not cancelled: %s", error)


def is_usable(block: bytes, foreign: bool) -> bool:
    """Whether a reply has a valid status. A foreign service needs none."""
    return headers.is_reply(block) or (foreign and headers.status_of(headers.decode(block)) is not None)


def block_of(left: float, lines: bytes, common: bytes) -> bytes:
    """The header block of one attempt with ``left`` seconds to go."""
    return b"NATS/1.0\r\nMesh-Deadline: %d\r\nMesh-Sent: %d\r\n%b%b\r\n" % (
        max(1, int(left * 1000)),
        boot_ms(),
        lines,
        common,
    )
