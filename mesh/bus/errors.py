"""nats-py's errors, translated once."""

from __future__ import annotations

import asyncio
import re

import nats.errors

from mesh.errors import BadSubject, BusUnavailable, DeadlineExceeded, MeshError, NoResponders, TooLarge

_PERMISSION = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"")


def translate(error: BaseException) -> MeshError | BadSubject:
    """The mesh's error for one of nats-py or the socket."""
    if isinstance(error, nats.errors.NoRespondersError):
        return NoResponders("nobody listens on the subject")
    if isinstance(error, nats.errors.MaxPayloadError):
        return TooLarge("the message is over the server's max_payload")
    if isinstance(error, nats.errors.BadSubjectError):
        return BadSubject(str(error))
    if isinstance(error, (nats.errors.TimeoutError, asyncio.TimeoutError)):
        return DeadlineExceeded("NATS did not answer in time")
    return BusUnavailable(explain(error))


def explain(error: BaseException, held_up: str = "") -> str:
    """One sentence for people about why NATS cannot be used, with the next step where one is known.

    ``held_up`` says who has held up the event loop of late, where that is known.
    """
    text = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in text:
        return "NATS refused the connection: is it running, and is NATS_URL right?"
    lower = text.lower()
    if "authorization violation" in lower:
        return "NATS refused the credentials: check NATS_CREDS, NATS_USER, NATS_PASSWORD or NATS_TOKEN"
    if "authentication" in lower and "expired" in lower:
        return "the NATS credentials have expired: renew the file that NATS_CREDS names"
    if "stale connection" in lower:
        why = held_up or "was it stopped, or its event loop kept busy?"
        return f"NATS heard nothing from this process for too long: {why}"
    return f"NATS: {text}"


def forbidden_subject(error: BaseException) -> tuple[str, str] | None:
    """``("publish" | "subscription", subject in lower case)`` of a permissions violation, else None."""
    found = _PERMISSION.search(str(error))
    return (found[1], found[2]) if found else None
