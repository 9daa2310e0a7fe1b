"""A WSGI application (PEP 3333) as an ASGI one: a2wsgi calls it in threads, and this module ends what it can.

A thread can be neither cancelled nor told that its client has gone. So a request that waits for a thread is not started
after its client has gone, and a response in pieces ends with the next piece: an endless one would keep its thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from mesh.adapters.asgi_http import CLIENT, App
from mesh.errors import DeclarationError
from mesh.version import install

THREADS = 32
"""Threads for requests by default."""

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def from_wsgi(app: Wsgi, threads: int = THREADS) -> App:
    """The WSGI application as an ASGI one; ``threads`` requests run at a time.

    Raises `DeclarationError` if a2wsgi is not installed.
    """
    try:
        from a2wsgi import WSGIMiddleware
    except ImportError:
        raise DeclarationError(f"a WSGI application needs the package a2wsgi: {install('wsgi')}") from None
    if threads < 1:
        raise DeclarationError(f"threads {threads}: a WSGI application needs at least one")

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        client = environ["asgi.scope"].get("extensions", {}).get(CLIENT, {})  # a request for its health has no client
        has_left = client.get("has_left", lambda: False)
        if has_left():
            start_response("503 Service Unavailable", [])
            return ()
        return _Pieces(app(environ, start_response), has_left)

    return cast(App, WSGIMiddleware(cast(Any, call), workers=threads))


class _Pieces:
    """The pieces of a response until its client has gone; `close` calls the application's (PEP 3333)."""

    def __init__(self, pieces: Iterable[bytes], has_left: Callable[[], bool]) -> None:
        self._pieces = pieces
        self._has_left = has_left

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if self._has_left():
                return
            yield piece

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
