"""One HTTP request at the gateway: what was asked, where it goes, and what the access log will say of it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from msgspec import Struct

from gateway.access_log import AccessRecord
from gateway.body_memory import BodyShare
from gateway.body_streams import ClientGone, Upload
from gateway.framing import length_of
from gateway.header_translation import Head
from gateway.known_headers import CONTENT_LENGTH
from gateway.trusted_proxies import Sender, is_local
from mesh.routes import Gone, Match, NoRoute, NotAllowed
from mesh.streams import Stream

Scope = MutableMapping[str, Any]


class GatewayRequest(Struct, eq=False, kw_only=True):
    """One request while it is answered; also what the access log will say of it.

    ``path`` and ``query`` are the target's bytes, ``client`` is the address (empty if unknown), ``host`` is the host
    that the client asked for (empty if it names none), ``sender`` is what a trusted proxy says of the client (None if
    there is no such proxy), and ``began`` is a moment of `time.perf_counter`.
    """

    method: str
    path: bytes
    query: bytes
    head: Head
    client: str
    scheme: str
    host: bytes
    sender: Sender | None
    request_id: bytes
    record: AccessRecord
    began: float
    upstream: float = 0.0
    # What the checks find:
    is_handshake: bool = False
    """True for the handshake of a WebSocket."""
    segments: tuple[str, ...] = ()
    """The decoded segments of the path."""
    match: Match | Gone | NotAllowed | NoRoute | None = None
    # On the ASGI lane only:
    receive: Any = None
    """A `Receive`, then."""
    share: BodyShare | None = None
    """The memory that its body takes."""
    upload: Upload | None = None
    """The request's body, while the response is a stream already."""
    stream: Stream | None = None
    """The rest of the response's body."""
    task: asyncio.Task[Any] | None = None
    watch: asyncio.Task[None] | None = None

    @property
    def local(self) -> bool:
        """True if the client runs on this machine, as far as can be known."""
        return is_local(self.client, self.head.known) if self.sender is None else self.sender.local

    @property
    def size(self) -> int | None:
        """The length that the client declared for its body."""
        declared = self.head.known.get(CONTENT_LENGTH)
        return length_of(declared) if declared is not None else None


def cancellation(request: GatewayRequest) -> BaseException:
    """The exception that a cancelled task raises: `ClientGone` if that was the reason."""
    seen = request.watch is not None and request.watch.done() and not request.watch.cancelled()
    if seen or (request.upload is not None and request.upload.client_gone):
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        return ClientGone()
    return asyncio.CancelledError()
