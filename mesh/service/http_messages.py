"""Requests and responses in full, for handlers that need more than typed values."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeVar, overload
from urllib.parse import parse_qsl

import msgspec

from mesh import codec, headers
from mesh.errors import BadRequest, Invalid

T = TypeVar("T")

_MORE = b"\r\nmesh-body:"
_MISSING_FIELD = re.compile(r"^Object missing required field `([^`]+)`$")


class Request:
    """One request: method, target, headers with their repeats, body as bytes.

    Each part is decoded when it is first used. For a call by name (``nats req``, or another service) ``is_http`` is
    False, ``method`` is ``"CALL"`` and ``target`` is empty.
    """

    __slots__ = (
        "_cookies",
        "_line",
        "_pairs",
        "_params",
        "_query",
        "block",
        "body",
        "envelope",
        "is_http",
        "pieces",
        "socket",
    )

    def __init__(self, block: bytes, body: bytes) -> None:
        self.block = block
        self.body = body
        self.pieces: Callable[[], AsyncIterator[bytes]] | None = None
        """Reads a body that follows as a stream, if the handler takes it in pieces."""
        self.socket: object | None = None
        """The `mesh.WebSocket` that this request opens; its module is above this one, so its type has no name here."""
        self._pairs: headers.Pairs | None = None
        self._params: dict[str, str] | None = None
        self._query: dict[str, list[str]] | None = None
        self._cookies: dict[str, str] | None = None
        self.envelope = headers.open_envelope(block)
        envelope = self.envelope
        line = envelope[3] if envelope is not None else None
        self._line = self.raw_header(headers.REQUEST) if line is None else line
        self.is_http = self._line is not None

    @property
    def method(self) -> str:
        """The HTTP method; ``CALL`` for a call without one."""
        return (self._line or b"CALL ").partition(b" ")[0].decode("ascii", "replace")

    @property
    def target(self) -> str:
        """Path and query as the client sent them; empty for a call without them."""
        return (self._line or b"").partition(b" ")[2].decode("latin-1")

    @property
    def has_stream(self) -> bool:
        """True if a body follows the request as a stream, or if it opens a WebSocket."""
        return self.block.lower().find(_MORE) >= 0

    @property
    def pairs(self) -> headers.Pairs:
        """All headers in order, names lower-case, as bytes."""
        if self._pairs is None:
            self._pairs = headers.decode(self.block)
        return self._pairs

    def raw_header(self, name: bytes) -> bytes | None:
        """The first value of a lower-case name, as bytes."""
        if self._pairs is None:
            value = headers.glance(self.block, name)
            if value is not None:
                return value
        return headers.find(self.pairs, name)

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first value of a header, whatever the case of its name."""
        value = self.raw_header(name.lower().encode())
        return default if value is None else value.decode("latin-1")

    def header_values(self, name: str) -> list[str]:
        """Every value of a repeated header."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.pairs if key == wanted]

    @property
    def path_params(self) -> dict[str, str]:
        """Path parameters, decoded. Raises `BadRequest` for a list that cannot be read."""
        if self._params is None:
            try:
                envelope = self.envelope
                given = envelope[2] if envelope is not None else None
                self._params = headers.decode_params(given or self.raw_header(headers.PARAMS) or b"")
            except ValueError as error:
                raise BadRequest(f"Mesh-Params: {error}") from error
        return self._params

    @property
    def query(self) -> dict[str, list[str]]:
        """Query parameters: every name with all its values in order; blank values are kept. Raises `BadRequest`."""
        if self._query is None:
            query: dict[str, list[str]] = {}
            text = self.target.partition("?")[2]
            if text:
                try:
                    for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=1000):
                        query.setdefault(name, []).append(value)
                except ValueError as error:
                    raise BadRequest(f"query string: {error}") from error
            self._query = query
        return self._query

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies by name; empty if a cookie header is malformed."""
        if self._cookies is None:
            jar: SimpleCookie = SimpleCookie()
            try:
                for value in self.header_values("cookie"):
                    jar.load(value)
            except CookieError:
                jar.clear()
            self._cookies = {name: morsel.value for name, morsel in jar.items()}
        return self._cookies

    async def stream(self) -> AsyncIterator[bytes]:
        """The body in pieces as they come, for a handler that takes ``AsyncIterator[bytes]``."""
        if self.pieces is None:
            if self.body:
                yield self.body
            return
        async for piece in self.pieces():
            yield piece

    @overload
    def json(self, type: type[T]) -> T: ...

    @overload
    def json(self, type: Any = ...) -> Any: ...

    def json(self, type: Any = Any) -> Any:
        """The body as JSON of ``type``. Raises `Invalid` (422) naming the field, `BadRequest` for broken JSON."""
        return decode_json(codec.decoder(type), self.body)


def decode_json(decoder: msgspec.json.Decoder[Any] | codec.Adapter, body: bytes) -> Any:
    """The value in a body. Raises `BadRequest` for a body that is no JSON, `Invalid` for JSON of another shape."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid("body", error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:  # msgspec raises it for very deep nesting
        raise BadRequest("the body is nested too deeply") from error


def field_errors(source: str, error: Exception) -> list[dict[str, str]]:
    """The entries of an `Invalid` error: the field (``body.name``), and its mistake.

    msgspec names the first mistake of a value, Pydantic all of them.
    """
    if isinstance(error, codec.Mismatch):
        return [{"field": _below(source, e["field"]), "message": e["message"]} for e in error.errors]
    text, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    missing = _MISSING_FIELD.search(text)
    if missing:  # msgspec names the object that lacks the field; people look for the field
        field, text = f"{field}.{missing[1]}".lstrip("."), "is required"
    return [{"field": _below(source, field), "message": text}]


def _below(source: str, field: str) -> str:
    return f"{source}.{field}" if field and not field.startswith("[") else f"{source}{field}"


def invalid(source: str, error: Exception) -> Invalid:
    entries = field_errors(source, error)
    return Invalid("; ".join(f"{e['field']}: {e['message']}" for e in entries), errors=entries)


Headers = Mapping[str, str] | list[tuple[str, str]]
"""Headers by name; a list for repeated names."""


class Response:
    """A response in full.

    body: bytes, text, or any value that is sent as JSON; None for an empty body
    status: the HTTP status
    headers: a mapping, or a list of pairs for repeated names
    content_type: the type of the body; by default that of bytes, text or JSON

    Raises ValueError for a status that is not between 100 and 599.
    """

    __slots__ = ("body", "pairs", "status")

    def __init__(
        self,
        body: Any = None,
        status: int = 200,
        headers: Headers | None = None,
        content_type: str = "",
    ) -> None:
        if not 100 <= status <= 599:
            raise ValueError(f"status {status} is not between 100 and 599")
        self.status = status
        self.body: bytes
        """The body as it is sent."""
        self.pairs = header_pairs(headers)
        """The headers in order, as bytes, names lower-case."""
        if isinstance(body, bytes | bytearray | memoryview):
            self.body, kind = bytes(body), "application/octet-stream"
        elif isinstance(body, str):
            self.body, kind = body.encode(), "text/plain; charset=utf-8"
        elif body is None:
            self.body, kind = b"", ""
        else:
            self.body, kind = codec.encode(body), "application/json"
        kind = content_type or kind
        if kind and not any(name == b"content-type" for name, _ in self.pairs):
            self.pairs.append((b"content-type", kind.encode("latin-1")))

    def add_header(self, name: str, value: str) -> None:
        """Add a header; others of the same name stay."""
        self.pairs.append((_name(name), value.encode("latin-1")))

    def set_cookie(self, name: str, value: str, **attributes: Any) -> None:
        """Add a ``Set-Cookie``; attributes as in `http.cookies`: path, domain, max_age, secure, httponly, samesite."""
        jar: SimpleCookie = SimpleCookie()
        jar[name] = value
        for key, setting in attributes.items():
            jar[name][key.replace("_", "-")] = setting
        self.add_header("set-cookie", jar[name].OutputString())


def header_pairs(given: Headers | None) -> headers.Pairs:
    """Headers as a message has them: bytes, names lower-case."""
    items = given.items() if isinstance(given, Mapping) else given or ()
    return [(_name(name), value.encode("latin-1")) for name, value in items]


def _name(name: str) -> bytes:
    return name.lower().encode("latin-1")
