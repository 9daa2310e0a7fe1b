"""HTTP servers that know nothing of the mesh."""

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
