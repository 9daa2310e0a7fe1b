"""Calling services over the bus."""

from mesh.client.attempts import CallSpec
from mesh.client.call import Answer, Call
from mesh.client.called_service import CalledService
from mesh.client.caller import Caller
from mesh.client.calls import Calls, read_answer, remote_error
from mesh.client.conversation import Conversation
from mesh.client.destinations import Destination, NamedEndpoint, RouteDestination
from mesh.client.mesh_client import MeshClient

__all__ = [
    "Answer",
    "Call",
    "CallSpec",
    "CalledService",
    "Caller",
    "Calls",
    "Conversation",
    "Destination",
    "MeshClient",
    "NamedEndpoint",
    "RouteDestination",
    "read_answer",
    "remote_error",
]
