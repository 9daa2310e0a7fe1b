"""An application that keeps its own server, and is a service of the mesh too."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mesh.adapters.application import adapt
from mesh.adapters.route_discovery import has_routes
from mesh.adapters.timeouts import Timeouts
from mesh.errors import DeclarationError
from mesh.logs import handler
from mesh.service.instance import ServiceInstance
from mesh.settings import BusSettings, ServiceSettings, find_file, load_all

_log = logging.getLogger("mesh.adapter")


def join(
    app: Any,
    *,
    name: str,
    version: str = "0.0.1",
    prefix: str = "",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    encoded_slashes: bool = False,
    timeout: Timeouts = None,
    health: str = "",
) -> None:
    """Make a FastAPI or Starlette application join the mesh whenever it runs, under uvicorn or any other server.

    ::

        app = FastAPI()
        mesh.join(app, name="chat", version="1.0.0")

    It announces its routes when it has started, also those that are added after this line, and drains when it stops.
    NATS may be down: it joins when NATS comes. The settings are those of every service (``NATS_URL``, ``mesh.toml``).

    app: the application
    name: the service's name
    version: the service's version
    prefix: as in `adapt`
    include: as in `adapt`
    exclude: as in `adapt`
    only: as in `adapt`
    encoded_slashes: as in `adapt`
    timeout: as in `adapt`
    health: as in `adapt`

    Raises `DeclarationError` for an application of another kind.
    """
    router = getattr(app, "router", None)
    inner = getattr(router, "lifespan_context", None)
    if not has_routes(app) or inner is None:
        raise DeclarationError(
            "mesh.join takes a FastAPI or Starlette application; run any other one with `mesh serve MODULE:APP`"
        )

    @asynccontextmanager
    async def lifespan(given: Any) -> AsyncIterator[Any]:
        async with inner(given) as state:
            bus, settings = load_all(BusSettings, ServiceSettings, environ=os.environ, file=find_file(os.environ))
            _set_up_logging(settings)
            adapted = adapt(
                app,
                name=name,
                version=version,
                prefix=prefix,
                include=include,
                exclude=exclude,
                only=only,
                encoded_slashes=encoded_slashes,
                timeout=timeout,
                health=health,
                lifespan=False,
            )
            adapted.state.update(state or {})
            for option, pattern in adapted.unmatched:
                _log.warning("%s=%r matches no route of %s", option, pattern, name)
            async with ServiceInstance(adapted.service, bus, settings) as instance:
                _log.info("%s %s runs as %s, besides this server", name, version, instance.id)
                yield state

    router.lifespan_context = lifespan  # type: ignore[union-attr]


def _set_up_logging(settings: ServiceSettings) -> None:
    """Show the log of the mesh if the application set up no logging: servers such as uvicorn set up only their own."""
    ours = logging.getLogger("mesh")
    if not ours.hasHandlers():
        ours.addHandler(handler(settings.log_format))
        ours.setLevel(settings.log_level.upper())
