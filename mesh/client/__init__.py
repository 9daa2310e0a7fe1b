"""Calling services over the bus."""

from mesh.client.caller import Answer, Caller, Destination, NamedEndpoint
from mesh.client.calls import Calls, read_answer, remote_error, status_of

__all__ = ["Answer", "Caller", "Calls", "Destination", "NamedEndpoint", "read_answer", "remote_error", "status_of"]
