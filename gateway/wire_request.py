"""The head of a request on the bus: the header lines that go with every attempt of its call.

A request for ``GET /items/42`` with one header of the client's becomes::

    Mesh-Request: GET /items/42
    Mesh-Credit: ...                     (only if the service may answer with a stream)
    Mesh-Id: 5efea8e463220ef4a0cf1f91
    x-request-id: 5efea8e463220ef4a0cf1f91
    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
    Mesh-Forwarded: for=192.0.2.7;proto=http;host="shop.test"
    accept: application/json
"""

from __future__ import annotations

from functools import lru_cache

from gateway.gateway_request import GatewayRequest
from mesh.streams import TAKES_STREAMS

LONGEST_HOST = 255
"""Bytes of a host that services are told."""


def request_head(request: GatewayRequest, trace: bytes) -> bytes:
    """The lines, each ending in CRLF. ``trace``: the value of ``traceparent``, and the line of ``tracestate`` if any.

    The order of the first ones matters: services read them at one glance, if they stand as `mesh.headers._ENVELOPE`
    has them. In another order everything still works, only slower.
    """
    host = request.host
    return (
        b"Mesh-Request: %b %b\r\n%bMesh-Id: %b\r\nx-request-id: %b\r\ntraceparent: %b\r\nMesh-Forwarded: %b\r\n%b"
        % (
            request.method.encode(),
            b"%b?%b" % (request.path, request.query) if request.query else request.path,
            TAKES_STREAMS,
            request.request_id,
            request.request_id,
            trace,
            forwarded(request.client, request.scheme, host if len(host) <= LONGEST_HOST else b""),
            request.head.lines,
        )
    )


@lru_cache(4096)
def forwarded(client: str, scheme: str, host: bytes) -> bytes:
    """The value of ``Mesh-Forwarded``: the client's address, scheme and host in the form of RFC 7239."""
    address = client or "unknown"
    if ":" in address:
        address = f'"[{address}]"'
    if not host.isascii() or b'"' in host or b"\\" in host:
        host = b""
    return b'for=%b;proto=%b;host="%b"' % (address.encode(), scheme.encode(), host)
