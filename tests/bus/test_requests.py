import asyncio
import gc
import weakref

import pytest

from mesh.bus.pending import Reply
from mesh.bus.requests import Requests
from mesh.errors import BusUnavailable, DeadlineExceeded, InstanceLost, NoResponders

OK = b"NATS/1.0\r\nMesh-Status: 200\r\n\r\n"
NOBODY = b"NATS/1.0 503\r\nNats-Subject: x\r\n\r\n"


@pytest.fixture
async def requests():
    requests = Requests("mesh.inbox.client.I1.random")
    yield requests
    requests.aclose()
    assert len(requests) == 0


async def test_a_reply_ends_its_request_and_nothing_else(requests):
    first, second = requests.open(5), requests.open(5)
    requests.deliver(second.reply, b"", OK, b"two")
    assert await second.future == Reply(OK, b"two")
    assert not first.future.done()
    assert len(requests) == 1
    requests.close(first)


async def test_tokens_are_unguessable_and_differ(requests):
    tokens = {requests.new_token() for _ in range(5000)}
    assert len(tokens) == 5000
    ordered = sorted(int(token, 16) for token in tokens)
    assert ordered[-1] - ordered[0] > 2**47  # spread over 48 bits, no counter


async def test_no_responders(requests):
    pending = requests.open(5)
    requests.deliver(pending.reply, b"", NOBODY, b"")
    with pytest.raises(NoResponders):
        await pending.future


async def test_a_header_named_status_is_no_no_responders(requests):
    pending = requests.open(5, lenient=True)
    requests.deliver(pending.reply, b"", b"NATS/1.0\r\nStatus: 503\r\n\r\n", b"")
    assert (await pending.future).payload == b""


async def test_a_reply_without_status_is_ignored(requests):
    pending = requests.open(5)
    requests.deliver(pending.reply, b"", b"", b'{"stream":"S","seq":1}')  # a PubAck
    assert not pending.future.done()
    assert requests.ignored == 1
    requests.deliver(pending.reply, b"", OK.replace(b"Mesh-Status", b"mesh-status"), b"real")
    assert (await pending.future).payload == b"real"


async def test_a_value_that_names_the_status_is_no_status(requests):
    pending = requests.open(5)
    requests.deliver(pending.reply, b"", b"NATS/1.0\r\nX-Note: mesh-status: 200\r\n\r\n", b"of a stranger")
    assert not pending.future.done()
    assert requests.ignored == 1
    requests.close(pending)


async def test_deadlines_in_order_and_not_early(requests):
    loop = asyncio.get_running_loop()
    ended = []

    async def wait(timeout):
        began = loop.time()
        with pytest.raises(DeadlineExceeded):
            await requests.open(timeout).future
        assert loop.time() - began >= timeout
        ended.append(timeout)

    await asyncio.gather(*(wait(t) for t in (0.09, 0.03, 0.06)))
    assert ended == [0.03, 0.06, 0.09]
    assert len(requests) == 0


async def test_a_cancelled_caller_leaves_nothing(requests):
    pending = requests.open(5)
    waiting = asyncio.ensure_future(pending.future)
    waiting.cancel()
    requests.close(pending)
    assert len(requests) == 0
    requests.deliver(pending.reply, b"", OK, b"late")
    assert requests.late == 1


async def test_a_lost_connection_ends_all_at_once(requests):
    waits = [requests.open(60).future for _ in range(10)]
    requests.fail_all(lambda: BusUnavailable("gone", executed="unknown"))
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(r) for r in results] == [BusUnavailable] * 10
    assert len({id(r) for r in results}) == 10  # one error object each: they are raised and changed separately
    assert len(requests) == 0


async def test_a_lost_instance_ends_its_requests_only(requests):
    one, two = requests.open(60), requests.open(60)
    one.address, two.address = b"mesh.to.users.I1.get", b"mesh.to.users.I12.get"
    requests.fail_prefix(b"mesh.to.users.I1.", lambda: InstanceLost("dead"))
    with pytest.raises(InstanceLost):
        await one.future
    assert not two.future.done()
    requests.close(two)


async def test_a_hundred_thousand_end_without_a_trace(requests):
    for i in range(100_000):
        pending = requests.open(30)
        if i % 2:
            requests.close(pending)
        else:
            requests.deliver(pending.reply, b"", OK, b"")
    assert len(requests) == 0
    assert sum(len(bucket) for bucket in requests._buckets.values()) == 0


async def test_a_listener_gets_every_reply_until_it_stops(requests):
    got = []
    reply = requests.new_reply()
    requests.listen(reply, lambda block, payload: got.append(payload))
    requests.deliver(reply, b"", b"", b"1")
    requests.deliver(reply, b"", OK, b"2")
    requests.stop_listening(reply)
    requests.deliver(reply, b"", b"", b"3")
    assert got == [b"1", b"2"]


class Waits:
    """What waits for a reply: a client's connection, say."""

    stream = None

    def settle(self, ending):
        pass


@pytest.mark.parametrize("end", ["closed", "answered"])
async def test_nothing_that_waited_outlives_its_request_in_what_is_remembered_of_a_bundle(requests, end):
    """The first of a bundle ends unheard: the others are remembered until that happens again, which may be never."""
    waits = [Waits() for _ in range(3)]
    first, *others = [requests.expect(5, one.settle) for one in waits]
    first.bundled_with = others
    seen = [weakref.ref(one) for one in waits]
    for pending in others:
        pending.stream = waits[0]
        pending.on_suspected_loss = waits[0].settle
    requests.close(first)
    for pending in others:
        if end == "closed":
            requests.close(pending)
        else:
            requests.deliver(pending.reply, b"", OK, b"")
    assert len(requests) == 0
    del waits, first, others, pending
    gc.collect()
    assert [one() for one in seen] == [None] * 3
