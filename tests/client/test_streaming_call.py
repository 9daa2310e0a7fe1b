"""A call whose body follows, seen from the caller, word for word of what the instance says."""

import pytest

from mesh.bus import Bus
from mesh.client import StreamingCall
from mesh.settings import BusSettings
from mesh.streams import Streams

MINE, OTHER = b"mesh.stream.files.i1.s1", b"mesh.stream.files.i2.s2"


def head(peer):
    return b"NATS/1.0\r\nMesh-Status: 200\r\nMesh-Stream: %b\r\n\r\n" % peer


def accept(peer, credit):
    return b"NATS/1.0\r\nMesh-Stream: %b\r\nMesh-Credit: %b\r\n\r\n" % (peer, credit)


@pytest.fixture
async def call(nats_url, prefix):
    async with Bus(BusSettings(servers=(nats_url,), prefix="mesh")) as bus:
        streams = Streams(bus)
        call = StreamingCall(streams.open(), bus.subjects, "i1")
        yield call
        call.close()
        await streams.aclose()


def room(call):
    """Bytes that may be sent, at most 1000."""
    return call.stream._outflow.sendable(1000)


@pytest.mark.parametrize("first", [head(MINE), accept(MINE, b"0")], ids=["head", "acceptance"])
async def test_a_credit_after_the_first_word_is_taken_from_the_same_instance_alone(call, first):
    say = call.stream.deliver
    say(first, b"")
    assert call.begun
    for forged in (accept(OTHER, b"5000"), accept(MINE, b"-1"), accept(MINE, b"9" * 30)):
        say(forged, b"")
        assert (call.stream.peer_subject, room(call)) == (MINE, -1)
    say(accept(MINE, b"5000"), b"")
    assert room(call) == 1000
    say(accept(MINE, b"1"), b"")  # credits are totals: it takes nothing away
    assert room(call) == 1000


async def test_a_late_acceptance_of_a_call_that_has_its_answer_does_nothing(call):
    say = call.stream.deliver
    say(b"NATS/1.0\r\nMesh-Status: 200\r\n\r\n", b"done")
    say(accept(MINE, b"5000"), b"")
    assert (call.streamed, call.stream.peer_subject, room(call)) == (False, b"", -1)
