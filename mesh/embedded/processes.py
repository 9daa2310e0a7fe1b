"""Child processes with names: started in order, their output shown together, ended in reverse order."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO, cast

import anyio

from mesh.colour import has_colours
from mesh.embedded.leash import leashed

_log = logging.getLogger("mesh.embedded")

_LONGEST_LINE = 65_536
"""Bytes of a line of output; a longer one is shown in pieces."""
_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
# Seconds for which the pipe of a process is read after its end: only its own children could still write to it.
_LAST_LINES_S = 1.0
_NO_OUTGOING = range(16_384, 32_768)
"""Ports that neither Linux, macOS nor Windows takes for outgoing connections."""

OnExit = Callable[[str, int], None]
"""Called with a name and an exit code (negative: the signal's number) when a process ended by itself."""


class _Child(asyncio.SubprocessProtocol):
    """One process. Its end and the end of its output are different events: its own children may have the pipe open."""

    def __init__(self, name: str, colour: int, show: Callable[[_Child, Sequence[bytes]], None]) -> None:
        self.name = name
        self.colour = colour
        self.stopping = False
        self.ended = asyncio.Event()
        self.silent = asyncio.Event()
        self.transport: asyncio.SubprocessTransport
        self.following: asyncio.Task[None]
        self._show = show
        self._rest = b""

    @property
    def pid(self) -> int:
        return self.transport.get_pid()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's transport does not inherit from asyncio's.
        self.transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        self._show(self, lines)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if self._rest:
            self._show(self, [self._rest])
        self.silent.set()

    def process_exited(self) -> None:
        self.ended.set()


class Supervisor:
    """Starts named processes and never leaves one behind. Use it with ``async with``.

    stream: gets the lines of their stdout and stderr, each after ``name | ``; None drops them
    colour: paints the names; None decides it by the stream (`has_colours`)
    grace_s: seconds between SIGTERM and SIGKILL when they are stopped

    Each process has a session of its own. So Ctrl-C in a terminal reaches only this process, which then stops the
    others in reverse order: SIGTERM, ``grace_s`` seconds, SIGKILL for the whole session.
    """

    def __init__(self, stream: TextIO | None = None, *, colour: bool | None = None, grace_s: float = 30.0) -> None:
        self._stream = stream
        self._colour = has_colours(stream) if colour is None else colour
        self._grace_s = grace_s
        self._children: list[_Child] = []
        self._callbacks: list[OnExit] = []
        self._started = 0
        self._width = 0

    @property
    def pids(self) -> dict[str, int]:
        """The ids of the running processes, by name."""
        return {child.name: child.pid for child in self._children if not child.ended.is_set()}

    def on_exit(self, callback: OnExit) -> None:
        """Call ``callback`` for every process that ended by itself, after its last lines were shown."""
        self._callbacks.append(callback)

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> int:
        """Start a process and return its id.

        name: for its lines of output
        argv: program and arguments
        env: added to the environment of this process
        cwd: its folder; that of this process unless given
        death_signal: what it gets when this process dies (Linux)

        Raises OSError if it cannot be started.
        """
        child = _Child(name, _COLOURS[self._started % len(_COLOURS)], self._show)
        await asyncio.get_running_loop().subprocess_exec(
            lambda: child,
            *leashed(argv, death_signal),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,  # one pipe keeps the order of the two
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        self._width = max(self._width, len(name))
        self._started += 1
        self._children.append(child)
        child.following = asyncio.create_task(self._follow(child), name=f"follow {name}")
        return child.pid

    async def stop(self) -> None:
        """Stop all processes, the last started first. If it is cancelled, it kills the remaining ones at once.

        An error does not keep the next process from being stopped: all errors are raised together at the end.
        """
        failures: list[Exception] = []
        try:
            while self._children:
                child = self._children[-1]
                try:
                    await self._end(child)
                except Exception as error:
                    failures.append(error)
                self._children.remove(child)
        finally:
            for child in self._children:
                child.stopping = True
                if not child.ended.is_set():
                    _kill_session(child.pid)
                child.transport.close()
        if failures:
            raise ExceptionGroup("processes that could not be stopped", failures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.stop()

    # -- parts

    async def _end(self, child: _Child) -> None:
        child.stopping = True
        try:
            if not child.ended.is_set():
                child.transport.terminate()
                child.transport.send_signal(signal.SIGCONT)  # a stopped process would never see the other one
            await asyncio.wait({child.following}, timeout=self._grace_s)
        except ProcessLookupError:  # it ended in between
            pass
        finally:
            if not child.ended.is_set():
                _kill_session(child.pid)
        await child.following

    async def _follow(self, child: _Child) -> None:
        try:
            await child.ended.wait()
            # Its own children would outlive the mesh, and keep the pipe open.
            _kill_session(child.pid)
            async with asyncio.timeout(_LAST_LINES_S):
                await child.silent.wait()
        except TimeoutError:
            pass
        finally:
            child.transport.close()
        if child.stopping:
            return
        for callback in self._callbacks:
            try:
                callback(child.name, child.transport.get_returncode() or 0)
            except Exception:
                _log.exception("the callback for the end of %s failed", child.name)

    def _show(self, child: _Child, lines: Sequence[bytes]) -> None:
        if self._stream is None or not lines:
            return
        label = f"{child.name:<{self._width}} | "
        if self._colour:
            label = f"\x1b[{child.colour}m{label}\x1b[0m"
        try:
            self._stream.write("".join(f"{label}{line.decode(errors='replace').rstrip()}\n" for line in lines))
            self._stream.flush()
        except (OSError, ValueError):
            # Our reader has gone (`mesh up | head`). The pipes are read on, so that the processes do not block.
            self._stream = None


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """``preferred`` if a server can listen on it at ``host``, else a free port at random.

    The port is free when this returns, but not reserved. Random ports are below the range from which the system takes
    ports for outgoing connections: one that the system chose could be in use for such a connection a moment later.
    """
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    at_random = [_NO_OUTGOING.start + secrets.randbelow(len(_NO_OUTGOING)) for _ in range(50)]
    for port in (*filter(None, [preferred]), *at_random, 0):
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            # As servers do: connections of an earlier process in TIME_WAIT do not matter.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
                sock.listen(1)
            except OSError:
                if port == 0:
                    raise
                continue
            number: int = sock.getsockname()[1]
            return number
    raise AssertionError("unreachable")


def _kill_session(pid: int) -> None:
    """Send SIGKILL to the process and its children; ``pid`` is also the number of its group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:  # macOS, for a group of which only zombies are left
        pass


def ended(code: int) -> str:
    """How a process ended, as part of a sentence; ``code`` as in `OnExit`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
