"""The context of one request: its caller, its deadline, and calls to other services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, overload

from mesh import headers
from mesh.service.http_messages import Request

if TYPE_CHECKING:
    from mesh.client.calls import Calls

current: ContextVar[Context | None] = ContextVar("mesh_context", default=None)
"""The context of the running handler; log records take request id and trace from it."""


T = TypeVar("T")


class Context:
    """Given to a handler that declares a parameter of this type."""

    __slots__ = ("_calls", "_cancelled", "deadline", "instance", "request", "request_id", "service", "subject")

    def __init__(
        self,
        request: Request,
        request_id: str,
        deadline: float,
        service: str,
        instance: str,
        calls: Calls,
        subject: bytes = b"",
    ) -> None:
        self.request = request
        """The request itself."""
        self.request_id = request_id
        """The id in the log lines of every service that this request reaches."""
        self.deadline = deadline
        """The moment at which the caller gives up, in seconds of the event loop's clock."""
        self.service = service
        """The name of this service."""
        self.instance = instance
        """The id of this instance."""
        self.subject = subject
        """The subject that the request came on; with a wildcard endpoint, the wildcard's value is in it."""
        self._calls = calls
        self._cancelled: asyncio.Event | None = None

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; not below 0."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers, names lower-case, the first of each name."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(self.request.pairs)}

    @property
    def trace(self) -> str:
        """The W3C ``traceparent``, or an empty string."""
        value = self.request.raw_header(headers.TRACEPARENT)
        return value.decode("latin-1") if value else ""

    @property
    def identity(self) -> str:
        """The gateway's signed token for the caller, or an empty string; `call` forwards it."""
        value = self.request.raw_header(headers.IDENTITY)
        return value.decode("latin-1") if value else ""

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the caller has gone."""
        if self._cancelled is None:
            self._cancelled = asyncio.Event()
        return self._cancelled

    @property
    def is_cancelled(self) -> bool:
        """True if `cancelled` is set."""
        return self._cancelled is not None and self._cancelled.is_set()

    @property
    def log(self) -> logging.Logger:
        """The service's logger; its lines carry this request's id and trace."""
        return logging.getLogger(f"service.{self.service}")

    @overload
    async def call(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: type[T],
        timeout: float | None = ...,
        **arguments: Any,
    ) -> T: ...

    @overload
    async def call(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: Any = ...,
        timeout: float | None = ...,
        **arguments: Any,
    ) -> Any: ...

    async def call(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: Any = Any,
        timeout: float | None = None,
        **arguments: Any,
    ) -> Any:
        """Call an endpoint of another service; the deadline, the request id, the trace and the identity go along.

        service: the service's name
        endpoint: the endpoint's name
        more: arguments that cannot be given by name: those called ``returns`` or ``timeout``
        returns: the type of the result
        timeout: seconds; at most, and by default, what remains of this request
        arguments: the endpoint's parameters

        Raises the `mesh.errors` class of an error reply.
        """
        left = self.remaining if timeout is None else min(timeout, self.remaining)
        return await self._calls.call(
            service, endpoint, {**(more or {}), **arguments}, returns=returns, timeout=left, carried=self._carried()
        )

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: type[bytes] = ...,
        timeout: float | None = ...,
        **arguments: Any,
    ) -> AsyncIterator[bytes]: ...

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: type[T],
        timeout: float | None = ...,
        **arguments: Any,
    ) -> AsyncIterator[T]: ...

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: Any,
        timeout: float | None = ...,
        **arguments: Any,
    ) -> AsyncIterator[Any]: ...

    def stream(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: Any = bytes,
        timeout: float | None = None,
        **arguments: Any,
    ) -> AsyncIterator[Any]:
        """Iterate over what an endpoint yields: ``async for piece in ctx.stream("files", "read", name="a")``.

        service: the service's name
        endpoint: the endpoint's name
        more: as in `call`
        returns: bytes for pieces as they come; another type for one value from each line of JSON
        timeout: seconds until the response begins
        arguments: the endpoint's parameters

        Raises the `mesh.errors` class of an error reply, and `StreamBroken` for a stream without its end.
        """
        left = self.remaining if timeout is None else min(timeout, self.remaining)
        return self._calls.stream(
            service, endpoint, {**(more or {}), **arguments}, returns=returns, timeout=left, carried=self._carried()
        )

    async def emit(self, event: str, data: Any, *, durable: bool = False) -> None:
        """Publish an event for every service that listens.

        event: its name, such as ``bets.settled``
        data: any value that is JSON
        durable: True returns after JetStream has stored it; otherwise each service gets it at most once

        Raises `ValueError` for a bad name, `BusUnavailable`, `TooLarge`, and for durable events `Unavailable`.
        """
        await self._calls.emit(event, data, durable=durable, timeout=self.remaining, carried=self._carried())

    def _carried(self) -> bytes:
        """The headers that a call passes on: the request id, the trace and the identity.

        The id comes first: `mesh.headers.open_envelope` reads a request without decoding it if its headers come in
        one order, in which ``Mesh-Id`` follows those of the caller.
        """
        lines = [b"Mesh-Id: %b\r\n" % self.request_id.encode()]
        for name, wire in (
            (headers.TRACEPARENT, b"traceparent"),
            (headers.TRACESTATE, b"tracestate"),
            (headers.IDENTITY, b"Mesh-Identity"),
        ):
            value = self.request.raw_header(name)
            if value:
                lines.append(b"%b: %b\r\n" % (wire, value))
        return b"".join(lines)


def log_facts() -> dict[str, str]:
    """The request id and the trace of the running handler, for its log lines."""
    context = current.get()
    if context is None:
        return {}
    facts = {"request_id": context.request_id}
    if context.trace:
        facts["trace"] = context.trace
    return facts
