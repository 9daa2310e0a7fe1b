"""Runs a service as a process: settings, logging, signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys

from mesh.config import BusSettings, ServiceSettings, find_file, load_all
from mesh.errors import ConfigError
from mesh.logs import configure
from mesh.service.exit import end_within
from mesh.service.instance import ServiceInstance
from mesh.service.service import Service

_log = logging.getLogger("mesh.service")


def run(service: Service) -> None:
    """Run until SIGTERM or Ctrl-C. Exits with 2 where the configuration is wrong."""
    try:
        bus, settings = load_all(BusSettings, ServiceSettings, environ=os.environ, file=find_file(os.environ))
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    configure(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(service, bus, settings))
        end_within()


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


async def serve(service: Service, bus: BusSettings, settings: ServiceSettings, instance_id: str = "") -> None:
    """Run one instance until a signal or ``mesh drain`` asks it to stop; a second signal hurries."""
    instance = ServiceInstance(service, bus, settings, instance_id)
    hurry = asyncio.Event()

    def asked() -> None:
        (hurry if instance.stop_requested.is_set() else instance.stop_requested).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    await instance.start()
    settle()
    _log.info("%s %s runs as %s", service.name, service.version, instance.id)
    try:
        await instance.wait_stop()
    finally:
        await instance.drain(hurry)
    _log.info("%s stopped", service.name)
