"""nats-py's errors become the mesh's here, and nowhere else."""

from __future__ import annotations

import asyncio
import re

import nats.errors

from mesh.bus.connection_errors import failure_of
from mesh.errors import BadSubject, BusUnavailable, DeadlineExceeded, MeshError, NoResponders, TooLarge

_PERMISSION = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"")


def translate(error: BaseException) -> MeshError | BadSubject:
    """The mesh's error for an error of nats-py or of the socket."""
    if isinstance(error, nats.errors.NoRespondersError):
        return NoResponders("nobody listens on the subject")
    if isinstance(error, nats.errors.MaxPayloadError):
        return TooLarge("the message is over the server's max_payload")
    if isinstance(error, nats.errors.BadSubjectError):
        return BadSubject(str(error))
    if isinstance(error, (nats.errors.TimeoutError, asyncio.TimeoutError)):
        return DeadlineExceeded("NATS did not answer in time")
    return BusUnavailable(explain(error))


def explain(error: BaseException) -> str:
    """One sentence for people: why NATS cannot be used."""
    return f"NATS: {failure_of(error).what}"


def forbidden_subject(error: BaseException) -> tuple[str, str] | None:
    """``("publish" | "subscription", subject in lower case)`` of a permissions violation; None for other errors."""
    found = _PERMISSION.search(str(error))
    return (found[1], found[2]) if found else None
