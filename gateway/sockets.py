"""Listening sockets, which may belong to another process than the one that serves them."""

from __future__ import annotations

import socket

BACKLOG = 2048
"""Connections that wait to be accepted, while one worker takes over from another, say."""


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OSError with the address in its text."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error


def inherited(fd: int) -> socket.socket:
    """The socket behind a descriptor that the parent process gave us."""
    return socket.socket(fileno=fd)
