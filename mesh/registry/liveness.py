"""The clock by which silence is judged.

The silence of an instance means something only while this process could have heard it. So liveness time stands still
while there is no connection, while no bytes come from NATS, and while this process itself does not run.
"""

from __future__ import annotations


class Liveness:
    """Liveness time in seconds, from 0. It never runs faster than the monotonic clock that it is given.

    quiet_s: if the last bytes are older, the clock stands still; a little more than the 1 s between two pings, so that
        it runs on all the time with a sound connection
    silence_s: if the last bytes are older, the clock is also `stale`
    stall_s: a longer gap between two calls means that this process was stalled or suspended
    tick_s: the usual time between two calls

    Its owner calls `advance` about every ``tick_s``, and when the connection comes or goes. When `stale` turns from
    True to False (a reconnect, the end of a silence or of a stall), the owner calls ``Registry.restart(now)``: messages
    of that time may still arrive, so every wait starts again. While `stale` is True, the owner does not call
    ``Registry.expire``.

    The clock stands still before it is stale. In between, an instance could be called lost (after 2 s, with heartbeats
    every 500 ms), and that could not be taken back.
    """

    __slots__ = ("_last", "_now", "_quiet_s", "_silence_s", "_stall_s", "_tick_s", "stale", "stale_since", "stalls")

    def __init__(
        self, *, silence_s: float = 2.5, quiet_s: float = 1.25, stall_s: float = 0.5, tick_s: float = 0.1
    ) -> None:
        self.stale = True
        """True if nothing is heard, so that the registry holds the last known state."""
        self.stale_since: float | None = None
        """The monotonic time at which it became stale; None while it is not, and before the first call."""
        self.stalls = 0
        """How often this process was stalled."""
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
        """Count the time since the last call as far as this process could hear. Returns the liveness time in seconds.

        monotonic_now: a monotonic clock, in seconds
        last_bytes: when bytes last came from NATS, on the same clock; None if never
        connected: True if there is a connection to NATS
        """
        last, self._last = self._last, monotonic_now
        gap = 0.0 if last is None else max(0.0, monotonic_now - last)
        if not connected or last_bytes is None:
            self._freeze(monotonic_now)
            return self._now
        silent = monotonic_now - last_bytes
        if gap > self._stall_s:
            # Nothing was read in the gap, so the age of the last bytes says nothing yet. The next call knows.
            self.stalls += 1
            if not self.stale:
                self._now += min(gap, self._tick_s)
            self._freeze(monotonic_now - gap)
        elif silent > self._silence_s:
            self._freeze(last_bytes)
        elif self.stale:
            # It is not known in which part of the time before this call messages could be heard: none of it counts.
            self.stale = False
            self.stale_since = None
        elif silent <= self._quiet_s:
            self._now += gap
        return self._now

    def _freeze(self, since: float) -> None:
        if not self.stale or self.stale_since is None:
            self.stale_since = since
        self.stale = True
