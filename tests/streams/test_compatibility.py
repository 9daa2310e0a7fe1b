"""Peers of another version, as docs/protocol.md has it under "Compatibility"."""

import asyncio
import hashlib
import os

import pytest

from mesh.defaults import CHUNK, FIRST_CREDIT, LARGEST_CHUNK, WINDOW
from mesh.errors import StreamBroken
from mesh.streams import frames
from mesh.streams.flow_control import SMALLEST_WINDOW
from tests.conditions import eventually
from tests.streams.test_stream import Pair

SIZE = 3_000_000


@pytest.fixture
def larger_frames(monkeypatch):
    """Senders that make the largest frames that receivers take."""
    monkeypatch.setattr("mesh.streams.flow_control.CHUNK", LARGEST_CHUNK)


async def carry(sender, receiver):
    """Send a body over a stream; gives the sizes of the frames that arrived."""
    body, parts = os.urandom(SIZE), []

    async def send():
        await sender.write(body)
        sender.end()

    sending = asyncio.ensure_future(send())
    while (frame := await receiver.read()) is not None:
        parts.append(frame.payload)
    await sending
    assert hashlib.sha256(b"".join(parts)).digest() == hashlib.sha256(body).digest()
    return [len(part) for part in parts]


async def test_larger_frames_are_taken_in_both_directions_as_far_as_credit_goes(nats_url, prefix, larger_frames):
    async with Pair(nats_url, prefix) as pair:
        caller, callee = pair.open()
        up, down = await asyncio.gather(carry(caller, callee), carry(callee, caller))
    assert down[0] == FIRST_CREDIT
    for sizes in (up, down):
        assert CHUNK < max(sizes) <= WINDOW


async def test_the_largest_frames_are_taken_where_the_window_has_grown_too(
    nats_url, prefix, larger_frames, monkeypatch
):
    monkeypatch.setattr("mesh.streams.flow_control.WINDOW", 4 * LARGEST_CHUNK)
    async with Pair(nats_url, prefix) as pair:
        caller, callee = pair.open()
        up, down = await asyncio.gather(carry(caller, callee), carry(callee, caller))
    assert max(up) == max(down) == LARGEST_CHUNK


async def test_a_frame_that_is_larger_still_breaks_the_stream(nats_url, prefix, monkeypatch):
    monkeypatch.setattr("mesh.streams.flow_control.CHUNK", LARGEST_CHUNK + 1)
    monkeypatch.setattr("mesh.streams.flow_control.WINDOW", 4 * LARGEST_CHUNK)
    async with Pair(nats_url, prefix) as pair:
        caller, callee = pair.open()
        writing = asyncio.ensure_future(caller.write(bytes(SIZE)))
        with pytest.raises(StreamBroken, match=f"{LARGEST_CHUNK} are allowed"):
            await callee.read()
        with pytest.raises(StreamBroken):
            await writing


async def test_a_sender_of_larger_frames_does_not_wait_for_more_than_a_small_window_gives(
    nats_url, prefix, larger_frames, monkeypatch
):
    monkeypatch.setattr("mesh.streams.flow_control.WINDOW", SMALLEST_WINDOW)
    async with Pair(nats_url, prefix) as pair:
        caller, callee = pair.open()
        async with asyncio.timeout(30):
            sizes = await carry(caller, callee)
    assert max(sizes) <= SMALLEST_WINDOW


async def test_a_frame_of_a_kind_that_is_not_known_is_ignored_and_missing_then(nats_url, prefix):
    async with Pair(nats_url, prefix) as pair:
        caller, callee = pair.open()
        subject = callee.own_subject
        publish = pair.buses[0].publish
        publish(subject, b"?", b"NATS/1.0\r\nMesh-Frame: 1 sparkle\r\n\r\n", caller.own_subject)
        publish(subject, b"x", frames.block(1, frames.DATA), caller.own_subject)
        assert (await callee.read()).payload == b"x"
        publish(subject, b"?", b"NATS/1.0\r\nMesh-Frame: 2 sparkle\r\n\r\n", caller.own_subject)
        publish(subject, b"y", frames.block(3, frames.DATA), caller.own_subject)
        with pytest.raises(StreamBroken, match="frame 3 came where 2 was due"):
            await callee.read()
        await eventually(lambda: not pair.hubs[1]._open)
