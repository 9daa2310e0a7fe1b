"""Import nats-py without aiohttp.

nats-py imports aiohttp for its WebSocket transport if it is installed, which takes a third of the time in which an
instance starts. So aiohttp is imported only if NATS is reached over ``ws://`` or ``wss://``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import cast


def import_nats() -> None:
    """Import nats-py as if aiohttp were not installed, unless either has been imported already."""
    if "aiohttp" in sys.modules or "nats.aio.transport" in sys.modules:
        return
    modules = cast(dict[str, ModuleType | None], sys.modules)
    modules["aiohttp"] = None  # makes `import aiohttp` an ImportError, which nats-py expects
    try:
        importlib.import_module("nats.aio.transport")
    finally:
        del modules["aiohttp"]


def provide_aiohttp() -> None:
    """Give nats-py the aiohttp that its WebSocket transport needs. If it is not installed, nats-py's error says so."""
    transport = importlib.import_module("nats.aio.transport")
    if getattr(transport, "aiohttp", None) is None:
        try:
            transport.aiohttp = importlib.import_module("aiohttp")  # type: ignore[attr-defined]
        except ImportError:
            return
