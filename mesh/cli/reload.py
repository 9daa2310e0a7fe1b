"""``--reload``: a saved file is live within a second, and requests in flight end at the instance that has them.

The new instance starts while the old one runs. When the new one has announced that it is ready, the old one is drained.
If the new one does not start, the old one goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from mesh.bus import Bus
from mesh.embedded.leash import leashed
from mesh.errors import MeshError
from mesh.settings import BusSettings
from mesh.subjects import new_id
from mesh.watcher import Watcher

POLL_S: Final = 0.15
"""Seconds between two looks at the files: a person does not notice it, and a large folder costs little."""
READY_S: Final = 30.0
"""Seconds that a new instance has to become ready; after that, the old one is kept."""
WATCHED: Final = (".py", ".toml", ".env")
IGNORED: Final = frozenset({"node_modules", "__pycache__", "site-packages"})
MAX_FILES: Final = 20_000
"""Files that are watched at most: a bound for the work of one look."""

Snapshot = dict[str, tuple[int, int]]


def snapshot(folder: Path) -> Snapshot:
    """Time of change and size of every watched file below ``folder``, without virtual environments and hidden files."""
    return dict(_files(str(folder)))


def _files(folder: str) -> Iterator[tuple[str, tuple[int, int]]]:
    waiting, count = [folder], 0
    while waiting and count < MAX_FILES:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # removed while we look
        for entry in entries:
            if entry.name.startswith(".") and entry.name != ".env":
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in IGNORED and not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                        waiting.append(entry.path)
                elif entry.name.endswith(WATCHED):
                    count += 1
                    found = entry.stat()
                    yield entry.path, (found.st_mtime_ns, found.st_size)
            except OSError:
                continue


class Reloader:
    """Keeps one instance running, and replaces it when a file below ``folder`` changes.

    ``command`` is the `mesh` command that runs it, such as ``["run", "users:service"]``; it takes ``--instance ID``.
    """

    def __init__(self, command: Sequence[str], settings: BusSettings, folder: Path) -> None:
        self._command = list(command)
        self._settings = settings
        self._folder = folder
        self._current: asyncio.subprocess.Process | None = None
        self._live = ""  # its id
        self._old: set[asyncio.subprocess.Process] = set()

    async def run(self) -> None:
        """Run until SIGTERM or Ctrl-C. A second one ends the instances without waiting for their requests."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled, stop)
        bus = Bus(self._settings)
        bus.open()
        watcher = Watcher(bus, window_ms=0)
        await watcher.start()
        try:
            known = snapshot(self._folder)
            await self._replace(watcher, stop)
            while not stop.is_set():
                try:
                    async with asyncio.timeout(POLL_S):
                        await stop.wait()
                except TimeoutError:
                    pass
                now = await asyncio.to_thread(snapshot, self._folder)
                if now != known and not stop.is_set():
                    changed = sorted({Path(p).name for p, _ in now.items() ^ known.items()})
                    click.echo(f"changed: {', '.join(changed[:5])}", err=True)
                    known = now
                    await self._replace(watcher, stop)
        finally:
            await self._stop()
            await watcher.aclose()
            await bus.aclose()

    def _signalled(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            for child in (*self._old, self._current):
                _signal(child, signal.SIGTERM)
        stop.set()

    async def _replace(self, watcher: Watcher, stop: asyncio.Event) -> None:
        instance = new_id()
        command = [sys.executable, "-m", "mesh", *self._command, "--instance", instance, "--replaces", self._live]
        child = await asyncio.create_subprocess_exec(*leashed(command), start_new_session=True)
        if not await self._ready(watcher, instance, child, stop):
            if child.returncode is None and not stop.is_set():
                click.echo(f"the new instance was not ready after {READY_S:g} s", err=True)
                _signal(child, signal.SIGTERM)
            self._retire(child)
            if self._current is not None and self._current.returncode is None and not stop.is_set():
                click.echo("the instance from before goes on; waiting for the next change", err=True)
            return
        old, self._current, self._live = self._current, child, instance
        if old is not None:
            _signal(old, signal.SIGTERM)
            self._retire(old)

    def _retire(self, child: asyncio.subprocess.Process) -> None:
        self._old = {kept for kept in self._old if kept.returncode is None} | {child}

    async def _ready(
        self, watcher: Watcher, instance: str, child: asyncio.subprocess.Process, stop: asyncio.Event
    ) -> bool:
        """True if the instance announced that it is ready before it ended, before `READY_S`, and before a stop."""
        changed = asyncio.Event()
        end = watcher.on_change(lambda changes: changed.set())
        waits = [asyncio.ensure_future(child.wait()), asyncio.ensure_future(stop.wait())]
        try:
            async with asyncio.timeout(READY_S):
                while not any(wait.done() for wait in waits):
                    if any(i.id == instance and i.state == "ready" for i in watcher.registry.instances()):
                        return True
                    changed.clear()
                    news = asyncio.ensure_future(changed.wait())
                    await asyncio.wait([*waits, news], return_when=asyncio.FIRST_COMPLETED)
                    news.cancel()
        except (TimeoutError, MeshError):
            pass
        finally:
            end()
            for wait in waits:
                wait.cancel()
        return False

    async def _stop(self) -> None:
        for child in (*self._old, self._current):
            _signal(child, signal.SIGTERM)
        for child in (*self._old, self._current):
            if child is not None:
                await child.wait()


def _signal(child: asyncio.subprocess.Process | None, number: int) -> None:
    if child is not None and child.returncode is None:
        try:
            child.send_signal(number)
        except ProcessLookupError:
            pass
