"""A call whose body follows, seen from the caller, word for word of what the instance says."""

import pytest

from mesh.bus import Bus
from mesh.client import Conversation
from mesh.settings import BusSettings
from mesh.streams import Streams

MINE, OTHER = b"mesh.stream.files.i1.s1", b"mesh.stream.files.i2.s2"


def head(peer):
    return b"NATS/1.0\r\nMesh-Status: 200\r\nMesh-Stream: %b\r\n\r\n" % peer


def accept(peer, credit):
    return b"NATS/1.0\r\nMesh-Stream: %b\r\nMesh-Credit: %b\r\n\r\n" % (peer, credit)


@pytest.fixture
async def conversation(nats_url, prefix):
    async with Bus(BusSettings(servers=(nats_url,), prefix="mesh")) as bus:
        streams = Streams(bus)
        conversation = Conversation(streams.call(), bus.subjects, "i1")
        yield conversation
        conversation.close()
        await streams.aclose()


def room(conversation):
    """Bytes that may be sent, at most 1000."""
    return conversation.stream._out.room(1000)


@pytest.mark.parametrize("first", [head(MINE), accept(MINE, b"0")], ids=["head", "acceptance"])
async def test_a_credit_after_the_first_word_is_taken_from_the_same_instance_alone(conversation, first):
    say = conversation.stream.deliver
    say(first, b"")
    assert conversation.begun
    for forged in (accept(OTHER, b"5000"), accept(MINE, b"-1"), accept(MINE, b"9" * 30)):
        say(forged, b"")
        assert (conversation.stream.peer, room(conversation)) == (MINE, -1)
    say(accept(MINE, b"5000"), b"")
    assert room(conversation) == 1000
    say(accept(MINE, b"1"), b"")  # credits are totals: it takes nothing away
    assert room(conversation) == 1000


async def test_a_late_acceptance_of_a_call_that_has_its_answer_does_nothing(conversation):
    say = conversation.stream.deliver
    say(b"NATS/1.0\r\nMesh-Status: 200\r\n\r\n", b"done")
    say(accept(MINE, b"5000"), b"")
    assert (conversation.streamed, conversation.stream.peer, room(conversation)) == (False, b"", -1)
