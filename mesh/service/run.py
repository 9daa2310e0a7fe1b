"""Runs a service as a process: settings, logging, signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from mesh.errors import BusUnavailable, ConfigError, DeclarationError
from mesh.logs import configure
from mesh.service.blocking_handlers import DEVELOPMENT_LIMIT_S, PRODUCTION_LIMIT_S, BlockingWatch, code_of
from mesh.service.definition import ServiceDefinition
from mesh.service.duplicate_names import warn_of_duplicates
from mesh.service.forced_exit import end_within
from mesh.service.instance import ServiceInstance
from mesh.settings import BusSettings, ServiceSettings, find_file, load_all
from mesh.settings_reader import redact

FIRST_CONNECTION_S: Final = 1.0
"""Seconds after which the log says that the instance waits for NATS."""

_log = logging.getLogger("mesh.service")


_importing: ContextVar[bool] = ContextVar("mesh.importing", default=False)


@contextmanager
def importing() -> Iterator[None]:
    """Make `run` raise while a command imports a user's module: a service that runs would not return."""
    token = _importing.set(True)
    try:
        yield
    finally:
        _importing.reset(token)


def run(service: ServiceDefinition) -> None:
    """Run a service until SIGTERM or Ctrl-C.

    Raises SystemExit with code 2 if a setting is wrong, and `DeclarationError` while a command imports the module:
    `mesh run` runs the service itself.
    """
    if _importing.get():
        raise DeclarationError(
            "service.run() is called while mesh imports this module; put it under if __name__ == '__main__':"
        )
    try:
        bus, settings = load_all(BusSettings, ServiceSettings, environ=os.environ, file=find_file(os.environ))
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    configure(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(service, bus, settings))
        withdraw = end_within()  # closing the loop waits for its threads
    withdraw()  # the process goes on with the caller, who may need longer


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop; None, which is asyncio's own, if uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


def settle() -> None:
    """Exclude all objects that exist now from garbage collection.

    The modules of a process that has started stay. A full collection would visit all of them, and its pause is the
    longest that a process has.
    """
    gc.collect()
    gc.freeze()


def watch_blocking(instance: ServiceInstance, limit_s: float) -> BlockingWatch | None:
    """Warn of handlers that block the event loop for longer than ``limit_s`` seconds; None if the limit is 0."""
    if not limit_s:
        return None
    service = instance.service
    names = {code: f"handler {d.name}" for d in service.endpoints.values() if (code := code_of(d.handler)) is not None}
    names |= {code: f"event handler {e.name}" for e in service.subscriptions if (code := code_of(e.run)) is not None}
    endpoints = instance.endpoints.values()
    watch = BlockingWatch(limit_s, names, lambda: sum(e.statistics.num_requests for e in endpoints))
    instance.bus.held_up = watch.recent
    watch.start()
    return watch


async def serve(
    service: ServiceDefinition,
    bus: BusSettings,
    settings: ServiceSettings,
    instance_id: str = "",
    *,
    replaces: str | None = None,
) -> None:
    """Run one instance until a signal or ``mesh drain`` asks it to stop; a second signal ends its waits.

    On a terminal, and with ``replaces``, a person develops the service: it warns of more than in production.

    service: what to run
    bus: the settings of its connection
    settings: its limits and times
    instance_id: its id; a new one by default
    replaces: the id of the instance that it takes over from, empty for the first one; None without ``--reload``
    """
    instance = ServiceInstance(service, bus, settings, instance_id)
    hurry = asyncio.Event()

    def stop() -> None:
        (hurry if instance.stop_requested.is_set() else instance.stop_requested).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await instance.start()
    settle()
    developing = replaces is not None or sys.stderr.isatty()
    background = [asyncio.create_task(_log_start(instance), name="first connection")]
    if developing:
        background.append(asyncio.create_task(warn_of_duplicates(instance.bus, replaces or ""), name="duplicate names"))
    limit_s = DEVELOPMENT_LIMIT_S if developing else PRODUCTION_LIMIT_S
    watch = watch_blocking(instance, limit_s if settings.blocked_ms is None else settings.blocked_ms / 1000)
    if not service.endpoints and not service.subscriptions:
        _log.warning("%s has no route, no endpoint and no event handler: nobody can call it", service.name)
    try:
        await instance.wait_stop()
    finally:
        if watch is not None:
            watch.aclose()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await instance.drain(hurry)
    _log.info("%s stopped", service.name)


async def _log_start(instance: ServiceInstance) -> None:
    """Log that the instance runs, when NATS has its subscriptions: callers cannot reach it before."""
    service, bus = instance.service, instance.bus
    timeout = FIRST_CONNECTION_S
    while not bus.connected:
        try:
            await bus.wait_connected(timeout)
        except BusUnavailable:
            if timeout == FIRST_CONNECTION_S:
                where = ", ".join(redact(url) for url in bus.settings.servers)
                _log.warning("%s %s is waiting for NATS at %s", service.name, service.version, where)
            timeout = 3600
    _log.info("%s %s runs as %s", service.name, service.version, instance.id)
