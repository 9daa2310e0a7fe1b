"""The gateway's parent process: it owns the listening sockets and replaces the workers that serve them.

No connection is refused while workers change. The sockets stay open here; a new worker accepts on them when it knows
all instances, and then the old one is told to finish. (Processes that each bind the port with SO_REUSEPORT lose the
connections that wait in the socket of the one that ends; here no socket is closed.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from mesh.embedded import ended
from mesh.embedded.leash import leashed
from mesh.tasks import keep

REPLACED: Final = signal.SIGUSR1
"""Tells a worker that another one accepts connections now."""
READY_S: Final = 30.0
"""Seconds that a new worker has to become ready; after that, the old one is kept."""
LONGEST_PAUSE_S: Final = 5.0
"""Seconds of the longest pause before a worker that died is replaced."""
POLL_S: Final = 0.5
"""Seconds between two looks at mesh.toml; it must be unchanged for so long before it is read."""

Address = tuple[str, int]

_log = logging.getLogger("mesh.gateway")


class Layout(NamedTuple):
    """The number of workers, the address for clients, and the address of the first worker's operator's plane."""

    workers: int
    public: Address
    ops: Address


class Sockets:
    """The listening sockets, kept for as long as the layout needs them.

    Each worker has a socket of its own for clients, all on one address, and the kernel spreads the connections over
    them. If workers shared a socket, the one that happens to be awake would get most of them.
    """

    def __init__(self, listen: Callable[..., socket.socket]) -> None:
        self._listen = listen
        self._public: dict[Address, list[socket.socket]] = {}
        self._ops: dict[tuple[Address, int], socket.socket] = {}

    def open(self, layout: Layout) -> None:
        """Open the sockets that a layout needs and that are not open. After an OSError, all is as it was before."""
        opened: list[socket.socket] = []
        try:
            group = list(self._public.get(layout.public, ()))
            while len(group) < layout.workers:
                host, port = layout.public
                if group:
                    port = group[0].getsockname()[1]
                opened.append(self._listen(host, port, shared=bool(group)))
                group.append(opened[-1])
            ops: dict[tuple[Address, int], socket.socket] = {}
            for number in range(layout.workers):
                if (layout.ops, number) not in self._ops:
                    host, port = layout.ops
                    opened.append(self._listen(host, port + number if port else 0))
                    ops[layout.ops, number] = opened[-1]
        except BaseException:
            for sock in opened:
                sock.close()
            raise
        self._public[layout.public] = group
        self._ops |= ops

    def of(self, layout: Layout, number: int) -> list[int]:
        """The descriptors for one worker: the operator's socket, then those for clients.

        If there are fewer workers than before, they take the sockets of the others too: connections wait in them.
        """
        group = self._public[layout.public][number :: layout.workers]
        return [sock.fileno() for sock in (self._ops[layout.ops, number], *group)]

    def close_but(self, layout: Layout | None) -> None:
        """Close the sockets that a layout does not use; all of them for None."""
        for address in list(self._public):
            if layout is None or address != layout.public:
                for sock in self._public.pop(address):
                    sock.close()
        for place in list(self._ops):
            if layout is None or place[0] != layout.ops or place[1] >= layout.workers:
                self._ops.pop(place).close()


class Worker:
    """One process that serves clients. ``ready`` is set when it accepts connections."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ready = asyncio.Event()
        self.exited = asyncio.create_task(process.wait(), name="gateway worker")

    def tell(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            try:
                self.process.send_signal(number)
            except ProcessLookupError:
                pass


class Workers:
    """Runs one generation of workers after another behind the same sockets, until it is told to stop.

    command: makes the command line of a worker from its descriptors, and from True if another worker accepts until it
        does. The descriptors are a pipe, into which it writes a byte when it accepts, the operator's socket, and those
        for clients
    layout: reads the configuration; raises if it is wrong
    listen: opens a socket
    file: mesh.toml. It is watched even if it does not exist, and read when it appears or changes; when it is deleted,
        all goes on as before
    """

    def __init__(
        self,
        command: Callable[[Sequence[int], bool], Sequence[str]],
        layout: Callable[[], Layout],
        listen: Callable[..., socket.socket],
        file: Path,
    ) -> None:
        self._command = command
        self._layout = layout
        self._file = file
        self._sockets = Sockets(listen)
        self._serving: Layout
        self._current: list[Worker] = []
        self._old: set[Worker] = set()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._failures = 0

    async def run(self) -> int:
        """Run until SIGTERM or Ctrl-C, or until a worker was drained. Returns the exit code.

        A second signal ends the workers without waiting for requests. Raises OSError if a socket cannot be opened at
        the start.
        """
        loop = asyncio.get_running_loop()
        self._serving = self._layout()
        self._sockets.open(self._serving)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        watching = keep(self._watch, "configuration watch")
        try:
            for place in range(self._serving.workers):
                self._current.append(await self._start(self._serving, place))
            return await self._supervise()
        finally:
            watching.cancel()
            await self._end_all()
            self._sockets.close_but(None)
            for number in (signal.SIGTERM, signal.SIGINT):  # a further one would only change the exit code
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)

    async def _supervise(self) -> int:
        while True:
            waits = [asyncio.ensure_future(event.wait()) for event in (self._stop, self._reload)]
            exits = [worker.exited for worker in self._current]
            await asyncio.wait([*waits, *exits], return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self._stop.is_set():
                return 0
            gone = next((place for place, worker in enumerate(self._current) if worker.exited.done()), None)
            if gone is not None:
                code = self._current[gone].exited.result()
                if code == 0:
                    _log.info("the gateway was drained")
                    return 0
                if not await self._restart(gone, code):
                    return 1
            elif self._reload.is_set():
                self._reload.clear()
                await self._replace()

    # -- workers

    async def _start(self, layout: Layout, place: int, *, succeeds: bool = False) -> Worker:
        read, write = os.pipe()
        descriptors = [write, *self._sockets.of(layout, place)]
        try:
            process = await asyncio.create_subprocess_exec(
                *leashed(self._command(descriptors, succeeds)),
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C reaches the parent only, which stops the workers in order
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        worker = Worker(process)
        asyncio.get_running_loop().add_reader(read, self._heard, worker, read)
        return worker

    def _heard(self, worker: Worker, read: int) -> None:
        asyncio.get_running_loop().remove_reader(read)
        if os.read(read, 1):
            worker.ready.set()
            self._failures = 0
        os.close(read)

    async def _replace(self) -> None:
        """Start workers with the present configuration. The old ones go on until all new ones accept."""
        try:
            layout = self._layout()
            self._sockets.open(layout)
        except Exception as error:
            _log.error("not reloaded, the gateway goes on as it was: %s", error)
            return
        new = [await self._start(layout, place, succeeds=True) for place in range(layout.workers)]
        all_ready = asyncio.gather(*(worker.ready.wait() for worker in new))
        stop = asyncio.ensure_future(self._stop.wait())
        exits = [worker.exited for worker in new]
        waits: list[asyncio.Future[Any]] = [all_ready, stop, *exits]
        await asyncio.wait(waits, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        all_ready.cancel()
        await asyncio.gather(all_ready, stop, return_exceptions=True)
        if not all(worker.ready.is_set() for worker in new):
            if not self._stop.is_set():
                why = "ended" if any(e.done() for e in exits) else f"was not ready after {READY_S:g} s"
                _log.error("not reloaded, the gateway goes on as it was: a new worker %s", why)
            for worker in new:
                worker.tell(signal.SIGTERM)
                self._retire(worker)
            self._sockets.close_but(self._serving)
            return
        old, self._current, self._serving = self._current, new, layout
        for worker in old:
            worker.tell(REPLACED)
            self._retire(worker)
        self._sockets.close_but(layout)
        numbers = [", ".join(str(worker.process.pid) for worker in workers) for workers in (new, old)]
        _log.info("reloaded: process %s serves in place of %s", *numbers)

    async def _restart(self, place: int, code: int) -> bool:
        """Start a worker in place of one that died. False if that would be useless, or if all workers stop."""
        self._failures += 1
        if code == 2:
            return False  # the worker has said what is wrong with its configuration
        pause = min(LONGEST_PAUSE_S, 0.05 * 2.0 ** min(self._failures, 10))
        _log.error("the gateway's worker %s; starting another in %.1f s", ended(code), pause)
        try:
            async with asyncio.timeout(pause):
                await self._stop.wait()
        except TimeoutError:
            self._current[place] = await self._start(self._serving, place)
        return True

    def _retire(self, worker: Worker) -> None:
        self._old.add(worker)
        worker.exited.add_done_callback(lambda _: self._old.discard(worker))

    async def _end_all(self) -> None:
        workers = [*self._old, *self._current]
        for worker in workers:
            worker.tell(signal.SIGTERM)
        await asyncio.gather(*(worker.exited for worker in workers))

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():  # the second signal: do not wait for requests any more
            for worker in (*self._old, *self._current):
                worker.tell(signal.SIGTERM)
        self._stop.set()

    # -- configuration

    async def _watch(self) -> None:
        known = now = _stamp(self._file)
        while True:
            await asyncio.sleep(POLL_S)
            before, now = now, _stamp(self._file)
            if now != known and now == before:  # it is not being written at this moment
                appeared, known = known is None, now
                if now is None:
                    _log.warning("%s is gone; the gateway goes on with the settings that it had", self._file)
                    continue
                _log.info("%s %s", self._file, "appeared" if appeared else "changed")
                self._reload.set()


def _stamp(file: Path) -> tuple[int, int] | None:
    """Time of change and size; None if it does not exist."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
