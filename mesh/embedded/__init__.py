"""A real nats-server and other processes, for as long as a program or a test needs them.

Used by the commands and the test fixtures only. POSIX; nothing here outlives the process that started it.
"""

from mesh.embedded.binary import ServerError, ServerNotFound, find_nats_server
from mesh.embedded.processes import Supervisor, ended, free_port
from mesh.embedded.server import Cluster, NatsServer, Tls

__all__ = [
    "Cluster",
    "NatsServer",
    "ServerError",
    "ServerNotFound",
    "Supervisor",
    "Tls",
    "ended",
    "find_nats_server",
    "free_port",
]
