"""From a handler's signature to a function that turns a request into its arguments.

Everything that can be wrong with a signature is found when the handler is declared. What can be wrong with a
request becomes one `Invalid` error that names every field.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from enum import Enum
from typing import Annotated, Any, NamedTuple, Union

import msgspec
import msgspec.inspect

from mesh import codec
from mesh.errors import BadRequest, DeclarationError, Invalid, MeshError
from mesh.service.context import Context
from mesh.service.declaration_hints import check_foreign, check_unannotated
from mesh.service.dependencies import Dependency
from mesh.service.http_messages import Request, decode_json, field_errors
from mesh.service.parameter_markers import Body, Cookie, Depends, Header, Query
from mesh.service.websocket import WebSocket

_MISSING: Any = object()


class Source(NamedTuple):
    """One parameter: where it comes from and what it becomes."""

    parameter: str
    place: str  # path, query, header, cookie, body, stream, socket, context, request, dependency
    key: str  # its name in that place
    type: Any
    default: Any
    many: bool  # takes every value of a repeated name
    decoder: msgspec.json.Decoder[Any] | codec.Adapter | None
    adapter: codec.Adapter | None
    """Reads it in place of msgspec, where its type is Pydantic's."""

    def take(self, request: Request) -> Any:
        """The raw value in a request: text, a list of texts, or `_MISSING`."""
        if self.place == "path":
            return request.path_params.get(self.key, _MISSING)
        if self.place == "query":
            values = request.query.get(self.key)
        elif self.place == "header":
            values = request.header_values(self.key) or None
        else:
            value = request.cookies.get(self.key)
            values = None if value is None else [value]
        if values is None:
            return _MISSING
        return values if self.many else values[-1]


SOURCES = (Header, Cookie, Query, Body)
"""Markers that say where a value comes from."""
TEXTS = frozenset({"path", "query", "header", "cookie"})
"""Places whose values come as text."""


class Binder:
    """Builds the keyword arguments of one handler."""

    def __init__(self, handler: Callable[..., Any], path_names: Sequence[str], method: str, where: str) -> None:
        found = _analyse(handler, path_names, method, where)
        self.sources = tuple(s for s in found if isinstance(s, Source))
        self.dependencies = tuple(d for d in found if isinstance(d, Dependency))
        self._context = [s.parameter for s in self.sources if s.place == "context"]
        self._request = [s.parameter for s in self.sources if s.place == "request"]
        self._socket = [s.parameter for s in self.sources if s.place == "socket"]
        self._stream = [s.parameter for s in self.sources if s.place == "stream"]
        self._body = next((s for s in self.sources if s.place == "body"), None)
        self._texts = [s for s in self.sources if s.place in TEXTS]
        # Of a plain call's arguments a dependency sees all and takes its own; who asks for it knows whose they are.
        self._refuses_others = method != "DEPENDENCY"

    def names(self) -> set[str]:
        """The parameters that a plain call may give: the handler's own and those of its dependencies."""
        own = {s.parameter for s in self.sources if s.place in TEXTS or s.place == "body"}
        return own.union(*(d.binder.names() for d in self.dependencies))

    @property
    def streams_body(self) -> bool:
        """Whether the handler reads the body piece by piece, so that it need not be there as a whole."""
        return bool(self._stream)

    @property
    def takes_socket(self) -> bool:
        """Whether the handler takes a WebSocket."""
        return bool(self._socket)

    def bind(self, request: Request, context: Context) -> dict[str, Any]:
        """The arguments for ``request``. Raises `Invalid` (422), `BadRequest` (400)."""
        arguments = self._from_http(request) if request.is_http else self._from_object(request)
        for parameter in self._context:
            arguments[parameter] = context
        for parameter in self._request:
            arguments[parameter] = request
        for parameter in self._stream:
            arguments[parameter] = request.stream()
        for parameter in self._socket:
            arguments[parameter] = request.socket
        return arguments

    def _from_http(self, request: Request) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        errors: list[dict[str, str]] = []
        for source in self._texts:
            value = source.take(request)
            if value is _MISSING:
                if source.default is _MISSING:
                    errors.append({"field": f"{source.place}.{source.key}", "message": "is required"})
                else:
                    arguments[source.parameter] = source.default
                continue
            if source.type is str:
                arguments[source.parameter] = value
                continue
            try:
                if source.adapter is not None:
                    arguments[source.parameter] = source.adapter.convert(value)
                else:
                    arguments[source.parameter] = msgspec.convert(value, source.type, strict=False)
            except msgspec.ValidationError as error:
                errors += field_errors(f"{source.place}.{source.key}", error)
        body = self._body
        if body is not None:
            if request.body or body.default is _MISSING:
                try:
                    arguments[body.parameter] = self._read_body(body, request)
                except Invalid as error:
                    errors += error.extra["errors"]
            else:
                arguments[body.parameter] = body.default
        if errors:
            raise Invalid("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors)
        return arguments

    @staticmethod
    def _read_body(source: Source, request: Request) -> Any:
        if source.decoder is None:
            return request.body
        if not request.body:
            raise Invalid("body is required", errors=[{"field": "body", "message": "is required"}])
        kind = request.header("content-type")
        if kind is not None:
            media = kind.partition(";")[0].strip().lower()
            if media != "application/json" and not media.endswith("+json"):
                raise _unsupported(media)
        return decode_json(source.decoder, request.body)

    def _from_object(self, request: Request) -> dict[str, Any]:
        """Arguments of a plain call: a JSON object keyed by parameter names, the body's included."""
        given = decode_json(_OBJECT, request.body) if request.body else {}
        arguments: dict[str, Any] = {}
        errors: list[dict[str, str]] = []
        for source in self.sources:
            if source.place in ("context", "request", "stream", "socket"):
                continue
            value = given.get(source.parameter, _MISSING)
            if value is _MISSING:
                if source.default is _MISSING:
                    errors.append({"field": source.parameter, "message": "is required"})
                else:
                    arguments[source.parameter] = source.default
                continue
            try:
                if source.type is bytes and isinstance(value, str):
                    arguments[source.parameter] = value.encode()
                elif source.adapter is not None:
                    arguments[source.parameter] = source.adapter.decode(codec.encode(value))
                else:
                    arguments[source.parameter] = msgspec.convert(value, source.type, strict=False)
            except msgspec.ValidationError as error:
                errors += field_errors(source.parameter, error)
        if self._refuses_others and not given.keys() <= (names := self.names()):
            others = [name for name in given if name not in names]
            errors += [{"field": name, "message": "is no parameter of this endpoint"} for name in others]
        if errors:
            raise Invalid("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors)
        return arguments


_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


def _unsupported(media: str) -> MeshError:
    error = BadRequest(f"the body is {media}; this endpoint reads application/json", reason="unsupported_media_type")
    error.status, error.title = 415, "Unsupported media type"
    return error


def _analyse(
    handler: Callable[..., Any], path_names: Sequence[str], method: str, where: str
) -> tuple[Source | Dependency, ...]:
    try:
        signature = inspect.signature(handler)
        hints = typing.get_type_hints(handler, include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise DeclarationError(f"{where}: its annotations cannot be read: {error}") from error
    sources: list[Source] = []
    dependencies: list[Dependency] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise DeclarationError(f"{where}: parameter {parameter.name!r} must be an ordinary named parameter")
        depends = _depends(hints.get(parameter.name))
        if depends is not None:
            dependencies.append(_dependency(parameter.name, depends, path_names, method, where))
            continue
        if parameter.name not in hints:
            check_unannotated(parameter.name, parameter.default, method, path_names, where)
        default = _MISSING if parameter.default is parameter.empty else parameter.default
        annotation = hints.get(parameter.name, Any if method in ("CALL", "EVENT") else str)
        sources.append(_source(parameter.name, annotation, default, path_names, method, where))
    for name in path_names:
        if not any(s.place == "path" and s.key == name for s in sources):
            if method == "DEPENDENCY" or any(s.place == "request" for s in sources) or _takes(dependencies, name):
                continue  # read from the request itself, or by a dependency
            raise DeclarationError(f"{where}: the path names {{{name}}}, but the handler has no parameter {name!r}")
    bodies = [s.parameter for s in sources if s.place in ("body", "stream")]
    if len(bodies) > 1:
        raise DeclarationError(f"{where}: {' and '.join(bodies)} would both be the body; there is only one")
    if method == "DEPENDENCY" and bodies:
        raise DeclarationError(f"{where}: {bodies[0]!r} would be the body; only the handler itself takes the body")
    return (*sources, *dependencies)


def _depends(annotation: Any) -> Depends | None:
    if typing.get_origin(annotation) is not Annotated:
        return None
    return next((extra for extra in typing.get_args(annotation)[1:] if isinstance(extra, Depends)), None)


def _dependency(name: str, depends: Depends, path_names: Sequence[str], method: str, where: str) -> Dependency:
    if not callable(depends.factory) or depends.scope not in ("request", "service"):
        raise DeclarationError(f"{where}: {name!r}: Depends takes a function, and 'request' or 'service' as scope")
    inner = f"{where}: dependency {getattr(depends.factory, '__name__', depends.factory)!r}"
    binder = Binder(depends.factory, path_names, "DEPENDENCY", inner)
    if depends.scope == "service":
        wrong = [s.parameter for s in binder.sources if s.default is _MISSING]
        wrong += [d.parameter for d in binder.dependencies if d.scope != "service"]
        if wrong:
            raise DeclarationError(f"{inner} has service scope, so it cannot take {wrong[0]!r} from a request")
    return Dependency(name, depends.factory, depends.scope, binder)


def _takes(dependencies: Sequence[Dependency], name: str) -> bool:
    return any(
        any(s.place == "path" and s.key == name for s in d.binder.sources) or _takes(d.binder.dependencies, name)
        for d in dependencies
    )


def _source(name: str, annotation: Any, default: Any, path_names: Sequence[str], method: str, where: str) -> Source:
    marker: Any = None
    kind, extras = annotation, []
    if typing.get_origin(annotation) is Annotated:
        kind, *extras = typing.get_args(annotation)
        marker = next((e for e in extras if isinstance(e, SOURCES)), None)
        if marker is None:  # the class itself will do: Annotated[str, Header]
            marker = next(
                (e() for e in extras if isinstance(e, type) and issubclass(e, Header | Cookie | Query | Body)), None
            )
        kept = tuple(e for e in extras if isinstance(e, msgspec.Meta) or codec.is_constraint(e))
        annotation = Annotated[(kind, *kept)] if kept else kind
    check_foreign(name, kind, extras, default, where)
    for place, ours in (("context", Context), ("request", Request), ("socket", WebSocket)):
        if annotation is ours:
            return Source(name, place, name, annotation, default, False, None, None)
    if typing.get_origin(annotation) in (AsyncIterator, AsyncIterable):
        if typing.get_args(annotation) != (bytes,):
            raise DeclarationError(f"{where}: {name!r} is {_show(annotation)}; a body comes as AsyncIterator[bytes]")
        if method in ("GET", "HEAD"):
            raise DeclarationError(f"{where}: {name!r} would be the body of a {method} request; use another method")
        return Source(name, "stream", "body", annotation, default, False, None, None)
    if name in path_names:
        if marker is not None:
            raise DeclarationError(f"{where}: {name!r} is a path parameter and cannot be {type(marker).__name__} too")
        place, key = "path", name
    elif isinstance(marker, Body) or (marker is None and _is_body(annotation)):
        if method in ("GET", "HEAD") and marker is None:
            raise DeclarationError(
                f"{where}: {name!r} of type {_show(annotation)} would be the body of a {method} request; "
                "take single values from the query, or use another method"
            )
        place, key = "body", "body"
    elif isinstance(marker, Header):
        place, key = "header", (marker.name or name.replace("_", "-")).lower()
    elif isinstance(marker, Cookie):
        place, key = "cookie", marker.name or name
    else:
        place, key = "query", (marker.name if isinstance(marker, Query) and marker.name else name)
    try:
        decoder = None if annotation is bytes else codec.decoder(annotation)
        adapter = decoder if isinstance(decoder, codec.Adapter) else None
        unknown = None if adapter is not None else _unknown(msgspec.inspect.type_info(annotation))
        if unknown is not None:
            raise TypeError(f"{_show(unknown)} is not known; take a Struct, a dataclass or a Pydantic model")
    except TypeError as error:
        raise DeclarationError(f"{where}: {name!r} of type {_show(annotation)} cannot be read: {error}") from error
    many = place in ("query", "header") and _is_many(annotation)
    return Source(name, place, key, annotation, default, many, decoder if place == "body" else None, adapter)


def _unknown(info: Any) -> Any:
    """The first type in a value, or in a collection or union of values, that msgspec does not know; None for none."""
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    found: list[Any] = []
    for name in ("item_type", "item_types", "key_type", "value_type", "types", "type"):
        inner = getattr(info, name, ())
        found += inner if isinstance(inner, tuple) else [inner]
    return next((unknown for unknown in map(_unknown, found) if unknown is not None), None)


def _bare(annotation: Any) -> Any:
    """Without Annotated and None: ``Annotated[int, ...] | None`` is ``int``."""
    if typing.get_origin(annotation) is Annotated:
        return _bare(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(members) == 1:
            return _bare(members[0])
    return annotation


def _is_body(annotation: Any) -> bool:
    """Whether a type is one that bodies have: objects, mappings, bytes, collections and unions of those."""
    bare = _bare(annotation)
    origin = typing.get_origin(bare)
    if origin in (Union, types.UnionType):
        return any(_is_body(member) for member in typing.get_args(bare))
    if origin in (list, tuple, set, frozenset):
        return any(_is_body(member) for member in typing.get_args(bare) if member is not Ellipsis)
    kind = origin or bare
    if not isinstance(kind, type):
        return False
    if issubclass(kind, Enum):
        return False
    return (
        issubclass(kind, msgspec.Struct | dict | bytes)
        or codec.is_model(kind)
        or dataclasses.is_dataclass(kind)
        or typing.is_typeddict(kind)
        or hasattr(kind, "__attrs_attrs__")
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


def _is_many(annotation: Any) -> bool:
    bare = _bare(annotation)
    return (typing.get_origin(bare) or bare) in (list, tuple, set, frozenset)


def _show(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)
