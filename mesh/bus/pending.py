"""A request in flight, from the caller's side: what it waits for, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import Struct

from mesh.errors import MeshError


class Reply(Struct, frozen=True):
    """A reply as it came: header block and payload."""

    block: bytes
    payload: bytes


Ending = Reply | MeshError
"""How a request ends: with its reply, or with the error that it ends with instead."""


class Pending:
    """One request in flight.

    token: the last token of its reply subject.
    reply: its reply subject.
    on_end: called once with the ending, synchronously, unless `Requests.close` comes first.
    lenient: takes any reply; otherwise a reply has a ``Mesh-Status``.
    """

    __slots__ = (
        "address",
        "bucket",
        "bundled_with",
        "has_known_block",
        "is_answered",
        "lenient",
        "message",
        "on_end",
        "on_suspected_loss",
        "reply",
        "stream",
        "token",
    )

    def __init__(self, token: bytes, reply: bytes, on_end: Callable[[Ending], None], lenient: bool) -> None:
        self.token = token
        self.reply = reply
        self.on_end = on_end
        self.lenient = lenient
        self.address = b""
        """The subject to which it was sent."""
        self.is_answered = False
        """True if a reply came: then its receiver has begun the bundle that it was in."""
        self.has_known_block = False
        """True if the header block of its reply was checked before: it is valid, and no stream follows."""
        self.stream: Any = None
        """The stream that its reply begins, as made by the ``adopt`` of `Requests.on_stream`."""
        self.bucket: dict[bytes, Pending] | None = None
        """The requests with the same deadline; see `Requests`."""
        self.message = (b"", b"")
        """Header block and payload, if it was given to a bundle: it may have to be sent again by itself."""
        self.on_suspected_loss: Callable[[MeshError], None] | None = None
        """Called with the reason if the reply may never come, though it still may; None: it is waited for anyway."""
        self.bundled_with: list[Pending] | None = None
        """The other requests of its bundle, if it was the first: no-responders and a refusal come to it alone."""


def let_go(ending: Ending) -> None:
    """The ``on_end`` of a request that has ended.

    The rest of a bundle may remember such a request for long. It must not keep a client's connection or the frames of a
    stream in memory for that.
    """


class AwaitedRequest(Pending):
    """A request in flight whose ending is the result, or the exception, of ``future``."""

    __slots__ = ("future",)

    def __init__(self, token: bytes, reply: bytes, future: asyncio.Future[Reply], lenient: bool) -> None:
        super().__init__(token, reply, partial(_resolve, future), lenient)
        self.future = future


def _resolve(future: asyncio.Future[Reply], ending: Ending) -> None:
    if future.done():
        return
    if isinstance(ending, Reply):
        future.set_result(ending)
    else:
        future.set_exception(ending)
