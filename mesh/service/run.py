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

from mesh.errors import BusUnavailable, ConfigError, DeclarationError
from mesh.logs import configure
from mesh.service import namesakes
from mesh.service.blocking_handlers import DEVELOPING_S, SERVING_S, BlockingWatch, code_of
from mesh.service.forced_exit import end_within
from mesh.service.instance import ServiceInstance
from mesh.service.service import Service
from mesh.settings import BusSettings, ServiceSettings, find_file, load_all
from mesh.settings_reader import redact

SOON_S = 1.0
"""Seconds after which a first connection that is not there is said to be waited for."""

_log = logging.getLogger("mesh.service")


_importing: ContextVar[bool] = ContextVar("mesh.importing", default=False)


@contextmanager
def importing() -> Iterator[None]:
    """While a command imports a user's module: a service that the module runs would keep the command from its work."""
    token = _importing.set(True)
    try:
        yield
    finally:
        _importing.reset(token)


def run(service: Service) -> None:
    """Run until SIGTERM or Ctrl-C. Exits with 2 where the configuration is wrong.

    Raises `DeclarationError` while a command imports the module: `mesh run` runs the service itself.
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
    withdraw()  # what the caller does next takes as long as it likes


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


def settle() -> None:
    """What is there once a process has started stays: the collector need not look through it again and again.

    Its longest pauses are those of a whole collection, which would visit every imported module.
    """
    gc.collect()
    gc.freeze()


def watch_blocking(instance: ServiceInstance, limit_s: float) -> BlockingWatch | None:
    """Warn, from now on, of handlers that hold up the event loop for that long; None where that is not wanted."""
    if not limit_s:
        return None
    service = instance.service
    names = {code: f"handler {d.name}" for d in service.endpoints.values() if (code := code_of(d.handler)) is not None}
    names |= {code: f"event handler {e.name}" for e in service.subscriptions if (code := code_of(e.run)) is not None}
    endpoints = instance.endpoints.values()
    watch = BlockingWatch(limit_s, names, lambda: sum(e.statistics.num_requests for e in endpoints))
    instance.bus.loop_blocked_by = watch.recent
    watch.start()
    return watch


async def serve(
    service: Service, bus: BusSettings, settings: ServiceSettings, instance_id: str = "", *, replaces: str | None = None
) -> None:
    """Run one instance until a signal or ``mesh drain`` asks it to stop; a second signal hurries.

    On a terminal, and where ``replaces`` says whose place it takes (empty for the first one), somebody writes it right
    now and is warned of more than elsewhere.
    """
    instance = ServiceInstance(service, bus, settings, instance_id)
    hurry = asyncio.Event()

    def asked() -> None:
        (hurry if instance.stop_requested.is_set() else instance.stop_requested).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    await instance.start()
    settle()
    developing = replaces is not None or sys.stderr.isatty()
    besides = [asyncio.create_task(_say_that_it_runs(instance), name="first connection")]
    if developing:
        besides.append(asyncio.create_task(namesakes.look(instance.bus, replaces or ""), name="namesakes"))
    limit_s = DEVELOPING_S if developing else SERVING_S
    watch = watch_blocking(instance, limit_s if settings.blocked_ms is None else settings.blocked_ms / 1000)
    if not service.endpoints and not service.subscriptions:
        _log.warning("%s has no route, no endpoint and no event handler: nobody can call it", service.name)
    try:
        await instance.wait_stop()
    finally:
        if watch is not None:
            watch.aclose()
        for task in besides:
            task.cancel()
        await asyncio.gather(*besides, return_exceptions=True)
        await instance.drain(hurry)
    _log.info("%s stopped", service.name)


async def _say_that_it_runs(instance: ServiceInstance) -> None:
    """An instance runs when NATS has its subscriptions; before, nobody can reach it."""
    service, bus = instance.service, instance.bus
    patience = SOON_S
    while not bus.connected:
        try:
            await bus.wait_connected(patience)
        except BusUnavailable:
            if patience == SOON_S:
                where = ", ".join(redact(url) for url in bus.settings.servers)
                _log.warning("%s %s is waiting for NATS at %s", service.name, service.version, where)
            patience = 3600
    _log.info("%s %s runs as %s", service.name, service.version, instance.id)
