"""The clock by which silence is judged.

Silence means something only while this process could have heard. Liveness time therefore stands still while
there is no connection, while no bytes come from NATS, and while this process itself did not run.
"""

from __future__ import annotations


class Liveness:
    """Liveness time in seconds, from 0; it never runs faster than the monotonic clock it is fed with.

    Its owner calls `advance` about every ``tick_s`` and whenever the connection comes or goes. When `stale` turns
    from True to False (a reconnect, the end of a silence or of a stall) the owner calls ``Registry.restart(now)``:
    what was sent in between may still be on its way, so every wait begins anew. While `stale` is True it does
    not call ``Registry.expire``.

    ``quiet_s``: bytes older than this stop the clock; a little more than the 1 s between two pings, so a sound
    connection never does. ``silence_s``: bytes older than this also make it `stale`. The clock stops before it
    calls itself stale, because a verdict reached in between (an instance that beats every 500 ms is lost after 2 s)
    could not be taken back.
    ``stall_s``: a longer gap between two calls means that this process was stalled or suspended.
    """

    __slots__ = ("_last", "_now", "_quiet_s", "_silence_s", "_stall_s", "_tick_s", "stale", "stale_since", "stalls")

    def __init__(
        self, *, silence_s: float = 2.5, quiet_s: float = 1.25, stall_s: float = 0.5, tick_s: float = 0.1
    ) -> None:
        self.stale = True
        """Whether the clock is frozen, so that what the registry holds is the last known state."""
        self.stale_since: float | None = None
        """The monotonic time at which it went stale; None while it is not, and before the first call."""
        self.stalls = 0
        """How often this process was found to have been stalled."""
        self._silence_s = silence_s
        self._quiet_s = min(quiet_s, silence_s)
        self._stall_s = stall_s
        self._tick_s = tick_s
        self._now = 0.0
        self._last: float | None = None

    @property
    def now(self) -> float:
        """Liveness time in seconds, as of the last `advance`."""
        return self._now

    def advance(self, monotonic_now: float, last_bytes: float | None, connected: bool) -> float:
        """Count the time since the last call as far as this process could hear; the liveness time in seconds.

        ``last_bytes`` is when bytes last came from NATS, on the same clock as ``monotonic_now``; None if never.
        """
        last, self._last = self._last, monotonic_now
        gap = 0.0 if last is None else max(0.0, monotonic_now - last)
        if not connected or last_bytes is None:
            self._freeze(monotonic_now)
            return self._now
        silent = monotonic_now - last_bytes
        if gap > self._stall_s:
            # Nothing was read meanwhile: the bytes look old, or are fresh and not handled yet. The next call tells.
            self.stalls += 1
            if not self.stale:
                self._now += min(gap, self._tick_s)
            self._freeze(monotonic_now - gap)
        elif silent > self._silence_s:
            self._freeze(last_bytes)
        elif self.stale:
            # Of the time before this call nobody knows which part could be heard, so none of it counts.
            self.stale = False
            self.stale_since = None
        elif silent <= self._quiet_s:
            self._now += gap
        return self._now

    def _freeze(self, since: float) -> None:
        if not self.stale or self.stale_since is None:
            self.stale_since = since
        self.stale = True
