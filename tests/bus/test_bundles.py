"""Bundles: several small messages to one receiver in one NATS message."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.bus import Bus, bundles
from mesh.bus.bundles import MAX_BUNDLE, MAX_MESSAGE, BadBundle, BundledMessage, encode, unpack
from mesh.bus.bundling import BoundedSet
from mesh.bus.pending import Reply
from mesh.bus.requests import Requests
from mesh.bus.write_queue import REQUESTS_PER_WRITE
from mesh.errors import DeadlineExceeded, Forbidden, NoResponders, TooLarge
from mesh.settings import BusSettings
from tests.bus.parts import OK, bus_on
from tests.conditions import eventually

BLOCK = b"NATS/1.0\r\nMesh-Deadline: 5000\r\n\r\n"
NOBODY = b"NATS/1.0 503\r\n\r\n"
NAMES = st.from_regex(rb"\A[A-Za-z0-9_-]{1,64}\Z")
MESSAGES = st.lists(st.tuples(NAMES, NAMES, st.binary(max_size=50), st.binary(max_size=200)), min_size=2, max_size=20)


# -- the format


@given(MESSAGES)
def test_what_goes_in_comes_out(messages):
    bundle = [
        BundledMessage(b"%b %b" % (name, token), b"", b"NATS/1.0\r\n" + block, payload, None)
        for name, token, block, payload in messages
    ]
    command, _, payload = b"".join(encode(b"mesh.to.users.i1.", bundle)).partition(b"\r\n")
    subject, size = command.split()[1], int(command.split()[-1])
    assert (subject, len(payload)) == (b"mesh.to.users.i1.+", size + 2)
    assert list(unpack(payload[:-2], 2)) == [
        ([name, token], b"NATS/1.0\r\n" + block, data) for name, token, block, data in messages
    ]


def test_a_message_alone_is_an_ordinary_one():
    request = BundledMessage(b"get t1", b"mesh.inbox.a.b.c.t1", BLOCK, b"body", None)
    command = b"HPUB mesh.to.users.i1.get mesh.inbox.a.b.c.t1 %d %d\r\n" % (len(BLOCK), len(BLOCK) + 4)
    assert b"".join(encode(b"mesh.to.users.i1.", [request])) == command + BLOCK + b"body\r\n"
    reply = BundledMessage(b"t1", b"", OK, b"", None)
    command = b"HPUB mesh.inbox.a.b.c.t1 %d %d\r\n" % (len(OK), len(OK))
    assert b"".join(encode(b"mesh.inbox.a.b.c.", [reply])) == command + OK + b"\r\n"


def test_the_example_of_the_docstring_is_what_is_written():
    messages = [
        BundledMessage(b"get t1", b"mesh.inbox.gateway.G1.a1b2.t1", b"NATS/1.0\r\n\r\n", b"", None),
        BundledMessage(b"add t2", b"mesh.inbox.gateway.G1.a1b2.t2", b"NATS/1.0\r\n\r\n", b'{"name":"Ada"}', None),
    ]
    shown = [line.strip() for line in bundles.__doc__.partition("as the bytes of one PUB")[2].splitlines()[2:6]]
    written = b"".join(encode(b"mesh.to.users.I1.", messages))
    assert written.replace(b"\r\n", b"\\r\\n").decode() == "".join(shown)


@pytest.mark.parametrize(
    "broken",
    [
        b"x",
        b"\r\n",
        b"get t1\r\n",
        b"get t1 0 0\r\n",
        b"get t1 0 0\r\nxx",
        b"get t1 5 3\r\nabc\r\n",
        b"get t1 -5 3\r\nabc\r\n",
        b"get t1 0 -7\r\nabc\r\n",
        b"get t1 0 99\r\nabc\r\n",
        b"t1 0 3\r\nabc\r\n",
        b"get t1 more 0 3\r\nabc\r\n",
        b"get t1 a b\r\nabc\r\n",
        b"x" * (MAX_BUNDLE + 1),
    ],
)
def test_what_is_broken_is_refused_where_it_breaks(broken):
    whole = b"get t0 0 2\r\nok\r\n"
    found = []
    with pytest.raises(BadBundle):
        found.extend(message for message in unpack(whole + broken, 2))
    assert found == ([([b"get", b"t0"], b"", b"ok")] if len(broken) < MAX_BUNDLE else [])


@given(st.binary(max_size=100))
@example(b"a b 0 0\r\n\r\n" * 3)
def test_any_bytes_end_in_messages_or_a_refusal(data):
    try:
        messages = list(unpack(data, 2))
    except BadBundle:
        return
    assert sum(len(block) + len(payload) for _, block, payload in messages) <= len(data)


def test_who_takes_bundles_is_remembered_for_a_bounded_number():
    takers = BoundedSet()
    for number in range(3 * BoundedSet.MAX):
        takers.remember(b"%d" % number)
        assert len(takers) <= BoundedSet.MAX
    assert b"%d" % (3 * BoundedSet.MAX - 1) in takers


# -- nobody listens


@pytest.fixture
async def requests():
    requests = Requests("mesh.inbox.client.I1.random")
    yield requests
    requests.aclose()


def three(requests, timeout=5.0):
    """Requests as they are after they were sent in one bundle, and what they ended with."""
    endings = [[], [], []]
    pending = [requests.expect(timeout, ending.append) for ending in endings]
    pending[0].bundled_with = pending[1:]
    return pending, endings


def kinds(endings):
    return [[type(ending) for ending in of_one] for of_one in endings]


async def test_nobody_listens_ends_all_of_a_bundle(requests):
    pending, endings = three(requests)
    requests.deliver(pending[0].reply, b"", NOBODY, b"")
    assert kinds(endings) == [[NoResponders]] * 3
    assert len(requests) == 0


async def test_nobody_listens_is_heard_though_the_first_was_cancelled(requests):
    pending, endings = three(requests)
    requests.close(pending[0])
    requests.deliver(pending[0].reply, b"", NOBODY, b"")
    assert kinds(endings) == [[], [NoResponders], [NoResponders]]


async def test_nobody_listens_is_heard_though_the_first_was_cancelled_before_its_bundle_was_written(pair):
    """The bus knows who was together when the bundle is written: the first may have ended by then."""
    caller, callee, _, place = pair
    endings = [[], [], []]
    pending = [send(caller, place, b"get", settle=ending.append) for ending in endings]
    assert caller._fast_transport.queue._bundles
    caller.requests.close(pending[0])
    await caller.flush()
    callee.publish(pending[0].reply, b"", NOBODY)
    await eventually(lambda: endings[2])
    assert kinds(endings) == [[], [NoResponders], [NoResponders]]


async def test_nobody_listens_is_heard_though_the_first_gave_up(requests):
    pending, endings = three(requests)
    hasty = requests.expect(0.001, endings[0].append)
    hasty.bundled_with = pending[1:]
    await eventually(lambda: endings[0])
    requests.deliver(hasty.reply, b"", NOBODY, b"")
    assert kinds(endings) == [[DeadlineExceeded], [NoResponders], [NoResponders]]
    requests.close(pending[0])


async def test_an_answer_ends_one_of_a_bundle(requests):
    pending, endings = three(requests)
    requests.deliver(pending[0].reply, b"", OK, b"")
    requests.deliver(pending[0].reply, b"", NOBODY, b"")  # a forgery: it was delivered
    assert kinds(endings) == [[Reply], [], []]
    for one in pending:
        requests.close(one)


async def test_firsts_that_were_cancelled_are_forgotten(requests):
    for _ in range(1000):
        pending, _ = three(requests)
        for one in pending:
            requests.close(one)
    pending, _ = three(requests)
    requests.close(pending[0])
    assert len(requests._headless) == 1
    for one in pending:
        requests.close(one)


async def test_a_permission_that_is_missing_ends_all_of_a_bundle(requests):
    pending, endings = three(requests)
    other, alone = requests.expect(5, [].append), requests.expect(5, [].append)
    alone.address = b"mesh.to.Users.I1.a"  # it went by itself
    for one, name in zip(pending, (b"a", b"b", b"c"), strict=True):
        one.address = b"mesh.to.Users.I1." + name
    other.address = b"mesh.to.Users.I2.a"
    requests.fail_address(b"mesh.to.users.i1.+", lambda: Forbidden("no"))
    assert kinds(endings) == [[Forbidden]] * 3
    assert len(requests) == 2
    requests.close(other)
    requests.close(alone)


async def test_replies_in_a_bundle_reach_who_waits_and_a_broken_rest_is_dropped(requests, caplog):
    pending, endings = three(requests)
    frames = b"".join(
        b"%b %d %d\r\n%b%d\r\n" % (p.token, len(OK), len(OK) + 1, OK, n) for n, p in enumerate(pending[:2])
    )
    requests.deliver(b"mesh.inbox.client.I1.random.+", b"", b"", frames + b"%b 0 99\r\n" % pending[2].token)
    assert endings == [[Reply(OK, b"0")], [Reply(OK, b"1")], []]
    assert "dropped replies" in caplog.text
    requests.close(pending[2])


# -- over a real server


class Listener:
    """What arrives on the wire for ``mesh.to.users.I1.*``."""

    def __init__(self):
        self.messages = []

    async def start(self, bus, prefix):
        await bus.subscribe(f"{prefix}.to.users.I1.*", lambda *message: self.messages.append(message))
        await bus.flush()


@pytest.fixture
async def pair(nats_url, prefix):
    async with bus_on(nats_url, prefix=prefix) as caller, bus_on(nats_url, prefix=prefix) as callee:
        listener = Listener()
        await listener.start(callee, prefix)
        yield caller, callee, listener, f"{prefix}.to.users.I1.".encode()


def send(bus, place, name, body=b"", settle=lambda ending: None):
    return bus.send(place + name, body, BLOCK, 5, settle, bundle_prefix=place)


async def test_requests_of_one_turn_share_a_message(pair):
    caller, _callee, listener, place = pair
    pending = [send(caller, place, b"get", b"%d" % number) for number in range(3)]
    await eventually(lambda: listener.messages)
    ((subject, reply, block, payload),) = listener.messages
    assert (subject, reply, block) == (place + b"+", pending[0].reply, b"")
    assert list(unpack(payload, 2)) == [([b"get", p.token], BLOCK, b"%d" % n) for n, p in enumerate(pending)]
    for one in pending:
        caller.requests.close(one)


async def test_many_requests_are_written_before_the_turn_ends(pair):
    """So the receiver begins while the sender collects the rest: with two cores, a fifth more in a second."""
    caller, _callee, listener, place = pair
    lane = caller._fast_transport
    pending = []
    for number in range(2 * REQUESTS_PER_WRITE + 3):
        written = lane.queue.bytes_out
        pending.append(send(caller, place, b"get", b"%d" % number))
        assert (lane.queue.bytes_out > written) == ((number + 1) % REQUESTS_PER_WRITE == 0)
    await eventually(lambda: len(listener.messages) == 3)
    bodies = [[body for _, _, body in unpack(payload, 2)] for _, _, _, payload in listener.messages]
    assert [len(of_one) for of_one in bodies] == [REQUESTS_PER_WRITE, REQUESTS_PER_WRITE, 3]
    assert [body for of_one in bodies for body in of_one] == [b"%d" % number for number in range(len(pending))]
    for one in pending:
        caller.requests.close(one)


async def test_a_request_alone_goes_as_it_is(pair):
    caller, _callee, listener, place = pair
    pending = send(caller, place, b"get", b"body")
    await eventually(lambda: listener.messages)
    assert listener.messages == [(place + b"get", pending.reply, BLOCK, b"body")]
    caller.requests.close(pending)


async def test_replies_share_a_message_once_their_caller_sent_a_bundle(pair):
    caller, callee, listener, place = pair
    for expected in (3, 1):  # messages with replies
        endings = []
        pending = [send(caller, place, b"get", b"", endings.append) for _ in range(3)]
        await eventually(lambda: listener.messages)
        listener.messages.clear()
        before = caller.statistics()["in_msgs"]
        for one in pending:
            callee.reply(one.reply, one.token, OK)
        await eventually(lambda endings=endings: len(endings) == 3)
        assert [ending.payload for ending in endings] == [one.token for one in pending]
        assert caller.statistics()["in_msgs"] - before == expected
        callee._bundle_peers.inboxes.remember(pending[0].reply[: pending[0].reply.rindex(b".") + 1])


async def test_messages_keep_their_order_whatever_is_bundled(pair):
    caller, _callee, listener, place = pair
    first = [send(caller, place, b"get", b"%d" % number) for number in (0, 1)]
    caller.publish(place + b"plain", b"2")
    second = [send(caller, place, b"get", b"%d" % number) for number in (3, 4)]
    large = send(caller, place, b"get", b"5" * (MAX_MESSAGE + 1))
    await eventually(lambda: len(listener.messages) == 4)
    seen = []
    for subject, _, _, payload in listener.messages:
        bundled = subject.endswith(b"+")
        seen += [body[:1] for _, _, body in unpack(payload, 2)] if bundled else [payload[:1]]
    assert b"".join(seen) == b"012345"
    for one in (*first, *second, large):
        caller.requests.close(one)


async def test_a_bundle_has_its_size_and_large_messages_go_by_themselves(pair):
    caller, _callee, listener, place = pair
    body = b"x" * 10_000
    pending = [send(caller, place, b"get", body) for _ in range(20)]
    await eventually(lambda: sum(len(list(unpack(m[3], 2))) for m in listener.messages) == 20)
    assert len(listener.messages) == 4
    assert all(len(payload) <= MAX_BUNDLE for _, _, _, payload in listener.messages)
    for one in pending:
        caller.requests.close(one)


async def test_nobody_listens_is_known_at_once_for_a_whole_bundle(nats_url, prefix):
    async with bus_on(nats_url, prefix=prefix) as caller:
        endings = []
        place = f"{prefix}.to.users.I1.".encode()
        for _ in range(3):
            send(caller, place, b"get", b"", endings.append)
        await eventually(lambda: len(endings) == 3)
        assert kinds([endings]) == [[NoResponders] * 3]


async def test_a_lost_connection_ends_what_was_not_sent_yet(nats, prefix):
    async with bus_on(nats.url, prefix=prefix) as caller:
        endings = []
        place = f"{prefix}.to.users.I1.".encode()
        send(caller, place, b"get", b"", endings.append)
        send(caller, place, b"get", b"", endings.append)
        caller._fast_transport.abort()
        caller._fast_transport.lost(caller._fast_transport._protocol)
        assert not caller._fast_transport.queue._bundles
        await eventually(lambda: len(endings) == 2)
        assert len(caller.requests) == 0
        await caller.wait_connected(10)


@pytest.mark.parametrize("settings", [{"bundles": False}, {"lane": "plain"}], ids=["off", "plain nats-py"])
async def test_where_bundles_are_off_every_request_is_a_message(nats_url, prefix, settings):
    async with (
        Bus(BusSettings(servers=(nats_url,), prefix=prefix, **settings)) as caller,
        bus_on(nats_url, prefix=prefix) as callee,
    ):
        listener = Listener()
        await listener.start(callee, prefix)
        place = f"{prefix}.to.users.I1.".encode()
        pending = [send(caller, place, b"get") for _ in range(3)]
        await eventually(lambda: len(listener.messages) == 3)
        assert {subject for subject, *_ in listener.messages} == {place + b"get"}
        for one in pending:
            caller.requests.close(one)


async def test_what_a_slow_server_does_not_take_is_sent_by_itself_and_counted(pair):
    caller, _callee, listener, place = pair
    lane = caller._fast_transport
    lane.queue.pause()
    pending = [send(caller, place, b"get", b"1") for _ in range(3)]
    assert caller.buffered > 0
    lane.queue.resume()
    await eventually(lambda: len(listener.messages) == 3)
    for one in pending:
        caller.requests.close(one)


async def test_too_large_is_still_refused_before_it_is_sent(pair):
    caller, _, _, place = pair
    with pytest.raises(TooLarge):
        send(caller, place, b"get", b"x" * (2 * 1024 * 1024))
    assert len(caller.requests) == 0
    await asyncio.wait_for(caller.flush(), 5)
