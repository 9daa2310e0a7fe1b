"""Reads the signature of a handler and makes a `Binder` of it.

Every mistake in a signature is found here, at declaration, and is a `DeclarationError` that says what to write.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from enum import Enum
from typing import Annotated, Any, Union

import msgspec
import msgspec.inspect

from mesh import codec
from mesh.errors import DeclarationError
from mesh.service.binder import MISSING, Binder, Dependency, Parameter, Source
from mesh.service.context import Context
from mesh.service.declaration_hints import check_foreign, check_unannotated, type_name
from mesh.service.http_messages import Request
from mesh.service.parameter_markers import Body, Cookie, Depends, Header, Query
from mesh.service.websocket import WebSocket

MARKERS = (Header, Cookie, Query, Body)
"""Markers that say which source a parameter takes its value from."""
_TAKEN_WHOLE: tuple[tuple[Source, type], ...] = (("context", Context), ("request", Request), ("socket", WebSocket))
"""Types that a handler takes without a marker, with their sources."""


def read_signature(handler: Callable[..., Any], path_names: Sequence[str], method: str, where: str) -> Binder:
    """The binder for a handler.

    path_names: the parameters that the path names
    method: the HTTP method of the route; ``CALL`` for an endpoint without a route, ``EVENT`` for a handler of events,
        ``DEPENDENCY`` for the factory of a dependency
    where: the handler as error texts name it

    Raises `DeclarationError` for a signature that cannot be served.
    """
    try:
        signature = inspect.signature(handler)
        hints = typing.get_type_hints(handler, include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise DeclarationError(f"{where}: its annotations cannot be read: {error}") from error
    parameters: list[Parameter] = []
    dependencies: list[Dependency] = []
    for given in signature.parameters.values():
        if given.kind in (given.VAR_POSITIONAL, given.VAR_KEYWORD, given.POSITIONAL_ONLY):
            raise DeclarationError(f"{where}: parameter {given.name!r} must be an ordinary named parameter")
        depends = _depends(hints.get(given.name))
        if depends is not None:
            dependencies.append(_dependency(given.name, depends, path_names, method, where))
            continue
        if given.name not in hints:
            check_unannotated(given.name, given.default, method, path_names, where)
        default = MISSING if given.default is given.empty else given.default
        annotation = hints.get(given.name, Any if method in ("CALL", "EVENT") else str)
        parameters.append(_parameter(given.name, annotation, default, path_names, method, where))
    binder = Binder(parameters, dependencies, takes_part=method == "DEPENDENCY")
    _check_path(binder, path_names, method, where)
    _check_body(binder, method, where)
    return binder


def _check_path(binder: Binder, path_names: Sequence[str], method: str, where: str) -> None:
    """Every parameter of the path has a reader; a handler that takes the `Request` may read it there."""
    if method == "DEPENDENCY" or any(p.source == "request" for p in binder.parameters):
        return
    taken = binder.path_keys()
    for name in path_names:
        if name not in taken:
            raise DeclarationError(f"{where}: the path names {{{name}}}, but the handler has no parameter {name!r}")


def _check_body(binder: Binder, method: str, where: str) -> None:
    """One parameter at most takes the body, and no dependency does."""
    bodies = [p.name for p in binder.parameters if p.source in ("body", "stream")]
    if len(bodies) > 1:
        raise DeclarationError(f"{where}: {' and '.join(bodies)} would both be the body; there is only one")
    if method == "DEPENDENCY" and bodies:
        raise DeclarationError(f"{where}: {bodies[0]!r} would be the body; only the handler itself takes the body")


def _depends(annotation: Any) -> Depends | None:
    if typing.get_origin(annotation) is not Annotated:
        return None
    return next((extra for extra in typing.get_args(annotation)[1:] if isinstance(extra, Depends)), None)


def _dependency(name: str, depends: Depends, path_names: Sequence[str], method: str, where: str) -> Dependency:
    if not callable(depends.factory) or depends.scope not in ("request", "service"):
        raise DeclarationError(f"{where}: {name!r}: Depends takes a function, and 'request' or 'service' as scope")
    inner = f"{where}: dependency {getattr(depends.factory, '__name__', depends.factory)!r}"
    binder = read_signature(depends.factory, path_names, "DEPENDENCY", inner)
    if depends.scope == "service":
        wrong = [p.name for p in binder.parameters if p.default is MISSING]
        wrong += [d.name for d in binder.dependencies if d.scope != "service"]
        if wrong:
            raise DeclarationError(f"{inner} has service scope, so it cannot take {wrong[0]!r} from a request")
    return Dependency(name, depends.factory, depends.scope, binder)


def _parameter(
    name: str, annotation: Any, default: Any, path_names: Sequence[str], method: str, where: str
) -> Parameter:
    """One parameter, from its annotation and its name."""
    marker, annotation = _split(name, annotation, default, where)
    for whole, kind in _TAKEN_WHOLE:
        if annotation is kind:
            return Parameter(name, whole, name, annotation, default, False, None, None)
    if typing.get_origin(annotation) in (AsyncIterator, AsyncIterable):
        if typing.get_args(annotation) != (bytes,):
            shown = type_name(annotation)
            raise DeclarationError(f"{where}: {name!r} is {shown}; a body comes as AsyncIterator[bytes]")
        if method in ("GET", "HEAD"):
            raise DeclarationError(f"{where}: {name!r} would be the body of a {method} request; use another method")
        return Parameter(name, "stream", "body", annotation, default, False, None, None)
    source, key = _source_of(name, annotation, marker, path_names, method, where)
    decoder = _decoder(name, annotation, where)
    adapter = decoder if isinstance(decoder, codec.Adapter) else None
    many = source in ("query", "header") and _is_many(annotation)
    return Parameter(name, source, key, annotation, default, many, decoder if source == "body" else None, adapter)


def _split(name: str, annotation: Any, default: Any, where: str) -> tuple[Any, Any]:
    """The marker in an annotation, or None, and the annotation with nothing but its type and constraints.

    ``Annotated[int, Header("X-Limit"), Meta(ge=1)]`` gives ``Header("X-Limit")`` and ``Annotated[int, Meta(ge=1)]``.
    """
    marker: Any = None
    kind, extras = annotation, []
    if typing.get_origin(annotation) is Annotated:
        kind, *extras = typing.get_args(annotation)
        marker = next((e for e in extras if isinstance(e, MARKERS)), None)
        if marker is None:  # the class itself will do: Annotated[str, Header]
            marker = next((e() for e in extras if isinstance(e, type) and issubclass(e, MARKERS)), None)
        kept = tuple(e for e in extras if isinstance(e, msgspec.Meta) or codec.is_constraint(e))
        annotation = Annotated[(kind, *kept)] if kept else kind
    check_foreign(name, kind, extras, default, where)
    return marker, annotation


def _source_of(
    name: str, annotation: Any, marker: Any, path_names: Sequence[str], method: str, where: str
) -> tuple[Source, str]:
    """The source of a parameter, and its key there: the path, then the marker, then the type decides."""
    if name in path_names:
        if marker is not None:
            raise DeclarationError(f"{where}: {name!r} is a path parameter and cannot be {type(marker).__name__} too")
        return "path", name
    if isinstance(marker, Body) or (marker is None and _is_body(annotation)):
        if method in ("GET", "HEAD") and marker is None:
            raise DeclarationError(
                f"{where}: {name!r} of type {type_name(annotation)} would be the body of a {method} request; "
                "take single values from the query, or use another method"
            )
        return "body", "body"
    if isinstance(marker, Header):
        return "header", (marker.name or name.replace("_", "-")).lower()
    if isinstance(marker, Cookie):
        return "cookie", marker.name or name
    return "query", (marker.name if isinstance(marker, Query) and marker.name else name)


def _decoder(name: str, annotation: Any, where: str) -> msgspec.json.Decoder[Any] | codec.Adapter | None:
    """The decoder of a parameter's type; None for bytes. Raises `DeclarationError` for a type that has none."""
    try:
        decoder = None if annotation is bytes else codec.decoder(annotation)
        unknown = None if isinstance(decoder, codec.Adapter) else _unknown(msgspec.inspect.type_info(annotation))
        if unknown is not None:
            raise TypeError(f"{type_name(unknown)} is not known; take a Struct, a dataclass or a Pydantic model")
    except TypeError as error:
        raise DeclarationError(f"{where}: {name!r} of type {type_name(annotation)} cannot be read: {error}") from error
    return decoder


def _unknown(info: Any) -> Any:
    """The first type in a value, collection or union that msgspec does not know; None if it knows all of them."""
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    found: list[Any] = []
    for name in ("item_type", "item_types", "key_type", "value_type", "types", "type"):
        inner = getattr(info, name, ())
        found += inner if isinstance(inner, tuple) else [inner]
    return next((unknown for unknown in map(_unknown, found) if unknown is not None), None)


def _bare(annotation: Any) -> Any:
    """An annotation without ``Annotated`` and None: ``Annotated[int, ...] | None`` is ``int``."""
    if typing.get_origin(annotation) is Annotated:
        return _bare(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(members) == 1:
            return _bare(members[0])
    return annotation


def _is_body(annotation: Any) -> bool:
    """True for types that come as a body: objects, mappings, bytes, and collections and unions of those."""
    bare = _bare(annotation)
    origin = typing.get_origin(bare)
    if origin in (Union, types.UnionType):
        return any(_is_body(member) for member in typing.get_args(bare))
    if origin in (list, tuple, set, frozenset):
        return any(_is_body(member) for member in typing.get_args(bare) if member is not Ellipsis)
    kind = origin or bare
    if not isinstance(kind, type) or issubclass(kind, Enum):
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
