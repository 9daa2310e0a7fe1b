"""Turns a request into the arguments of a handler.

`mesh.service.signatures` reads a handler's signature once, at declaration, and makes a `Binder` of it. The binder then
serves every request. One `Invalid` error names all fields of a request that are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from mesh import codec
from mesh.errors import BadRequest, Invalid, MeshError
from mesh.service.context import Context
from mesh.service.http_messages import Request, decode_json, field_errors
from mesh.service.parameter_markers import Scope

MISSING: Final[Any] = object()
"""Stands for a value or a default that does not exist; None is a value."""

Source = Literal["path", "query", "header", "cookie", "body", "stream", "socket", "context", "request"]
"""The part of a request that a parameter takes its value from."""
TEXT_SOURCES: Final = frozenset[Source]({"path", "query", "header", "cookie"})
"""Sources whose values are text."""
CALL_SOURCES: Final = TEXT_SOURCES | {"body"}
"""Sources whose values are the arguments of a call by name, which has neither path nor headers."""


class Parameter(NamedTuple):
    """One parameter of a handler.

    For ``page: Annotated[int, Query("p")] = 1`` the name is ``page``, the source ``query``, the key ``p``, the type
    ``int`` and the default 1.
    """

    name: str
    source: Source
    key: str
    """The name of the value in its source."""
    type: Any
    default: Any
    many: bool
    """True if the parameter takes every value of a repeated name."""
    decoder: msgspec.json.Decoder[Any] | codec.Adapter | None
    adapter: codec.Adapter | None
    """Pydantic's reader of the value, if the type is one of Pydantic's; None for a type that msgspec reads."""

    def take(self, request: Request) -> Any:
        """The raw value in a request: text, a list of texts, or `MISSING`."""
        if self.source == "path":
            return request.path_params.get(self.key, MISSING)
        if self.source == "query":
            values = request.query.get(self.key)
        elif self.source == "header":
            values = request.header_values(self.key) or None
        else:
            value = request.cookies.get(self.key)
            values = None if value is None else [value]
        if values is None:
            return MISSING
        return values if self.many else values[-1]


class Dependency(NamedTuple):
    """A parameter whose value ``factory`` makes; ``binder`` binds the factory's own parameters."""

    name: str
    factory: Callable[..., Any]
    scope: Scope
    binder: Binder


class Binder:
    """Builds the keyword arguments of one handler, or of one dependency's factory.

    parameters: the parameters that take their values from the request
    dependencies: the parameters whose values other functions make
    takes_part: True if a call by name may hold arguments that are not for this function. A factory sees all arguments
        of its handler's call and takes its own; only the handler's binder knows which names are not taken.
    """

    def __init__(
        self, parameters: Sequence[Parameter], dependencies: Sequence[Dependency], *, takes_part: bool = False
    ) -> None:
        self.parameters = tuple(parameters)
        self.dependencies = tuple(dependencies)
        self._context = self._of("context")
        self._request = self._of("request")
        self._socket = self._of("socket")
        self._stream = self._of("stream")
        self._body = next((p for p in self.parameters if p.source == "body"), None)
        self._texts = [p for p in self.parameters if p.source in TEXT_SOURCES]
        self._arguments = [p for p in self.parameters if p.source in CALL_SOURCES]
        self._refuses_others = not takes_part

    def _of(self, source: Source) -> list[str]:
        return [p.name for p in self.parameters if p.source == source]

    def names(self) -> set[str]:
        """The names that a call by name may use: the handler's own parameters and those of its dependencies."""
        return {p.name for p in self._arguments}.union(*(d.binder.names() for d in self.dependencies))

    def path_keys(self) -> set[str]:
        """The path parameters that the handler and its dependencies take."""
        return {p.key for p in self.parameters if p.source == "path"}.union(
            *(d.binder.path_keys() for d in self.dependencies)
        )

    def required_path_keys(self) -> set[str]:
        """Those of `path_keys` that have no default."""
        return {p.key for p in self.parameters if p.source == "path" and p.default is MISSING}.union(
            *(d.binder.required_path_keys() for d in self.dependencies)
        )

    @property
    def streams_body(self) -> bool:
        """True if the handler reads the body in pieces, so that the body need not be complete."""
        return bool(self._stream)

    @property
    def takes_socket(self) -> bool:
        """True if the handler takes a WebSocket."""
        return bool(self._socket)

    def bind(self, request: Request, context: Context) -> dict[str, Any]:
        """The arguments for ``request``. Raises `Invalid` (422), `BadRequest` (400)."""
        arguments = self._from_http(request) if request.is_http else self._from_object(request)
        for name in self._context:
            arguments[name] = context
        for name in self._request:
            arguments[name] = request
        for name in self._stream:
            arguments[name] = request.stream()
        for name in self._socket:
            arguments[name] = request.socket
        return arguments

    def _from_http(self, request: Request) -> dict[str, Any]:
        """The arguments from the path, the query, the headers and the body of an HTTP request."""
        arguments: dict[str, Any] = {}
        errors: list[dict[str, str]] = []
        for parameter in self._texts:
            value = parameter.take(request)
            if value is MISSING:
                if parameter.default is MISSING:
                    errors.append({"field": f"{parameter.source}.{parameter.key}", "message": "is required"})
                else:
                    arguments[parameter.name] = parameter.default
                continue
            if parameter.type is str:
                arguments[parameter.name] = value
                continue
            try:
                if parameter.adapter is not None:
                    arguments[parameter.name] = parameter.adapter.convert(value)
                else:
                    arguments[parameter.name] = msgspec.convert(value, parameter.type, strict=False)
            except msgspec.ValidationError as error:
                errors += field_errors(f"{parameter.source}.{parameter.key}", error)
        body = self._body
        if body is not None:
            if request.body or body.default is MISSING:
                try:
                    arguments[body.name] = _read_body(body, request)
                except Invalid as error:
                    errors += error.extra["errors"]
            else:
                arguments[body.name] = body.default
        if errors:
            raise _invalid(errors)
        return arguments

    def _from_object(self, request: Request) -> dict[str, Any]:
        """The arguments of a call by name: a JSON object with the parameters' names as keys, the body's included."""
        given = decode_json(_OBJECT, request.body) if request.body else {}
        arguments: dict[str, Any] = {}
        errors: list[dict[str, str]] = []
        for parameter in self._arguments:
            value = given.get(parameter.name, MISSING)
            if value is MISSING:
                if parameter.default is MISSING:
                    errors.append({"field": parameter.name, "message": "is required"})
                else:
                    arguments[parameter.name] = parameter.default
                continue
            try:
                if parameter.type is bytes and isinstance(value, str):
                    arguments[parameter.name] = value.encode()
                elif parameter.adapter is not None:
                    arguments[parameter.name] = parameter.adapter.decode(codec.encode(value))
                else:
                    arguments[parameter.name] = msgspec.convert(value, parameter.type, strict=False)
            except msgspec.ValidationError as error:
                errors += field_errors(parameter.name, error)
        if self._refuses_others and not given.keys() <= (names := self.names()):
            others = [name for name in given if name not in names]
            errors += [{"field": name, "message": "is no parameter of this endpoint"} for name in others]
        if errors:
            raise _invalid(errors)
        return arguments


_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


def _read_body(parameter: Parameter, request: Request) -> Any:
    """The body as the parameter's type. Raises `Invalid`, `BadRequest`, or an error with status 415."""
    if parameter.decoder is None:
        return request.body
    if not request.body:
        raise Invalid("body is required", errors=[{"field": "body", "message": "is required"}])
    kind = request.header("content-type")
    if kind is not None:
        media = kind.partition(";")[0].strip().lower()
        if media != "application/json" and not media.endswith("+json"):
            raise _unsupported(media)
    return decode_json(parameter.decoder, request.body)


def _invalid(errors: list[dict[str, str]]) -> Invalid:
    return Invalid("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors)


def _unsupported(media: str) -> MeshError:
    error = BadRequest(f"the body is {media}; this endpoint reads application/json", reason="unsupported_media_type")
    error.status, error.title = 415, "Unsupported media type"
    return error
