"""A service mesh on NATS: services announce themselves and their routes, a thin gateway serves them.

::

    from mesh import Service

    service = Service("greeter", version="1.0.0")

    @service.get("/greet/{name}")
    async def greet(name: str) -> dict[str, str]:
        return {"message": f"Hello, {name}!"}

Names are imported when they are first used, so that ``import mesh`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.adapters import adapt, join
    from mesh.client import MeshClient
    from mesh.errors import (
        BadReply,
        BadRequest,
        BusUnavailable,
        ConfigError,
        Conflict,
        DeadlineExceeded,
        DeclarationError,
        Forbidden,
        InstanceLost,
        Invalid,
        MeshError,
        NoInstances,
        NoResponders,
        NotFound,
        Overloaded,
        RemoteError,
        StreamBroken,
        TooLarge,
        TooManyRequests,
        Unauthorized,
        Unavailable,
    )
    from mesh.service import (
        Body,
        Context,
        Cookie,
        Depends,
        Event,
        Header,
        Query,
        Request,
        Response,
        Router,
        Service,
        StreamingResponse,
        WebSocket,
        WebSocketClosed,
    )

_PLACES = {
    "mesh.adapters": ("adapt", "join"),
    "mesh.client": ("MeshClient",),
    "mesh.service": (
        "Body",
        "Context",
        "Cookie",
        "Depends",
        "Event",
        "Header",
        "Query",
        "Request",
        "Response",
        "Router",
        "Service",
        "StreamingResponse",
        "WebSocket",
        "WebSocketClosed",
    ),
    "mesh.errors": (
        "BadReply",
        "BadRequest",
        "BusUnavailable",
        "ConfigError",
        "Conflict",
        "DeadlineExceeded",
        "DeclarationError",
        "Forbidden",
        "InstanceLost",
        "Invalid",
        "MeshError",
        "NoInstances",
        "NoResponders",
        "NotFound",
        "Overloaded",
        "RemoteError",
        "StreamBroken",
        "TooLarge",
        "TooManyRequests",
        "Unauthorized",
        "Unavailable",
    ),
}
_PLACE = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "BadReply",
    "BadRequest",
    "Body",
    "BusUnavailable",
    "ConfigError",
    "Conflict",
    "Context",
    "Cookie",
    "DeadlineExceeded",
    "DeclarationError",
    "Depends",
    "Event",
    "Forbidden",
    "Header",
    "InstanceLost",
    "Invalid",
    "MeshClient",
    "MeshError",
    "NoInstances",
    "NoResponders",
    "NotFound",
    "Overloaded",
    "Query",
    "RemoteError",
    "Request",
    "Response",
    "Router",
    "Service",
    "StreamBroken",
    "StreamingResponse",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "WebSocket",
    "WebSocketClosed",
    "adapt",
    "join",
]


def __getattr__(name: str) -> Any:
    place = _PLACE.get(name)
    if place is None:
        raise AttributeError(f"module 'mesh' has no attribute {name!r}")
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
