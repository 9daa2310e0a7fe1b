"""The numbers of the mesh that no setting changes, and the defaults that several places share.

A number that only one module needs stays in that module. The default of a setting is in `mesh.settings`, unless
several settings or parameters share it.
"""

from __future__ import annotations

from typing import Final

# Calls

DEADLINE_S: Final = 10.0
"""Seconds for a request or a call that names no deadline of its own."""
ATTEMPTS: Final = 8
"""Attempts of one call at most. Usually only no-responders and a declared ``try_timeout_ms`` lead to that many."""
RETRIES_AFTER_LOSS: Final = 1
"""How often a call is retried because its attempt was lost: what kills one instance may kill the next."""
RETRY_BODY: Final = 64 * 1024
"""Bytes of the largest body that is sent a second time."""
RETRY_RATIO: Final = 0.2
"""The retry budget of a caller towards one service: retries per call."""
RETRIES_PER_SECOND: Final = 10.0
"""The part of the retry budget that does not depend on the number of calls, so that a quiet caller can retry."""

# Instances

SUSPECT_AFTER: Final = 1.5
"""Heartbeat intervals of silence after which an instance is suspect."""
LOST_AFTER: Final = 4.0
"""Heartbeat intervals of silence after which an instance is lost."""
FAILURES_TO_EJECT: Final = 5
"""Failures in a row after which a caller's circuit breaker ejects an instance."""
EJECTION_S: Final = 10.0
"""Seconds of the first ejection; each further one is twice as long."""
LONGEST_EJECTION_S: Final = 60.0

# Routes

ROUTE_MEMORY_S: Final = 600.0
"""Seconds for which the routes of a service without instances are remembered: they answer 503, not 404."""
REMEMBERED_ROUTES: Final = 20_000
"""The most routes that are remembered, at 2.5 KB each; those that were remembered first are forgotten early.

Whoever announces routes and stops again could fill the memory of every gateway otherwise, and make the pauses of its
garbage collector long."""

# Streams and WebSockets

CHUNK: Final = 64 * 1024
"""Bytes of the largest payload of a frame that we send."""
LARGEST_CHUNK: Final = 512 * 1024
"""Bytes of the largest payload of a frame that we accept.

A receiver takes more than any version sends, so that `CHUNK` can grow up to this without breaking the streams between
old and new processes.
"""
WINDOW: Final = 256 * 1024
"""Credit of a stream, in bytes, when nothing is on its way."""
FIRST_CREDIT: Final = 64 * 1024
"""Credit, in bytes, that every request gives for its response, which may turn out to be a stream."""
WEBSOCKET_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of the largest message of a WebSocket."""
