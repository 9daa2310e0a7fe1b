"""Calling services over the bus."""

from mesh.client.caller import Answer, Caller, Destination, NamedEndpoint, Repeatable
from mesh.client.calls import Calls, read_answer, remote_error
from mesh.client.conversation import Conversation
from mesh.client.standalone import MeshClient

__all__ = [
    "Answer",
    "Caller",
    "Calls",
    "Conversation",
    "Destination",
    "MeshClient",
    "NamedEndpoint",
    "Repeatable",
    "read_answer",
    "remote_error",
]
