"""Credit and frames: pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.defaults import CHUNK, FIRST_CREDIT, LARGEST_CHUNK, WINDOW
from mesh.streams import frames
from mesh.streams.flow_control import (
    POOL,
    SMALLEST_WINDOW,
    Inflow,
    Outflow,
    ProtocolViolation,
    WindowPool,
    cost,
)
from mesh.streams.frames import Frame


@given(st.integers(1, 10**18 - 1), st.sampled_from(sorted(frames.KINDS)), st.binary(max_size=20))
def test_frames_survive(number, kind, payload):
    assert frames.read(frames.block(number, kind), payload) == Frame(number, kind, payload)
    assert frames.read(frames.credit_block(number), b"") == Frame(number, frames.CREDIT, b"")


@pytest.mark.parametrize(
    "text",
    [b"", b"7", b"data", b"x data", b"7 dat", b"-1 data", b"7 data +", b"credit", b"credit x", b"9" * 19 + b" data"],
)
def test_what_is_no_frame(text):
    assert frames.read(b"NATS/1.0\r\nMesh-Frame: %b\r\n\r\n" % text, b"") is None


def test_other_clients_write_other_blocks():
    assert frames.read(b"NATS/1.0\r\nx: y\r\nmesh-frame:  7 data \r\n\r\n", b"a") == Frame(7, b"data", b"a")
    assert frames.read(b"NATS/1.0 503\r\n\r\n", b"").kind == frames.GONE
    assert frames.read(b"NATS/1.0\r\nMesh-Status: 200\r\n\r\n", b"x") is None


@given(st.binary(max_size=200))
def test_reading_never_raises(block):
    frames.read(block, b"")
    frames.read(b"NATS/1.0\r\nMesh-Frame: " + block, b"")


@pytest.mark.parametrize("numbers", [[2], [1, 1], [1, 3], [1, 2, 2], [0]])
def test_a_frame_that_is_missing_or_comes_twice_breaks_the_stream(numbers):
    inflow = Inflow(WINDOW, WINDOW)
    *first, last = numbers
    for number in first:
        inflow.accept(number, 1)
    with pytest.raises(ProtocolViolation, match="was due"):
        inflow.accept(last, 1)


def test_more_than_was_granted_breaks_the_stream():
    inflow = Inflow(SMALLEST_WINDOW, SMALLEST_WINDOW)
    inflow.accept(1, SMALLEST_WINDOW)
    with pytest.raises(ProtocolViolation, match="were granted"):
        inflow.accept(2, 0)
    with pytest.raises(ProtocolViolation, match="are allowed"):
        Inflow(WINDOW, WINDOW).accept(1, LARGEST_CHUNK + 1)


@given(
    st.integers(SMALLEST_WINDOW, WINDOW),
    st.lists(st.integers(0, 3 * CHUNK), min_size=1, max_size=40),
    st.lists(st.booleans(), max_size=200),
)
def test_everything_arrives_in_order_and_nobody_holds_more_than_the_window(window, writes, reads_first):
    """A writer and a reader taking turns as chance has it: no deadlock, no overrun, no byte lost."""
    out, inflow = Outflow(FIRST_CREDIT), Inflow(window, FIRST_CREDIT)
    turns = iter(reads_first)
    left, waiting, sent, taken = list(writes), [], 0, 0
    while left or waiting:
        size = out.sendable(left[0]) if left else -1
        if size >= 0 and (not waiting or not next(turns, False)):
            inflow.accept(out.spend(size), size)
            waiting.append(size)
            sent += size
            left[0] -= size
            if not left[0]:
                left.pop(0)
        else:
            assert waiting, "neither may go on"
            size = waiting.pop(0)
            taken += size
            if inflow.consume(size):
                out.grant(inflow.granted)
        assert sum(map(cost, waiting)) <= max(window, FIRST_CREDIT)
    assert sent == taken == sum(writes)


def test_a_large_write_does_not_go_in_crumbs():
    out = Outflow(SMALLEST_WINDOW)
    out.spend(SMALLEST_WINDOW - 300)
    assert out.sendable(CHUNK) == -1
    assert out.sendable(100) == 100


def test_credits_are_totals():
    out = Outflow(100)
    assert out.grant(500)
    assert not out.grant(500)
    assert not out.grant(200)
    assert out.credit == 500


def test_many_streams_share_a_connection():
    pool = WindowPool()
    windows = [pool.take() for _ in range(5000)]
    assert windows[0] == WINDOW
    assert windows[-1] == SMALLEST_WINDOW
    assert sum(windows) <= POOL + 5000 * SMALLEST_WINDOW
    for window in windows:
        pool.give_back(window)
    assert pool.take() == WINDOW
