import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.bus.frames import FrameReader

HOT = b"7"


def read(*chunks):
    """Feed chunks; return what the hot subscription got and what was passed on to nats-py."""
    hot, cold = [], []
    reader = FrameReader(cold.append)
    reader.callbacks[HOT] = lambda *message: hot.append(message)
    for chunk in chunks:
        reader.feed(chunk)
    return hot, b"".join(cold), reader


STREAM = (
    b'INFO {"server_id":"x"}\r\n'
    b"MSG a.b 7 5\r\nhello\r\n"
    b"PING\r\n"
    b"HMSG a.b 7 reply.to 20 22\r\nNATS/1.0\r\na: bcd\r\n\r\nhi\r\n"
    b"MSG cold 9 3\r\nold\r\n"
    b"HMSG a.b 7 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    b"MSG a.b 7 r 0\r\n\r\n"
    b"MSG a.b 7 6\r\nMSG \r\n\r\n"
    b"PONG\r\n"
)
HOT_MESSAGES = [
    (b"a.b", b"", b"", b"hello"),
    (b"a.b", b"reply.to", b"NATS/1.0\r\na: bcd\r\n\r\n", b"hi"),
    (b"a.b", b"", b"NATS/1.0 503\r\n\r\n", b""),
    (b"a.b", b"r", b"", b""),
    (b"a.b", b"", b"", b"MSG \r\n"),
]
COLD_BYTES = b'INFO {"server_id":"x"}\r\nPING\r\nMSG cold 9 3\r\nold\r\nPONG\r\n'


def test_the_hot_messages_are_taken_out_and_the_rest_passes():
    hot, cold, reader = read(STREAM)
    assert hot == HOT_MESSAGES
    assert cold == COLD_BYTES
    assert reader.in_msgs == 6


def test_every_cut_of_the_stream_reads_alike():
    for first in range(len(STREAM)):
        hot, cold, _ = read(STREAM[:first], STREAM[first:])
        assert (hot, cold) == (HOT_MESSAGES, COLD_BYTES), first


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_any_number_of_cuts_reads_alike(places):
    cuts = [0, *sorted(places), len(STREAM)]
    hot, cold, _ = read(*(STREAM[a:b] for a, b in itertools.pairwise(cuts)))
    assert (hot, cold) == (HOT_MESSAGES, COLD_BYTES)


@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans()), max_size=10), st.integers(1, 50))
def test_payloads_of_any_bytes_come_through(messages, step):
    stream = b"".join(b"MSG s %b %d\r\n%b\r\n" % (HOT if hot else b"8", len(p), p) for p, hot in messages)
    hot, cold, _ = read(*(stream[i : i + step] for i in range(0, len(stream), step)))
    assert [payload for *_, payload in hot] == [p for p, is_hot in messages if is_hot]
    assert cold == b"".join(b"MSG s 8 %d\r\n%b\r\n" % (len(p), p) for p, is_hot in messages if not is_hot)


def test_a_large_payload_in_many_pieces():
    body = bytes(range(256)) * 4000
    stream = b"MSG s 7 %d\r\n%b\r\nPING\r\n" % (len(body), body)
    hot, cold, _ = read(*(stream[i : i + 65536] for i in range(0, len(stream), 65536)))
    assert hot == [(b"s", b"", b"", body)]
    assert cold == b"PING\r\n"


@pytest.mark.parametrize(
    "frame",
    [
        b"MSG a\x0bb 8 1\r\nx\r\n",  # white space to nats-py's regular expression
        b"MSG a\x0cb 8 1\r\nx\r\n",
        b"MSG \xff\xfe 8 1\r\nx\r\n",
        b"MSG a 8 \xff 1\r\nx\r\n",
        b"HMSG a 8 8 8\r\nNATS/1.0\r\n",
        b"HMSG a 8 4 4\r\nHTTP\r\n",
        b"HMSG a 8 14 14\r\nNATS/1.0 \xff\xff\xff\r\n\r\n",
    ],
)
def test_frames_that_kill_nats_py_are_dropped(frame):
    hot, cold, reader = read(frame + b"PING\r\n")
    assert cold == b"PING\r\n"
    assert reader.dropped == 1
    assert hot == []


def test_a_failing_callback_does_not_stop_the_stream(caplog):
    seen = []

    def fail(subject, reply, block, payload):
        seen.append(payload)
        raise RuntimeError("boom")

    reader = FrameReader(seen.append)
    reader.callbacks[HOT] = fail
    reader.feed(b"MSG s 7 1\r\na\r\nMSG s 7 1\r\nb\r\nPING\r\n")
    assert seen == [b"a", b"b", b"PING\r\n"]
    assert "a subscription callback failed" in caplog.text


def test_a_new_connection_starts_afresh():
    hot, cold = [], []
    reader = FrameReader(cold.append)
    reader.callbacks[HOT] = lambda *message: hot.append(message)
    reader.feed(b"MSG s 7 100\r\npartial")
    reader.reset()
    reader.feed(b"MSG s 7 2\r\nok\r\n")
    assert hot == [(b"s", b"", b"", b"ok")]


def test_an_endless_line_is_handed_over_instead_of_kept():
    _, cold, reader = read(b"x" * 2_000_000)
    assert len(cold) == 2_000_000
    assert reader._rest == b""
