"""Real servers and processes for `mesh up` and `mesh.testing`."""

from mesh.embedded.processes import Supervisor, free_port
from mesh.embedded.server import NatsServer, ServerError, find_nats_server

__all__ = ["NatsServer", "ServerError", "Supervisor", "find_nats_server", "free_port"]
