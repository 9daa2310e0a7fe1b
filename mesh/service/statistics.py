"""The figures of one endpoint that ``$SRV.STATS`` reports (NATS ADR-32)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

GRAIN_NS: Final = 128
"""Nanoseconds that the latency histogram can tell apart; its buckets widen from there, by 12.5 % of their value."""
BUCKETS: Final = 256


@dataclass(slots=True)
class Statistics:
    """Figures since the start of the instance or the last reset; times in nanoseconds, as NATS ADR-32 has them."""

    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    latencies: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """Requests by duration, in log-scaled buckets: eight to an octave, from `GRAIN_NS` to over an hour."""

    def record(self, elapsed_ns: int) -> None:
        """Count a request that a handler has served."""
        self.num_requests += 1
        self.processing_time += elapsed_ns
        units = (elapsed_ns // GRAIN_NS) + 8
        octave = units.bit_length() - 4
        bucket = octave * 8 + (units >> octave) - 8
        self.latencies[bucket if bucket < BUCKETS else -1] += 1

    def percentile_ms(self, share: float) -> float:
        """Milliseconds within which that share (0 to 1) of the served requests ended, to about 6 %; 0 without any."""
        left = share * sum(self.latencies)
        for bucket, count in enumerate(self.latencies):
            left -= count
            if count and left <= 0:
                octave, step = divmod(bucket, 8)
                return round((((step + 8.5) * (1 << octave)) - 8) * GRAIN_NS / 1e6, 4)
        return 0.0

    def refuse(self, text: str) -> None:
        """Count a request that no handler saw."""
        self.num_requests += 1
        self.fail(text)

    def fail(self, text: str) -> None:
        """Count an error; ``text`` becomes ``last_error``, as ``503:the instance is stopping``."""
        self.num_errors += 1
        self.last_error = text[:256]
