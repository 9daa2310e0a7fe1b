"""The gateway's parent process: it owns the listening sockets and replaces the worker that serves them.

A connection is never refused while workers change: the sockets stay open here, the new worker accepts on them only
when it knows who is there, and only then is the old one told to finish. (Two processes that each bind the port with
SO_REUSEPORT lose what waits in the socket of the one that closes.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from mesh.embedded.leash import leashed

REPLACED = signal.SIGUSR1
"""Tells a worker that another one accepts in its place."""
READY_S = 30.0
"""Seconds that a new worker has to become ready before the old one is kept."""
LONGEST_PAUSE_S = 5.0
WATCH_S = 1.0

Address = tuple[str, int]
Place = tuple[int, Address]
"""Which of the listeners, and where: two may both be on any free port."""

_log = logging.getLogger("mesh.gateway")


class Worker:
    """One process that serves the sockets. ``ready`` is set when it accepts connections."""

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
    """Runs one worker after another behind the same sockets until it is told to stop.

    ``command(descriptors, succeeds)`` is a worker's command line: it gets the numbers of the listening sockets, in the
    order of ``addresses()``, and of a pipe into which it writes a byte when it accepts; ``succeeds`` says that another
    worker accepts until then. ``addresses()`` reads the configuration and raises where that is wrong; ``file`` is
    watched for changes, None for no file.
    """

    def __init__(
        self,
        command: Callable[[Sequence[int], bool], Sequence[str]],
        addresses: Callable[[], Sequence[Address]],
        listen: Callable[[str, int], socket.socket],
        file: Path | None = None,
    ) -> None:
        self._command = command
        self._addresses = addresses
        self._listen = listen
        self._file = file
        self._sockets: dict[Place, socket.socket] = {}
        self._serving: list[Address] = []
        self._current: Worker | None = None
        self._old: set[Worker] = set()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._failures = 0

    async def run(self) -> int:
        """Until SIGTERM or Ctrl-C (a second one hurries), or until the worker was drained; gives the exit code.

        Raises OSError where an address cannot be listened on at the start.
        """
        loop = asyncio.get_running_loop()
        self._serving = list(self._addresses())
        self._open(self._serving)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        watching = asyncio.create_task(self._watch(), name="configuration watch")
        try:
            self._current = await self._start(self._serving)
            return await self._supervise()
        finally:
            watching.cancel()
            await self._end_all()
            for sock in self._sockets.values():
                sock.close()

    async def _supervise(self) -> int:
        while True:
            current = self._current
            assert current is not None
            waits = [asyncio.ensure_future(event.wait()) for event in (self._stop, self._reload)]
            await asyncio.wait([*waits, current.exited], return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self._stop.is_set():
                return 0
            if current.exited.done():
                code = current.exited.result()
                if code == 0:
                    _log.info("the gateway was drained")
                    return 0
                if not await self._restart(code):
                    return 1
            elif self._reload.is_set():
                self._reload.clear()
                await self._replace(current)

    # -- workers

    async def _start(self, addresses: Sequence[Address], *, succeeds: bool = False) -> Worker:
        read, write = os.pipe()
        descriptors = [*(self._sockets[place].fileno() for place in enumerate(addresses)), write]
        try:
            process = await asyncio.create_subprocess_exec(
                *leashed(self._command(descriptors, succeeds)),
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C on the terminal reaches the parent, which stops the workers in order
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

    async def _replace(self, old: Worker) -> None:
        """Start a worker with the configuration as it is now; the old one goes on until that one accepts."""
        try:
            addresses = list(self._addresses())
            self._open(addresses)
        except Exception as error:
            _log.error("not reloaded, the gateway goes on as it was: %s", error)
            return
        new = await self._start(addresses, succeeds=True)
        waits = [asyncio.ensure_future(event.wait()) for event in (new.ready, self._stop)]
        await asyncio.wait([*waits, new.exited], timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not new.ready.is_set():
            if not self._stop.is_set():
                why = "ended" if new.exited.done() else f"was not ready after {READY_S:g} s"
                _log.error("not reloaded, the gateway goes on as it was: the new worker %s", why)
            new.tell(signal.SIGTERM)
            self._retire(new)
            return
        self._current, self._serving = new, addresses
        old.tell(REPLACED)
        self._retire(old)
        self._close_unused()
        _log.info("reloaded: process %d serves in place of %d", new.process.pid, old.process.pid)

    async def _restart(self, code: int) -> bool:
        """Start a worker in place of one that died; False when it is no use or not wanted any more."""
        self._failures += 1
        if code == 2:
            return False  # the worker has said what is wrong with its configuration
        pause = min(LONGEST_PAUSE_S, 0.05 * 2.0 ** min(self._failures, 10))
        _log.error("the gateway's worker ended with exit code %d; starting another in %.1f s", code, pause)
        try:
            async with asyncio.timeout(pause):
                await self._stop.wait()
        except TimeoutError:
            self._current = await self._start(self._serving)
        return True

    def _retire(self, worker: Worker) -> None:
        self._old.add(worker)
        worker.exited.add_done_callback(lambda _: self._old.discard(worker))

    async def _end_all(self) -> None:
        workers = [*self._old, *([self._current] if self._current else [])]
        for worker in workers:
            worker.tell(signal.SIGTERM)
        await asyncio.gather(*(worker.exited for worker in workers))

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():  # the second time: whoever still waits for requests shall not
            for worker in (*self._old, self._current):
                if worker is not None:
                    worker.tell(signal.SIGTERM)
        self._stop.set()

    # -- sockets and configuration

    def _open(self, addresses: Sequence[Address]) -> None:
        opened: dict[Place, socket.socket] = {}
        try:
            for place in enumerate(addresses):
                if place not in self._sockets:
                    opened[place] = self._listen(*place[1])
        except OSError:
            for sock in opened.values():
                sock.close()
            raise
        self._sockets |= opened

    def _close_unused(self) -> None:
        for place in self._sockets.keys() - set(enumerate(self._serving)):
            self._sockets.pop(place).close()

    async def _watch(self) -> None:
        known = _stamp(self._file)
        while True:
            await asyncio.sleep(WATCH_S)
            now = _stamp(self._file)
            if now != known:
                known = now
                _log.info("%s changed", self._file)
                self._reload.set()


def _stamp(file: Path | None) -> tuple[int, int] | None:
    try:
        found = file.stat() if file is not None else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size) if found is not None else None
