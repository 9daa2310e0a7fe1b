"""Calling services over the bus.

From the top: `MeshClient` and `Calls` call endpoints by name; `Caller` calls any destination whose instances are known;
`Call` and `StreamingCall` are calls in flight; `Attempts` decides about their retries, and `Recovery` says when.
"""

from mesh.client.attempts import CallSpec
from mesh.client.call import Call
from mesh.client.called_service import CalledService
from mesh.client.caller import Caller
from mesh.client.calls import Calls
from mesh.client.destinations import Destination, NamedEndpoint, RouteDestination
from mesh.client.mesh_client import MeshClient
from mesh.client.replies import Answer, read_answer
from mesh.client.streaming_call import StreamingCall

__all__ = [
    "Answer",
    "Call",
    "CallSpec",
    "CalledService",
    "Caller",
    "Calls",
    "Destination",
    "MeshClient",
    "NamedEndpoint",
    "RouteDestination",
    "StreamingCall",
    "read_answer",
]
