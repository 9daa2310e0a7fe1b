"""ASGI's connection scope, made from a request of the mesh (ASGI 3, HTTP connection scope)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from mesh import headers
from mesh.service import Request

Scope = dict[str, Any]

SPEC = {"version": "3.0", "spec_version": "2.3"}
_ENCLOSING = ("POST", "PUT", "PATCH")
"""Methods whose requests have a content-length even for an empty body (RFC 9110 section 8.6)."""
_FORWARDED = re.compile(rb'(for|proto|host)=("(?:[^"\\]|\\.)*"|[^;,"]*)')


def http_scope(request: Request, root_path: str, state: dict[str, Any]) -> Scope:
    """The scope of one HTTP request. The application is mounted at ``root_path``, which its paths include."""
    return {"type": "http", "method": request.method, **_scope(request, root_path, state, "http")}


def websocket_scope(request: Request, root_path: str, state: dict[str, Any]) -> Scope:
    """The scope of one WebSocket."""
    offered = ",".join(request.header_values("sec-websocket-protocol"))
    protocols = [name.strip() for name in offered.split(",") if name.strip()]
    more = {
        "asgi": {**SPEC, "spec_version": "2.4"},  # since this version, sending to a client that has left raises
        "subprotocols": protocols,
        "extensions": {"websocket.http.response": {}},
    }
    return {"type": "websocket", **_scope(request, root_path, state, "ws"), **more}


def _scope(request: Request, root_path: str, state: dict[str, Any], scheme: str) -> Scope:
    raw_path, _, query = request.target.partition("?")
    given = request.raw_header(headers.FORWARDED) or b""
    facts = {name: value.strip(b'"') for name, value in _FORWARDED.findall(given)}
    address = facts.get(b"for", b"").decode("latin-1").strip("[]")
    secure = facts.get(b"proto") in (b"https", b"wss")
    told = facts.get(b"host") or b""
    host = (told or request.raw_header(b"host") or b"").decode("latin-1")
    return {
        "asgi": SPEC,
        "http_version": "1.1",
        "scheme": scheme + "s" if secure else scheme,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": root_path,
        "headers": _headers(request, told),
        "client": (address, 0) if address and address != "unknown" else None,
        "server": _server(host, 443 if secure else 80),
        "state": state.copy(),
    }


def _headers(request: Request, host: bytes) -> headers.Pairs:
    """The headers of the request. ``host`` replaces ``Host``, which behind a proxy is not what the client asked for."""
    pairs = [(name, value) for name, value in request.pairs if headers.crosses(name) and not (host and name == b"host")]
    if host:
        pairs.insert(0, (b"host", host))
    names = {name for name, _ in pairs}
    # The gateway has removed the framing; an application looks here for a body and its length.
    if b"content-length" in names:
        return pairs
    if request.has_stream and request.socket is None:
        pairs.append((b"transfer-encoding", b"chunked"))
    elif request.body or request.method in _ENCLOSING:
        pairs.append((b"content-length", b"%d" % len(request.body)))
    return pairs


def _server(host: str, default: int) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return (name, int(port)) if name and port.isdigit() else (host, default)
