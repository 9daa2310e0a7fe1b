"""By which names the operator's plane may be called.

It has no authentication, so a web page must not reach it. A page in the browser of a user who can reach it could, if
the page's own name is made to lead to this machine (DNS rebinding). Such a page is recognised by its name, which has a
dot in it and is not a configured one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from ipaddress import ip_address
from typing import Any

from gateway.problems import encode_document, refuse

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


class AllowedHosts:
    """An ASGI application for those that call it by an address, ``localhost``, a name without a dot, or one of
    ``names`` (lower case; ``*`` is any). All others get 421. HEAD is answered as GET, whose body uvicorn drops."""

    def __init__(self, app: App, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            if not self._is_known(host.decode("latin-1").lower()):
                await self._refuse(send)
                return
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit():
            name = host
        if "." not in name and ":" not in name:
            return True
        if name in self._names or "*" in self._names or name.endswith(".localhost"):
            return True
        try:
            ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    @staticmethod
    async def _refuse(send: Any) -> None:
        detail = "the operator's plane does not go by this name; MESH_OPS_HOSTS can name it"
        body, kind = encode_document(refuse(421, "unknown_host", detail).problem())
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 421, "headers": headers})
        await send({"type": "http.response.body", "body": body})
