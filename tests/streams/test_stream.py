"""Two ends of a stream on a real bus."""

import asyncio
import gc
import hashlib
import os

import pytest
import pytest_asyncio

from mesh.bus import Bus
from mesh.defaults import FIRST_CREDIT
from mesh.embedded import NatsServer
from mesh.errors import BadReply, BusUnavailable, Conflict, InstanceLost, StreamBroken
from mesh.settings import BusSettings
from mesh.streams import Streams, frames
from mesh.streams.flow_control import SMALLEST_WINDOW
from tests.conditions import eventually


class Pair:
    """A caller's and an instance's end, each on a bus of its own, connected as a handshake would do it."""

    def __init__(self, url, prefix, lane="auto"):
        settings = BusSettings(servers=(url,), prefix=prefix, lane=lane)
        self.buses = [Bus(settings), Bus(settings, service="files")]
        self.hubs = []

    async def __aenter__(self):
        for bus in self.buses:
            await bus.__aenter__()
        self.hubs = [Streams(bus) for bus in self.buses]
        await self.hubs[1].start()
        await self.buses[1].flush()
        return self

    async def __aexit__(self, *_):
        for hub in self.hubs:
            await hub.aclose()
        for bus in self.buses:
            await bus.aclose()

    def open(self):
        caller = self.hubs[0].open()
        callee = self.hubs[1].accept(caller.own_subject, FIRST_CREDIT)
        caller.connect(callee.own_subject, callee.window)
        return caller, callee


@pytest_asyncio.fixture(params=["auto", "plain"])
async def pair(request, nats_url, prefix):
    async with Pair(nats_url, prefix, request.param) as pair:
        yield pair


async def everything(stream):
    parts = []
    while (frame := await stream.read()) is not None:
        parts.append(frame.payload)
    return b"".join(parts)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 5_000_000])
async def test_both_directions_carry_everything(pair, size):
    caller, callee = pair.open()
    up, down = os.urandom(size), os.urandom(size)

    async def send(stream, body):
        await stream.write(body)
        stream.end()

    _, _, got_up, got_down = await asyncio.gather(
        send(caller, up), send(callee, down), everything(callee), everything(caller)
    )
    assert hashlib.sha256(got_up).digest() == hashlib.sha256(up).digest()
    assert hashlib.sha256(got_down).digest() == hashlib.sha256(down).digest()
    assert [len(hub) for hub in pair.hubs] == [0, 0]


async def test_a_slow_reader_slows_the_writer(pair):
    caller, callee = pair.open()
    writing = asyncio.ensure_future(callee.write(bytes(10_000_000)))
    await eventually(lambda: callee.is_out_of_credit)
    await pair.buses[1].flush()
    await pair.buses[0].flush()
    assert callee._outflow.spent <= FIRST_CREDIT
    taken = 0
    while taken < 5_000_000:
        taken += len((await caller.read()).payload)
    assert callee._outflow.spent - taken <= caller.window
    assert not writing.done()
    writing.cancel()
    callee.close()
    with pytest.raises(StreamBroken):
        await everything(caller)


async def test_messages_keep_their_bounds(pair):
    caller, callee = pair.open()
    await caller.write(b"hello", frames.TEXT)
    await caller.write(b"", frames.BINARY)
    await caller.write(bytes(150_000), frames.BINARY)
    got = [await callee.read() for _ in range(5)]
    assert [(f.kind, len(f.payload)) for f in got] == [
        (b"text", 5),
        (b"binary", 0),
        (b"binary+", 65_536),
        (b"binary+", 65_536),
        (b"binary", 18_928),
    ]
    caller.end(frames.CLOSE, b'{"code": 1000}')
    assert (await callee.read()).kind == frames.CLOSE
    assert await callee.read() is None


@pytest.mark.parametrize("side", [0, 1])
async def test_who_gives_up_is_heard_by_reader_and_writer(pair, side):
    ends = pair.open()
    quitter, other = ends[side], ends[1 - side]
    heard = []
    other.listen(broken=heard.append)
    reading = asyncio.ensure_future(other.read())
    writing = asyncio.ensure_future(other.write(bytes(1_000_000)))
    await eventually(lambda: other.is_out_of_credit)
    quitter.abort(Conflict("enough"))
    with pytest.raises(Conflict, match="enough"):
        await reading
    with pytest.raises(Conflict):
        await writing
    assert isinstance(heard[0], Conflict)
    assert [len(hub) for hub in pair.hubs] == [0, 0]


async def test_an_end_that_is_missing_becomes_an_abort(pair):
    caller, callee = pair.open()
    await callee.write(b"all that there is, it seems")
    callee.close()
    assert (await caller.read()).payload
    with pytest.raises(StreamBroken, match="closed the stream"):
        await caller.read()


@pytest.mark.parametrize("mishap", ["lost", "twice", "swapped"])
async def test_a_mishap_on_the_bus_ends_in_an_error(pair, mishap):
    caller, callee = pair.open()
    send, held = pair.hubs[1].send, []

    def faulty(stream, block, payload):
        if stream.own_subject == callee.own_subject and b" data" in block:
            held.append((block, payload))
            if len(held) == 3:
                if mishap == "lost":
                    return
                if mishap == "twice":
                    send(stream, block, payload)
                if mishap == "swapped":
                    return
            elif len(held) == 4 and mishap == "swapped":
                send(stream, block, payload)
                block, payload = held[2]
        send(stream, block, payload)

    pair.hubs[1].send = faulty

    async def write():
        for number in range(10):
            await callee.write(b"%d" % number)
        callee.end()

    writing = asyncio.ensure_future(write())
    with pytest.raises(StreamBroken, match="was due"):
        await everything(caller)
    await asyncio.gather(writing, return_exceptions=True)
    await eventually(lambda: [len(hub) for hub in pair.hubs] == [0, 0])


@pytest.mark.parametrize("side", [0, 1])
async def test_a_peer_that_dies_is_noticed(nats_url, prefix, side):
    async with Pair(nats_url, prefix) as pair:
        ends = pair.open()
        reading = asyncio.ensure_future(ends[1 - side].read())
        await pair.buses[side].aclose()
        pair.hubs[side]._open.clear()
        with pytest.raises(InstanceLost, match="died"):
            await asyncio.wait_for(reading, 10)


async def test_a_writer_to_nobody_stops(pair):
    """The reader forgot the stream without a word: whoever still sends is told."""
    caller, callee = pair.open()
    pair.hubs[0].remove(caller)
    with pytest.raises(StreamBroken, match="over"):
        await callee.write(bytes(10_000_000))


async def test_a_lost_bus_breaks_all_streams_at_once():
    async with NatsServer() as server, Pair(server.url, "mesh") as pair:
        caller, callee = pair.open()
        reads = [asyncio.ensure_future(end.read()) for end in (caller, callee)]
        await server.kill()
        for read in reads:
            with pytest.raises(BusUnavailable):
                await asyncio.wait_for(read, 5)
        assert [len(hub) for hub in pair.hubs] == [0, 0]


async def test_a_frame_from_nowhere_and_frames_to_strangers(pair):
    """A reply cannot make us send frames to a subject of its choice."""
    hub = pair.hubs[0]
    for peer in (b"mesh.announce.a.b", b"$SYS.x", b"elsewhere.x", b"a b", b"*"):
        block = b"NATS/1.0\r\nMesh-Status: 200\r\nMesh-Stream: %b\r\n\r\n" % peer
        with pytest.raises(BadReply):
            hub.adopt(b"mesh.inbox.x.y.z.1", block)
    hub.refuse_orphan(b"mesh.announce.a.b", frames.block(1, frames.DATA))


async def test_windows_shrink_while_many_are_open_and_nothing_stays(pair):
    hub = pair.hubs[0]
    streams = [hub.open() for _ in range(2000)]
    assert streams[-1].window == SMALLEST_WINDOW
    for stream in streams:
        stream.close()
    assert len(hub) == 0
    assert len(pair.buses[0].requests._listeners) <= 1  # plain nats-py has a stream of its own to see the server live
    del streams, stream
    gc.collect()


async def test_a_bus_has_its_streams_once(pair):
    """A second owner would take over the replies of the first one silently."""
    with pytest.raises(RuntimeError, match="have an owner already"):
        Streams(pair.buses[0])
