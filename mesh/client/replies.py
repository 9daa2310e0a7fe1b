"""Reading replies: the value, the error that a reply stands for, and if its handler ran."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from mesh import codec, headers
from mesh.bus import Reply
from mesh.errors import BadReply, MeshError, from_problem
from mesh.numbers import parse_count
from mesh.streams import Stream

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""The exceptions that a decoder raises for bytes that are not of the type asked for."""


class Answer(Struct, frozen=True, eq=False):
    """The reply to a call, and how it came about."""

    reply: Reply
    instance: str
    """The id of the instance that replied; empty if it is not known (a foreign service, a queue group)."""
    attempts: int
    stream: Stream | None = None
    """The rest of a body that is larger than one message, or has no end yet; close it."""


def is_usable(block: bytes, foreign: bool) -> bool:
    """True if a reply with this header block has a valid status. A reply of a foreign service needs none."""
    return headers.is_reply(block) or (foreign and headers.status_of(headers.decode(block)) is not None)


def says_not_executed(reply: Reply) -> bool:
    """True if a reply refuses its request and says that the handler did not run."""
    if headers.find(headers.decode(reply.block), headers.STATUS) not in (b"503", b"504"):
        return False
    return read_problem(reply.payload).get("executed") == "no"


def read_answer(answer: Answer, returns: Any, what: str) -> Any:
    """The value in a reply.

    returns: the type of the value; bytes for the payload as it is.
    what: service and endpoint, for error texts.
    Raises the error that the reply stands for; `BadReply` if its status or its value is unusable.
    """
    payload = answer.reply.payload
    pairs = headers.decode(answer.reply.block)
    status = headers.status_of(pairs)
    if status is None:
        raise BadReply(f"{what} replied with the status {headers.find(pairs, headers.STATUS)!r}")
    if status >= 400:
        raise remote_error(status, pairs, payload, what)
    if returns is bytes:
        return payload
    if not payload and status in (204, 202, 200):
        return None
    return decode_value(payload, returns, f"{what} replied with", executed="yes")


def decode_value(data: bytes, returns: Any, what: str, *, executed: Literal["unknown", "yes"]) -> Any:
    """The value of type ``returns`` in ``data``. Raises `BadReply`, a sentence that begins with ``what``."""
    try:
        return codec.decode(data, returns)
    except UNDECODABLE as error:
        raise BadReply(f"{what} something else than asked for: {error}", executed=executed) from error


def remote_error(status: int, pairs: headers.Pairs, payload: bytes, what: str) -> MeshError:
    """The typed error of a reply with a status of 400 or more."""
    is_problem = (headers.find(pairs, b"content-type") or b"").startswith(b"application/problem+json")
    document = read_problem(payload) if is_problem else {}
    text = headers.find(pairs, b"nats-service-error")
    error = from_problem(status, document, text.decode("latin-1") if text else f"{what} answered {status}")
    after = headers.find(pairs, b"retry-after")
    seconds = parse_count(after)
    if seconds is not None:
        error.retry_after = float(seconds)
    return error


def read_problem(payload: bytes) -> dict[str, Any]:
    """A problem document (RFC 9457); empty if ``payload`` is not a JSON object."""
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except UNDECODABLE:
        return {}
