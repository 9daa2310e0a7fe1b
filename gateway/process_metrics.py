"""Resources that the gateway's process uses, under the names that Prometheus's client libraries give it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path

from gateway.request_metrics import family

_SELF = Path("/proc/self")


def lines() -> Iterable[str]:
    """CPU and tasks everywhere; memory and descriptors if there is ``/proc``. Call it in the loop's thread."""
    cpu = time.process_time()
    yield from family("process_cpu_seconds_total", "counter", "User and system CPU time, in seconds.", [({}, cpu)])
    tasks = len(asyncio.all_tasks())
    yield from family("mesh_gateway_tasks", "gauge", "Tasks of the event loop.", [({}, tasks)])
    if not _SELF.exists():
        return
    pages = int((_SELF / "statm").read_text().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    yield from family("process_resident_memory_bytes", "gauge", "Resident memory.", [({}, resident)])
    descriptors = len(os.listdir(_SELF / "fd"))
    yield from family("process_open_fds", "gauge", "Open file descriptors.", [({}, descriptors)])
