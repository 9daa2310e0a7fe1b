"""Writing and running services."""

from mesh import logs
from mesh.service.context import Context, log_facts
from mesh.service.http_messages import Request, Response
from mesh.service.instance import ServiceInstance
from mesh.service.parameter_markers import Body, Cookie, Depends, Header, Query
from mesh.service.router import Router
from mesh.service.service import Service
from mesh.service.streaming import Event, StreamingResponse
from mesh.service.websocket import WebSocket, WebSocketClosed

logs.add_source(log_facts)

__all__ = [
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
    "ServiceInstance",
    "StreamingResponse",
    "WebSocket",
    "WebSocketClosed",
]
