"""Endpoints as declared: a handler, its name, the routes that lead to it."""

from __future__ import annotations

import inspect
import operator
import types
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, Union

import anyio.to_thread

from mesh import codec
from mesh.errors import DeclarationError
from mesh.messages import Route
from mesh.routes import BadTemplate, parse_template
from mesh.service.http_messages import Response
from mesh.service.parameters import Binder
from mesh.service.streaming import item_type
from mesh.subjects import is_name

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "*")

Handler = Callable[..., Any]
GRAIN_NS = 128
"""Nanoseconds that the latency histogram can tell apart; its buckets widen from there, 12.5 % of their value each."""
BUCKETS = 256


@dataclass(slots=True)
class Statistics:
    """Figures of one endpoint since its start or the last reset; times in nanoseconds, as NATS ADR-32 has them."""

    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    latencies: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """Requests by how long they took, in log-scaled buckets: eight to an octave, from `GRAIN_NS` to over an hour."""

    def record(self, elapsed_ns: int) -> None:
        self.num_requests += 1
        self.processing_time += elapsed_ns
        units = (elapsed_ns // GRAIN_NS) + 8
        octave = units.bit_length() - 4
        bucket = octave * 8 + (units >> octave) - 8
        self.latencies[bucket if bucket < BUCKETS else -1] += 1

    def percentile_ms(self, share: float) -> float:
        """Milliseconds within which that share (0 to 1) of the handled requests ended, to about 6 %; 0 without any."""
        left = share * sum(self.latencies)
        for bucket, count in enumerate(self.latencies):
            left -= count
            if count and left <= 0:
                octave, step = divmod(bucket, 8)
                return round((((step + 8.5) * (1 << octave)) - 8) * GRAIN_NS / 1e6, 4)
        return 0.0

    def refuse(self, text: str) -> None:
        """Count a request that no handler saw."""
        self.num_requests += 1
        self.fail(text)

    def fail(self, text: str) -> None:
        self.num_errors += 1
        self.last_error = text[:256]


@dataclass(slots=True)
class Declared:
    """One endpoint of a service."""

    name: str
    handler: Handler
    binder: Binder
    run: Callable[..., Awaitable[Any]]
    status: int
    cancel: bool
    """Whether the handler is cancelled when nobody waits for the answer (GET and HEAD by default)."""
    websocket: bool = False
    upgrade: Declared | None = None
    """What takes WebSockets on the same path, where this takes requests."""
    concurrency: int = 0
    """How many calls may run at a time in one instance; 0 leaves it to the service's limit."""
    queue: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    subject: str = ""
    """Where it listens besides the mesh's own addresses; empty for nowhere else."""
    queue_group: str | None = None
    """Empty for a plain subscription; None for its service's."""
    items: Any = Any
    """The type of what the handler yields, where it streams."""
    encode: Callable[[Any], bytes] = codec.encode
    """Makes JSON of what the handler returns, or of each thing that it yields."""
    routes: list[Route] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)


def declare(
    handler: Handler,
    *,
    method: str = "",
    path: str = "",
    name: str = "",
    status: int = 200,
    summary: str = "",
    tags: tuple[str, ...] = (),
    timeout: float | None = None,
    try_timeout: float | None = None,
    concurrency: int = 0,
    queue: int = 100,
    idempotent: bool = False,
    retry: bool = True,
    deprecated: bool = False,
    cancel: bool | None = None,
    websocket: bool = False,
    metadata: dict[str, str] | None = None,
) -> Declared:
    """Check a declaration and build its endpoint. Raises `DeclarationError` with a sentence that names the fault."""
    where = f"handler {getattr(handler, '__qualname__', handler)!r}"
    if not callable(handler):
        raise DeclarationError(f"{where} is not callable")
    name = name or getattr(handler, "__name__", "")
    if not is_name(name):
        raise DeclarationError(
            f"{where}: {name!r} cannot be an endpoint's name; give one of letters, digits, '-' and '_' with name="
        )
    if not 100 <= status <= 599:
        raise DeclarationError(f"{where}: status {status} is not between 100 and 599")
    for what, seconds in (("timeout", timeout), ("try_timeout", try_timeout)):
        if seconds is not None and not 0.001 <= seconds <= 3600:
            raise DeclarationError(f"{where}: {what} {seconds} is not between 0.001 and 3600 seconds")
    if try_timeout is not None and not retry:
        raise DeclarationError(f"{where}: try_timeout says when to repeat an attempt, and retry=False forbids it")
    if concurrency < 0 or queue < 0:
        raise DeclarationError(f"{where}: concurrency {concurrency} and queue {queue} must not be below 0")
    streams = inspect.isasyncgenfunction(handler if inspect.isroutine(handler) else type(handler).__call__)
    routes: list[Route] = []
    path_names: tuple[str, ...] = ()
    if path:
        if method not in METHODS:
            raise DeclarationError(f"{where}: method {method!r} is not one of {', '.join(METHODS)}")
        try:
            template = parse_template(path)
        except BadTemplate as error:
            raise DeclarationError(f"{where}: path {path!r}: {error}") from error
        path_names = template.names
        summary = summary or (inspect.getdoc(handler) or "").partition("\n")[0]
        routes = [
            Route(
                method=method,
                path=path,
                endpoint=name,
                summary=summary,
                tags=tuple(tags),
                timeout_ms=round((timeout or 0) * 1000),
                try_timeout_ms=round((try_timeout or 0) * 1000),
                idempotent=idempotent,
                retry=retry,
                deprecated=deprecated,
                stream="websocket" if websocket else "response" if streams else "",
            )
        ]
    binder = Binder(handler, path_names, method or "CALL", where)
    if websocket != binder.takes_socket or (websocket and streams):
        raise DeclarationError(
            f"{where}: a handler of websocket() takes a WebSocket and sends with it"
            if websocket
            else f"{where}: a WebSocket is given to handlers of websocket() only"
        )
    items, encode = _result(handler, streams, where)
    return Declared(
        name=name,
        handler=handler,
        binder=binder,
        run=runner(handler, where),
        status=status,
        cancel=method in ("GET", "HEAD") or streams if cancel is None else cancel,
        websocket=websocket,
        concurrency=concurrency,
        queue=queue,
        metadata=checked_metadata(metadata, where),
        items=items,
        encode=encode,
        routes=routes,
    )


def _result(handler: Handler, streams: bool, where: str) -> tuple[Any, Callable[[Any], bytes]]:
    """The type of what a handler yields, Any where it returns, and what makes JSON of one result.

    A model of Pydantic's is written as the annotation says, and without what it does not have: a handler that says
    ``-> User`` may return a subclass of it with a password.
    """
    given = typing.get_type_hints(handler, include_extras=True).get("return") if inspect.isroutine(handler) else None
    kind = item_type(given) if streams else given
    if not streams and typing.get_origin(kind) in (Union, types.UnionType):
        apart = (Response, type(None))  # answered as such
        members = tuple(m for m in typing.get_args(kind) if not (isinstance(m, type) and issubclass(m, apart)))
        kind = reduce(operator.or_, members) if members else None
    try:
        adapter = codec.adapter_for(kind)
    except TypeError as error:
        raise DeclarationError(f"{where}: its result of type {kind} cannot be written: {error}") from error
    return kind if streams else Any, codec.encode if adapter is None else adapter.encode


def checked_metadata(metadata: dict[str, str] | None, where: str) -> dict[str, str]:
    """A copy of metadata of strings. Raises `DeclarationError`."""
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise DeclarationError(f"{where}: metadata {key!r}={value!r}; keys and values must be text")
        if key.startswith("mesh."):
            raise DeclarationError(f"{where}: metadata key {key!r}: 'mesh.' is reserved for the mesh")
    return dict(metadata or {})


def runner(handler: Handler, where: str) -> Callable[..., Awaitable[Any]]:
    target = handler if inspect.isroutine(handler) else type(handler).__call__
    if inspect.isgeneratorfunction(target):
        raise DeclarationError(f"{where} is a generator; declare it with 'async def' to stream what it yields")
    if inspect.isasyncgenfunction(target):

        async def start(**arguments: Any) -> Any:
            return handler(**arguments)

        return start
    if inspect.iscoroutinefunction(target):
        return handler

    async def in_thread(**arguments: Any) -> Any:
        # A plain function may block, so it gets a thread; the event loop keeps beating.
        return await anyio.to_thread.run_sync(partial(handler, **arguments))

    return in_thread
