"""Middleware: plain async functions around every handler of a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from mesh.service.context import Context
from mesh.service.http_messages import Request, Response

Next = Callable[[Request, Context], Awaitable[Response]]
Middleware = Callable[[Request, Context, Next], Awaitable[Response]]


def chain(layers: Sequence[Middleware], handler: Next) -> Next:
    """A function that runs the layers around ``handler``, the first layer outermost."""
    for layer in reversed(layers):
        handler = _around(layer, handler)
    return handler


def _around(layer: Middleware, inner: Next) -> Next:
    async def run(request: Request, context: Context) -> Response:
        return await layer(request, context, inner)

    return run
