"""What the tests of logging in share."""

import time

import pytest

from mesh.bus import Bus
from mesh.errors import BusUnavailable
from mesh.settings import BusSettings
from tests.bus.parts import echo

GIVE_UP_S = 0.3


def settings(url, lane="auto", **fields):
    return BusSettings(servers=(url,), lane=lane, **fields)


async def works(settings):
    """A message and its answer go through NATS with these settings."""
    async with Bus(settings) as bus:
        await echo(bus, "mesh.echo")
        reply = await bus.request(bus.address("mesh.echo"), b"through", timeout=10)
        assert reply.payload == b"through"
        assert bus.last_error == ""


async def refused(settings, *, final=True, secrets=()):
    """The error and the hint of a connection that is not made; ``final`` says whether it is given up at once."""
    bus = Bus(settings, give_up_s=30 if final else GIVE_UP_S)
    began = time.monotonic()
    with pytest.raises(BusUnavailable) as caught:
        async with bus:
            pass
    assert time.monotonic() - began < settings.connect_timeout_s - 0.5, "it was waited for in vain"
    text = f"{caught.value.detail}|{caught.value.hint}"
    for secret in secrets:
        assert secret not in text
    return text
