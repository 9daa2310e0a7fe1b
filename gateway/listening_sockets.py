"""Listening sockets, which may belong to another process than the one that serves them."""

from __future__ import annotations

import select
import socket
import sys

BACKLOG = 2048
"""Connections that wait to be accepted, while one worker takes over from another, say."""


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening TCP socket. Raises OSError with the address in its text.

    Several may listen on one address: the kernel then spreads connections over all of them. ``shared`` allows that;
    otherwise an address that has a listener already is an error.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if port and not shared:
            socket.create_server((host, port), family=family).close()  # fails if the address is in use
        return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error


# poll(2). The select module names it for epoll alone; other systems than Linux have no such event.
_CLOSED_ITS_HALF = 0x2000 if sys.platform == "linux" else 0


def has_closed(fd: int) -> bool:
    """True if the other end has closed the connection behind a descriptor, or its half of it, even if bytes that it
    sent before have not been read yet."""
    poll = select.poll()
    poll.register(fd, _CLOSED_ITS_HALF)
    return bool(poll.poll(0))


def inherited(fd: int) -> socket.socket:
    """The socket behind a descriptor that the parent process gave us."""
    return socket.socket(fileno=fd)
