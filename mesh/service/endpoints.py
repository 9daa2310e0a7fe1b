"""Endpoints as declared: a handler, the options it was declared with, and the routes that lead to it."""

from __future__ import annotations

import inspect
import operator
import types
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any, Final, Union

import anyio.to_thread
from msgspec import Struct

from mesh import codec
from mesh.errors import DeclarationError
from mesh.messages import Route
from mesh.routes import BadTemplate, parse_template
from mesh.service.binder import Binder
from mesh.service.http_messages import Response
from mesh.service.signatures import read_signature
from mesh.service.statistics import Statistics
from mesh.service.streaming import item_type
from mesh.subjects import is_name

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "*")
WEBSOCKET: Final = "websocket"
"""``Route.stream`` of a route for WebSockets."""
RESPONSE: Final = "response"
"""``Route.stream`` of a route whose response is a stream."""

Handler = Callable[..., Any]


class EndpointOptions(Struct, frozen=True, kw_only=True):
    """The options of an endpoint that only its own instances use; `mesh.messages.Route` has those for callers.

    name: the endpoint's name
    status: the HTTP status of a plain return value
    concurrency: how many calls may run at a time in one instance; 0 leaves it to the limit of the instance
    queue: how many calls more may wait
    cancel: True if the handler is cancelled when its caller goes away; None for the default of its method
    metadata: texts that ``$SRV.INFO`` shows
    """

    name: str
    status: int = 200
    concurrency: int = 0
    queue: int = 100
    cancel: bool | None = None
    metadata: dict[str, str] | None = None


@dataclass(slots=True)
class DeclaredEndpoint:
    """One endpoint of a service."""

    name: str
    handler: Handler
    binder: Binder
    run: Callable[..., Awaitable[Any]]
    status: int
    cancel: bool
    """True if the handler is cancelled when its caller has gone."""
    websocket: bool = False
    upgrade: DeclaredEndpoint | None = None
    """The endpoint for WebSockets on the same path, if this one takes requests."""
    concurrency: int = 0
    queue: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    subject: str = ""
    """A subject that it listens on besides the mesh's own; empty for none."""
    queue_group: str | None = None
    """Empty for a plain subscription; None for the queue group of its service."""
    items: Any = Any
    """The type of the items that the handler yields, if it streams."""
    encode: Callable[[Any], bytes] = codec.encode
    """Makes JSON of what the handler returns, or of each item that it yields."""
    routes: list[Route] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)

    def at(self, route: Route) -> DeclaredEndpoint:
        """This endpoint with another route, as a router's prefix changes it; a prefix has no parameters."""
        return replace(self, routes=[route], statistics=Statistics())

    def join(self, other: DeclaredEndpoint) -> None:
        """Take the route of another declaration of the same handler.

        One binder serves all routes: the one whose path names more parameters. With ``/items/{page}`` and ``/items``
        the handler gets the default of ``page`` for the second. Raises `DeclarationError` if each path names a
        parameter that the other does not, or if a parameter that one of them lacks has no default.
        """
        own, others = self.binder.path_keys(), other.binder.path_keys()
        if not (own >= others or own <= others):
            first, second = self.routes[0], other.routes[0]
            raise DeclarationError(
                f"{described(self.handler)}: {first.method} {first.path} and {second.method} {second.path} name "
                "different parameters; give one of the two a name= of its own"
            )
        if own < others:
            self.binder = other.binder
        for key in sorted(self.binder.required_path_keys() - (own & others)):
            raise DeclarationError(
                f"{described(self.handler)}: one of its paths does not name {{{key}}}, and it has no default; "
                "give it one, or write a handler for each path"
            )
        self.routes += other.routes


def declare_endpoint(handler: Handler, options: EndpointOptions, route: Route | None = None) -> DeclaredEndpoint:
    """Check a declaration and make its endpoint.

    handler: a function, a generator, or an object that is called
    options: how instances run it
    route: the HTTP route that leads to it; None for an endpoint that is called by name only

    Raises `DeclarationError` with a sentence that names the fault.
    """
    where = described(handler)
    _check_options(options, where)
    method, path_names = "CALL", tuple[str, ...]()
    if route is not None:
        _check_route(route, where)
        method, path_names = route.method, _path_names(route, where)
    streams = is_stream(handler)
    binder = read_signature(handler, path_names, method, where)
    websocket = route is not None and route.stream == WEBSOCKET
    if websocket and (streams or not binder.takes_socket):
        raise DeclarationError(f"{where}: a handler of websocket() takes a WebSocket and sends with it")
    if binder.takes_socket and not websocket:
        raise DeclarationError(f"{where}: a WebSocket is given to handlers of websocket() only")
    items, encode = _result(handler, streams, where)
    return DeclaredEndpoint(
        name=options.name,
        handler=handler,
        binder=binder,
        run=runner(handler, where),
        status=options.status,
        cancel=method in ("GET", "HEAD") or streams if options.cancel is None else options.cancel,
        websocket=websocket,
        concurrency=options.concurrency,
        queue=options.queue,
        metadata=checked_metadata(options.metadata, where),
        items=items,
        encode=encode,
        routes=[route] if route is not None else [],
    )


def _check_options(options: EndpointOptions, where: str) -> None:
    if not is_name(options.name):
        raise DeclarationError(
            f"{where}: {options.name!r} cannot be an endpoint's name; "
            "give one of letters, digits, '-' and '_' with name="
        )
    if not 100 <= options.status <= 599:
        raise DeclarationError(f"{where}: status {options.status} is not between 100 and 599")
    if options.concurrency < 0 or options.queue < 0:
        raise DeclarationError(
            f"{where}: concurrency {options.concurrency} and queue {options.queue} must not be below 0"
        )


def _check_route(route: Route, where: str) -> None:
    if route.method not in METHODS:
        raise DeclarationError(f"{where}: method {route.method!r} is not one of {', '.join(METHODS)}")
    if route.try_timeout_ms and not route.retry:
        raise DeclarationError(f"{where}: try_timeout says when to repeat an attempt, and retry=False forbids it")


def _path_names(route: Route, where: str) -> tuple[str, ...]:
    """The parameters that a route's path names. Raises `DeclarationError` for a path that is no template."""
    try:
        return parse_template(route.path).names
    except BadTemplate as error:
        raise DeclarationError(f"{where}: path {route.path!r}: {error}") from error


def milliseconds(option: str, seconds: float | None, where: str) -> int:
    """A timeout as routes announce it: milliseconds; 0 for None. Raises `DeclarationError` for one out of range."""
    if seconds is None:
        return 0
    if not 0.001 <= seconds <= 3600:
        raise DeclarationError(f"{where}: {option} {seconds} is not between 0.001 and 3600 seconds")
    return round(seconds * 1000)


def described(handler: Any) -> str:
    """A handler as error texts name it. Raises `DeclarationError` for an object that cannot be called."""
    where = f"handler {getattr(handler, '__qualname__', handler)!r}"
    if not callable(handler):
        raise DeclarationError(f"{where} is not callable")
    return where


def name_of(handler: Handler) -> str:
    """The name of a handler's endpoint by default: its own; empty for an object without a name."""
    return getattr(handler, "__name__", "")


def summary_of(handler: Handler) -> str:
    """The summary of a handler's route by default: the first line of its docstring."""
    return (inspect.getdoc(handler) or "").partition("\n")[0]


def is_stream(handler: Handler) -> bool:
    """True for a handler that yields its response in pieces."""
    return inspect.isasyncgenfunction(_function(handler))


def _function(handler: Handler) -> Handler:
    """The function that a call of ``handler`` runs: an object's ``__call__``."""
    return handler if inspect.isroutine(handler) else type(handler).__call__


def _result(handler: Handler, streams: bool, where: str) -> tuple[Any, Callable[[Any], bytes]]:
    """The type of the items that a handler yields (Any if it returns one value), and the encoder of one result.

    A Pydantic model is written as the annotation says, and without any other field: a handler that says ``-> User``
    may return a subclass of it with a password.
    """
    given = typing.get_type_hints(handler, include_extras=True).get("return") if inspect.isroutine(handler) else None
    kind = item_type(given) if streams else given
    if not streams and typing.get_origin(kind) in (Union, types.UnionType):
        apart = (Response, type(None))  # not encoded by their type
        members = tuple(m for m in typing.get_args(kind) if not (isinstance(m, type) and issubclass(m, apart)))
        kind = reduce(operator.or_, members) if members else None
    try:
        adapter = codec.adapter_for(kind)
    except TypeError as error:
        raise DeclarationError(f"{where}: its result of type {kind} cannot be written: {error}") from error
    return kind if streams else Any, codec.encode if adapter is None else adapter.encode


def checked_metadata(metadata: dict[str, str] | None, where: str) -> dict[str, str]:
    """A copy of the metadata. Raises `DeclarationError` for values that are not text and for keys of the mesh's own."""
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise DeclarationError(f"{where}: metadata {key!r}={value!r}; keys and values must be text")
        if key.startswith("mesh."):
            raise DeclarationError(f"{where}: metadata key {key!r}: 'mesh.' is reserved for the mesh")
    return dict(metadata or {})


def runner(handler: Handler, where: str) -> Callable[..., Awaitable[Any]]:
    """A coroutine function that calls the handler. Raises `DeclarationError` for a generator that is not async."""
    target = _function(handler)
    if inspect.isgeneratorfunction(target):
        raise DeclarationError(f"{where} is a generator; declare it with 'async def' to stream what it yields")
    if inspect.isasyncgenfunction(target):

        async def start(**arguments: Any) -> Any:
            return handler(**arguments)

        return start
    if inspect.iscoroutinefunction(target):
        return handler

    async def in_thread(**arguments: Any) -> Any:
        # A plain function may block, so it gets a thread, and the event loop goes on.
        return await anyio.to_thread.run_sync(partial(handler, **arguments))

    return in_thread
