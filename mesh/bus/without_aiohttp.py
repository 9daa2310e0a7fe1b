"""nats-py imports aiohttp for its WebSocket transport wherever it is installed: a third of the time that an instance
takes to start. So it is imported only where NATS is reached over ``ws://``."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import cast


def import_nats_without_it() -> None:
    """Import nats-py as if aiohttp were not installed, unless either has been imported already."""
    if "aiohttp" in sys.modules or "nats.aio.transport" in sys.modules:
        return
    modules = cast(dict[str, ModuleType | None], sys.modules)
    modules["aiohttp"] = None  # makes `import aiohttp` an ImportError, which nats-py expects
    try:
        importlib.import_module("nats.aio.transport")
    finally:
        del modules["aiohttp"]


def provide() -> None:
    """Give nats-py what its WebSocket transport needs. Where it is not installed nats-py's own error says so."""
    transport = importlib.import_module("nats.aio.transport")
    if getattr(transport, "aiohttp", None) is None:
        try:
            transport.aiohttp = importlib.import_module("aiohttp")  # type: ignore[attr-defined]
        except ImportError:
            return
