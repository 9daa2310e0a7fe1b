"""How calls in flight wait for a connection, and are told that it is there."""

import asyncio

import pytest

from mesh.balancer import RetryReason
from mesh.client.recovery import Recovery


class Disconnected:
    """As much of a bus as a recovery looks at."""

    closed, connected, has_others = False, False, True

    def on_connection(self, callback):
        self.tell = callback

    def now(self):
        return asyncio.get_running_loop().time()


async def test_who_is_cancelled_in_the_turn_of_the_connection_hears_no_more(caplog):
    bus = Disconnected()
    recovery = Recovery(bus)
    waiting = asyncio.ensure_future(recovery.waited(RetryReason.CONNECTION_LOST, [], 5))
    await asyncio.sleep(0)
    waiting.cancel()
    bus.tell(True)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not caplog.records
    assert not recovery._waiting


async def test_a_connection_in_time_ends_the_wait():
    bus = Disconnected()
    recovery = Recovery(bus)
    waiting = asyncio.ensure_future(recovery.waited(RetryReason.CONNECTION_LOST, [], 5))
    await asyncio.sleep(0)
    bus.tell(True)
    assert await waiting
