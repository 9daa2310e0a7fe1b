"""The request headers that the gateway itself reads.

A request's headers are read once, and mostly become lines for the bus. Only the values of declared names are kept for
the gateway, in `gateway.header_translation.Head.known`. A `KnownHeader` is the only key that mypy lets one ask for, and
`known_header` is the only way to get one: a check cannot ask for a header that was not kept.

    AUTHORIZATION = known_header(b"authorization")  # next to the check that reads it

    def check_credentials(request, context):
        given = request.head.known.get(AUTHORIZATION)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NewType, Protocol, overload

KnownHeader = NewType("KnownHeader", bytes)
"""The lower-case name of a declared header."""

declared: set[bytes] = set()
"""All of them. Complete when all modules are imported, so before the first request is read."""


def known_header(name: bytes) -> KnownHeader:
    """Declare that the gateway reads the header of that lower-case name. Declaring it twice does no harm."""
    if name != name.lower():
        raise ValueError(f"{name!r} is not in lower case")
    declared.add(name)
    return KnownHeader(name)


class KnownHeaders(Protocol):
    """The values of the declared headers that a request has; a plain dict. The first value of each name, unless the
    header is a list. It also has the names that do not cross the bus, for those who iterate over it."""

    @overload
    def get(self, name: KnownHeader, /) -> bytes | None: ...
    @overload
    def get(self, name: KnownHeader, default: bytes, /) -> bytes: ...
    def __getitem__(self, name: KnownHeader, /) -> bytes: ...
    def __contains__(self, name: KnownHeader, /) -> bool: ...
    def __iter__(self) -> Iterator[bytes]: ...


ACCESS_CONTROL_REQUEST_HEADERS = known_header(b"access-control-request-headers")
ACCESS_CONTROL_REQUEST_METHOD = known_header(b"access-control-request-method")
AUTHORIZATION = known_header(b"authorization")
CONNECTION = known_header(b"connection")
CONTENT_LENGTH = known_header(b"content-length")
EXPECT = known_header(b"expect")
FORWARDED = known_header(b"forwarded")
HOST = known_header(b"host")
ORIGIN = known_header(b"origin")
TRACEPARENT = known_header(b"traceparent")
TRACESTATE = known_header(b"tracestate")
TRANSFER_ENCODING = known_header(b"transfer-encoding")
UPGRADE = known_header(b"upgrade")
VIA = known_header(b"via")
X_FORWARDED_FOR = known_header(b"x-forwarded-for")
X_FORWARDED_HOST = known_header(b"x-forwarded-host")
X_FORWARDED_PROTO = known_header(b"x-forwarded-proto")
X_REQUEST_ID = known_header(b"x-request-id")
