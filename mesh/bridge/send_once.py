"""Sends each request to the server once: a request that may have run there is not retried.

aiohttp retries requests with an idempotent method, PUT and DELETE too, when a connection breaks before the response. To
the caller the retry then looks like the only attempt. The errors that this module raises are none that aiohttp retries.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import SimpleNamespace

import aiohttp

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_connection: ContextVar[SimpleNamespace] = ContextVar("mesh.bridge.connection")


class ConnectionBroken(aiohttp.ClientError):
    """The connection broke after the request was written: it may have run."""


async def send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A middleware of aiohttp's client.

    Only a safe request without a body is sent twice, if its connection was idle before: the server may have closed it
    meanwhile (RFC 9112, section 9.3.1).

    Raises `ConnectionBroken`, and aiohttp's own errors if nothing was written.
    """
    attempt = SimpleNamespace(reused=False)
    token = _connection.set(attempt)
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if not attempt.reused or request.method not in SAFE or not _is_empty(request):
            raise _broken(error) from error
    finally:
        _connection.reset(token)
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, aiohttp.ConnectionTimeoutError) as error:
        raise _broken(error) from error


def tracing() -> aiohttp.TraceConfig:
    """Tells `send_once` that a connection was used before; the session needs both."""
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_reused)
    return trace


async def _reused(session: object, context: object, params: object) -> None:
    _connection.get().reused = True


def _is_empty(request: aiohttp.ClientRequest) -> bool:
    return not request.body


def _broken(error: Exception) -> ConnectionBroken:
    return ConnectionBroken(str(error) or type(error).__name__)
