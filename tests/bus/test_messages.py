"""Messages of the bus against a real server, on the hot lane and on plain nats-py alike."""

import asyncio

import pytest

from mesh.errors import BadSubject, BusUnavailable, NoResponders, TooLarge
from tests.bus.parts import OK, bus_on, cut, echo
from tests.failures.wires import NatsWire


async def test_request_and_reply(nats_url, prefix, lane):
    async with bus_on(nats_url, lane) as caller, bus_on(nats_url, lane) as responder:
        await echo(responder, f"{prefix}.echo")
        address = caller.address(f"{prefix}.echo")
        for size in (0, 1, 1000, 100_000, 1_000_000):
            reply = await caller.request(address, b"x" * size, timeout=5)
            assert reply.payload == b"x" * size
        assert len(caller.requests) == 0


async def test_nobody_listens_is_known_at_once(nats_url, prefix, lane):
    async with bus_on(nats_url, lane) as bus:
        began = asyncio.get_running_loop().time()
        for lenient in (False, True):
            with pytest.raises(NoResponders):
                await bus.request(bus.address(f"{prefix}.nobody"), b"", timeout=30, lenient=lenient)
        assert asyncio.get_running_loop().time() - began < 5


async def test_repeated_headers_survive_the_lane(nats_url, prefix):
    async with bus_on(nats_url) as bus:
        await echo(bus, f"{prefix}.echo")
        block = b"NATS/1.0\r\nMesh-Status: 200\r\nset-cookie: a\r\nset-cookie: b\r\nx: caf\xc3\xa9\r\n\r\n"
        reply = await bus.request(bus.address(f"{prefix}.echo"), b"", block, timeout=5)
        assert reply.block == block


async def test_too_large_is_refused_before_the_server_closes_the_connection(nats_url, prefix, lane):
    """nats-py checks the payload only; headers and payload over max_payload close the client for good."""
    async with bus_on(nats_url, lane) as bus:
        await echo(bus, f"{prefix}.echo")
        address = bus.address(f"{prefix}.echo")
        exact = bus.max_payload - len(OK)
        assert len((await bus.request(address, b"x" * exact, OK, timeout=5)).payload) == exact
        with pytest.raises(TooLarge, match=str(bus.max_payload)):
            await bus.request(address, b"x" * (exact + 1), OK, timeout=5)
        assert len(bus.requests) == 0
        assert (await bus.request(address, b"still here", timeout=5)).payload == b"still here"


async def test_subjects_are_checked_before_publishing(nats_url):
    async with bus_on(nats_url) as bus:
        for subject in ("a b", "a\x0bb", "x" * 4090, "a..b", "", "a.>"):
            with pytest.raises(BadSubject):
                bus.address(subject)
        with pytest.raises(BadSubject):
            await bus.subscribe("a\x0cb", lambda *_: None)


async def test_messages_of_a_queue_group_go_to_one(nats_url, prefix, lane):
    async with bus_on(nats_url, lane) as bus:
        counts = [0, 0]

        def take(which):
            def deliver(subject, reply, block, payload):
                counts[which] += 1
                bus.reply(reply, b"", OK)

            return deliver

        for which in (0, 1):
            await bus.subscribe(f"{prefix}.work", take(which), queue="q")
        await bus.flush()
        address = bus.address(f"{prefix}.work")
        await asyncio.gather(*(bus.request(address, b"", timeout=5) for _ in range(200)))
        assert sum(counts) == 200
        assert min(counts) > 20


async def test_unsubscribe_returns_after_the_last_message(nats_url, prefix, lane):
    async with bus_on(nats_url, lane) as sender, bus_on(nats_url, lane) as receiver:
        got = []
        subscription = await receiver.subscribe(f"{prefix}.s", lambda s, r, b, payload: got.append(payload))
        await receiver.flush()
        for i in range(1000):
            sender.publish(sender.address(f"{prefix}.s"), b"%d" % i)
        await sender.flush()
        await receiver.unsubscribe(subscription)
        assert len(got) == 1000
        sender.publish(sender.address(f"{prefix}.s"), b"after")
        await sender.flush()
        await receiver.flush()
        assert len(got) == 1000


async def test_a_callback_that_fails_harms_nobody(nats_url, prefix, lane):
    async with bus_on(nats_url, lane) as bus:
        got = []

        def fail(subject, reply, block, payload):
            got.append(payload)
            raise RuntimeError("boom")

        await bus.subscribe(f"{prefix}.fail", fail)
        await echo(bus, f"{prefix}.echo")
        for _ in range(3):
            bus.publish(bus.address(f"{prefix}.fail"), b"x")
        assert (await bus.request(bus.address(f"{prefix}.echo"), b"y", timeout=5)).payload == b"y"
        await bus.flush()
        assert got == [b"x"] * 3


async def test_replies_are_kept_for_a_moment_and_bounded(nats, prefix):
    async with bus_on(nats.url) as bus:
        await cut(bus, nats)
        for _ in range(5):
            bus.reply(b"_INBOX.x", b"x" * 500_000, OK)
        assert bus.statistics()["dropped_replies"] == 1
        with pytest.raises(TooLarge):
            bus.reply(b"_INBOX.x", b"x" * 2_000_000, OK)


async def test_bytes_from_a_hostile_client_leave_the_lane_working(nats_url, prefix):
    """Each of these ends nats-py's read loop, some without is_connected ever becoming false."""
    async with bus_on(nats_url) as bus:
        subject = prefix.encode()
        await echo(bus, f"{prefix}.>")
        for hostile in (
            b"HPUB %b.a 8 8\r\nNATS/1.0\r\n" % subject,
            b"HPUB %b.a 14 14\r\nNATS/1.0 \xff\xff\xff\r\n\r\n" % subject,
            b"HPUB %b.a 30 30\r\nNATS/1.0\r\n: no name\r\n\xff\xfe: x\r\n\r\n" % subject,
            b"PUB %b.\xff\xfe 1\r\nx\r\n" % subject,
            b"PUB %b.a\x0bb 1\r\nx\r\n" % subject,
            b"PUB %b.a \xff\xfe 1\r\nx\r\n" % subject,
            b"PUB %b.a re\x0bply 1\r\nx\r\n" % subject,
        ):
            async with NatsWire(nats_url) as raw:
                await raw.send(hostile)
            assert (await bus.request(bus.address(f"{prefix}.ok"), b"alive", timeout=5)).payload == b"alive"
        assert bus.statistics()["reconnects"] == 0


async def test_hostile_bytes_for_nats_pys_own_subscriptions_are_dropped(nats_url, prefix):
    """JetStream and the like still use nats-py's reader: what would end it never gets there."""
    async with bus_on(nats_url) as bus, NatsWire(nats_url) as raw:
        await bus.jetstream_client().subscribe(f"{prefix}.cold.*")
        await bus.flush()
        await raw.send(b"HPUB %b.cold.a 8 8\r\nNATS/1.0\r\n" % prefix.encode())
        await raw.send(b"PUB %b.cold.a\x0bb 1\r\nx\r\n" % prefix.encode())
        await bus.flush()
        await bus.flush()
        assert bus.statistics()["dropped_frames"] == 2
        assert bus.statistics()["reconnects"] == 0


async def test_nothing_published_while_disconnected_is_delivered_later(nats, prefix, lane):
    """nats-py would keep up to 2 MiB and have services run requests whose callers have gone."""
    async with bus_on(nats.url, lane) as bus:
        got = []
        await bus.subscribe(f"{prefix}.s", lambda s, r, b, payload: got.append(payload))
        await cut(bus, nats)
        for _ in range(3):
            with pytest.raises(BusUnavailable):
                bus.publish(bus.address(f"{prefix}.s"), b"stale")
        await nats.start()
        await bus.wait_connected(10)
        bus.publish(bus.address(f"{prefix}.s"), b"fresh")
        await bus.flush()
        assert got == [b"fresh"]


async def test_an_unsubscription_ends_nothing_on_the_client_that_came_meanwhile(nats_url, prefix):
    """Each client counts its subscriptions from one: the same number is another subscription there."""
    async with bus_on(nats_url) as bus, bus_on(nats_url) as other:
        ended = await bus.subscribe(f"{prefix}.ended", lambda *message: None)
        number = b"%d" % ended.handle._id
        subscriptions, next_one = bus._subscriptions, other._fast_transport
        next_one.frames.callbacks[number] = lambda *message: None

        async def flush():
            subscriptions._fast_transport = next_one

        before, last = set(next_one.frames.callbacks), subscriptions._fast_transport
        await subscriptions.remove((ended,), flush)
        subscriptions._fast_transport = last
        assert set(next_one.frames.callbacks) == before
        assert number not in last.frames.callbacks
