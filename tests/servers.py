"""Servers that know nothing of the mesh."""

import asyncio
import contextlib

from aiohttp import web


@contextlib.asynccontextmanager
async def server(*routes, port=0):
    """An HTTP server with these routes of aiohttp; gives its address."""
    app = web.Application(client_max_size=1 << 30)
    app.add_routes(routes)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def tcp_server(serve, port=0):
    """A server that calls ``serve(reader, writer)`` for each connection; gives it, listening.

    A client that leaves early, as one that only checks the port, is no error. At the end no connection is open: the
    garbage collector would complain of it in the middle of another test.
    """
    serving = set()

    async def connected(reader, writer):
        serving.add(asyncio.current_task())
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.close()
            serving.discard(asyncio.current_task())

    listening = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield listening
    finally:
        listening.close()
        await asyncio.sleep(0)  # what was accepted a moment ago begins
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0)  # their connections are closed in the next turn of the event loop
