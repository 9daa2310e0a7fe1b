"""One request while the gateway has it: where it goes, who waits for it, and what the access log will say of it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from gateway.access import begin
from gateway.headers import Pairs
from gateway.streaming import ClientGone, Receive, Upload
from mesh import headers
from mesh.client import Repeatable
from mesh.routes import Binding
from mesh.routes import Entry as RouteEntry
from mesh.streams import Stream

Scope = MutableMapping[str, Any]


class RouteDestination:
    """A matched route as a destination of calls; each revision may name endpoint and parameters differently."""

    __slots__ = ("_bindings", "_values", "queued", "revisions", "service")

    def __init__(self, entry: RouteEntry, values: tuple[str, ...]) -> None:
        self.service = entry.service
        self.revisions = entry.bindings.keys()
        self.queued = ""
        self._bindings = entry.bindings
        self._values = values

    def endpoint(self, revision: str) -> tuple[bytes, bytes]:
        binding: Binding = self._bindings[revision]
        if not self._values:
            return binding.endpoint.encode(), b""
        params = headers.encode_params(zip(binding.names, self._values, strict=True))
        return binding.endpoint.encode(), b"Mesh-Params: %b\r\n" % params


class Exchange:
    """One request while it is answered; also what the access log will say of it."""

    __slots__ = (
        "began",
        "entry",
        "method",
        "receive",
        "request_id",
        "stream",
        "task",
        "upload",
        "upstream",
        "watch",
    )

    def __init__(self, method: str, request_id: bytes, began: float, receive: Receive) -> None:
        self.method = method
        self.request_id = request_id
        self.began = began
        self.receive = receive
        self.entry = begin(method, request_id.decode())
        self.upstream = 0.0
        self.upload: Upload | None = None
        """The request's body, while the response is a stream already."""
        self.stream: Stream | None = None
        """The rest of the response's body."""
        self.task: asyncio.Task[Any] | None = None
        self.watch: asyncio.Task[None] | None = None


def gone(exchange: Exchange) -> BaseException:
    """What a cancelled task raises: `ClientGone` where that was the reason."""
    seen = exchange.watch is not None and exchange.watch.done() and not exchange.watch.cancelled()
    if seen or (exchange.upload is not None and exchange.upload.client_gone):
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        return ClientGone()
    return asyncio.CancelledError()


def repeatable(route: RouteEntry, method: str) -> Repeatable | None:
    """Only where a route names a ``try_timeout_ms`` is anything but an undelivered request repeated."""
    for binding in route.bindings.values():
        if binding.route.try_timeout_ms:
            return Repeatable(method, binding.route.try_timeout_ms, binding.route.idempotent)
    return None


def forwarded(scope: Scope, pairs: Pairs) -> bytes:
    """``Mesh-Forwarded``: client address, scheme and host, in the form of RFC 7239."""
    client = scope.get("client")
    address = client[0] if client else "unknown"
    if ":" in address:
        address = f'"[{address}]"'
    host = headers.find(pairs, b"host") or b""
    if not host.isascii() or b'"' in host or b"\\" in host:
        host = b""
    return b'for=%b;proto=%b;host="%b"' % (address.encode(), scope["scheme"].encode(), host)
