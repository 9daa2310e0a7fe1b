"""The clock of ``Mesh-Sent``: one for all processes of a machine. It counts suspended time too."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_ms() -> int:
    """Milliseconds since the machine started on Linux, elsewhere of the monotonic clock."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000
