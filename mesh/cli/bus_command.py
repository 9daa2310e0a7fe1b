"""A command that speaks to NATS: its connection, what the library may log meanwhile, and its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from mesh.cli.exit import NO_NATS, fail
from mesh.cli.terminal import clean

if TYPE_CHECKING:
    from mesh.bus import Bus
    from mesh.errors import BusUnavailable
    from mesh.settings import BusSettings

AnyBus = TypeVar("AnyBus", bound="Bus")

HELP: Final = {"help_option_names": ["-h", "--help"]}
"""Context settings of every command."""
GIVE_UP_S: Final = 1.0
"""Seconds for which a command tries to reach NATS while every server fails: a person waits."""


class Missing(Exception):
    """A name that does not exist. Its text is a sentence with the nearest names."""


def execute(main: Callable[[Bus], Awaitable[int]], make: Callable[[BusSettings], Bus] | None = None) -> NoReturn:
    """Connect, run ``main`` and exit with its code. Every error that can be foreseen has an exit code of its own.

    make: builds the bus from its settings; `Bus` unless given
    """
    from mesh.bus import Bus
    from mesh.cli.load_settings import load
    from mesh.errors import BadSubject, BusUnavailable, MeshError
    from mesh.settings import BusSettings

    (settings,) = load(BusSettings)
    quiet()

    async def run() -> int:
        async with connecting(settings, make or Bus) as bus:
            return await main(bus)

    try:
        code = asyncio.run(run())
        sys.stdout.flush()
    except BusUnavailable as error:
        fail(without_nats(error), NO_NATS)
    except MeshError as error:
        fail(clean(error.detail), 1)
    except (Missing, BadSubject) as error:
        fail(clean(str(error)), 1)
    except BrokenPipeError:
        detach()
        code = 0
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def connecting(settings: BusSettings, make: Callable[..., AnyBus]) -> AnyBus:
    """The bus of a command, not entered yet. It gives up sooner than a program that may wait for NATS."""
    return make(settings, give_up_s=GIVE_UP_S)


def without_nats(error: BusUnavailable) -> str:
    """The text for a connection that failed: why, and what to do about it."""
    hint = getattr(error, "hint", "")
    return clean(error.detail) + (f"\nhint: {clean(hint)}" if hint else "")


def detach() -> None:
    """Drop all further output: its reader has gone, as `head` does. Otherwise Python complains of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quiet() -> None:
    """Let only errors of the library through to standard error, without control characters in them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_CleanFormatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("mesh")
    logger.handlers[:] = [handler]
    logger.propagate = False
    level = os.environ.get("MESH_LOG_LEVEL") or os.environ.get("LOG_LEVEL") or ""
    logger.setLevel(logging.DEBUG if level.lower() == "debug" else logging.ERROR)


class _CleanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(clean(line) for line in super().format(record).split("\n"))
