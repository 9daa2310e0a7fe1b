"""One end of a stream by itself, without a bus: its states, its listener and its callbacks."""

import asyncio

import pytest

from mesh.errors import StreamBroken
from mesh.streams import Stream, StreamState, frames


class Recorder:
    """In place of `Streams`: keeps what is sent."""

    largest_payload = 1024 * 1024

    def __init__(self):
        self.sent, self.removed = [], []

    def send(self, stream, block, payload):
        self.sent.append(frames.read(block, payload))

    async def writable(self):
        pass

    def remove(self, stream):
        self.removed.append(stream)

    def fail_process(self, stream):
        stream.fail(StreamBroken("gone"))


def make(multiplexer, state=StreamState.OPEN, peer_subject=b"peer"):
    return Stream(
        multiplexer,
        own_subject=b"own",
        peer_subject=peer_subject,
        credit=1000,
        granted=1000,
        window=1000,
        state=state,
    )


def deliver(stream, number, kind):
    stream.deliver(frames.block(number, kind), b"" if kind == frames.END else b"x")


async def test_a_stream_goes_through_its_states():
    stream = make(recorder := Recorder())
    assert stream.state is StreamState.OPEN
    deliver(stream, 1, frames.DATA)
    deliver(stream, 2, frames.END)
    assert stream.state is StreamState.WRITE_ONLY
    assert not stream.is_readable
    assert (await stream.read()).payload == b"x"  # what came before the end is still there
    assert await stream.read() is None
    stream.end()
    assert stream.state is StreamState.ENDED
    assert recorder.removed == [stream]
    stream.close()
    assert recorder.sent[-1].kind == frames.END, "what has ended is not aborted"


@pytest.mark.parametrize(
    ("state", "end", "then"),
    [
        (StreamState.OPEN, "end", StreamState.READ_ONLY),
        (StreamState.OPEN, "end_reading", StreamState.WRITE_ONLY),
        (StreamState.READ_ONLY, "end", StreamState.READ_ONLY),
        (StreamState.READ_ONLY, "end_reading", StreamState.ENDED),
        (StreamState.WRITE_ONLY, "end", StreamState.ENDED),
        (StreamState.WRITE_ONLY, "end_reading", StreamState.WRITE_ONLY),
        (StreamState.OPEN, "close", StreamState.BROKEN),
        (StreamState.READ_ONLY, "close", StreamState.BROKEN),
    ],
)
async def test_each_step_has_one_outcome(state, end, then):
    stream = make(recorder := Recorder(), state)
    getattr(stream, end)()
    assert stream.state is then
    assert (recorder.removed == [stream]) is (then in (StreamState.ENDED, StreamState.BROKEN))


async def test_a_last_frame_that_cannot_be_sent_does_not_break_what_had_ended():
    recorder = Recorder()
    recorder.send = lambda stream, block, payload: stream.fail(StreamBroken("NATS is gone"))
    stream = make(recorder, StreamState.WRITE_ONLY)
    stream.end()
    assert stream.state is StreamState.ENDED


async def test_a_stream_has_one_listener():
    stream = make(Recorder())
    first, second = [], []
    stream.listen(broken=first.append)
    with pytest.raises(RuntimeError, match="has a listener already"):
        stream.listen(broken=second.append)
    stream.fail(StreamBroken("enough"))
    assert [str(error) for error in first] == ["enough"]
    assert second == []


async def test_another_may_listen_when_the_first_has_stopped_and_closing_tells_nobody():
    stream = make(Recorder())
    first, second = [], []
    stream.listen(broken=first.append)
    stream.stop_listening()
    stream.listen(broken=second.append)
    stream.close()
    assert first == second == []


async def test_what_is_no_frame_goes_to_the_listener_only():
    stream = make(Recorder(), peer_subject=b"")
    block, got = b"NATS/1.0\r\nMesh-Status: 200\r\n\r\n", []
    stream.deliver(block, b"early")
    stream.listen(broken=lambda error: None, message=lambda *message: got.append(message))
    stream.deliver(block, b"a reply")
    stream.deliver(b"NATS/1.0 503\r\n\r\n", b"")
    stream.connect(b"peer", 10)
    stream.deliver(b"NATS/1.0 503\r\n\r\n", b"")  # of a peer that had been there: no message
    assert [payload for _, payload in got] == [b"a reply", b""]
    assert stream.state is StreamState.BROKEN


async def test_callbacks_add_up_and_are_called_once_even_by_one_that_is_late():
    stream = make(Recorder())
    called = []
    stream.add_done_callback(lambda: called.append(1))
    stream.add_done_callback(lambda: called.append(2))
    assert called == []
    stream.fail(StreamBroken("enough"))
    stream.close()
    assert called == [1, 2]
    stream.add_done_callback(lambda: called.append(3))
    assert called == [1, 2, 3]


async def test_a_credit_wakes_the_writer_and_what_is_read_after_the_last_frame_earns_none():
    stream = make(recorder := Recorder())
    writing = asyncio.ensure_future(stream.write(bytes(1000) + b"x"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not writing.done()
    assert stream.is_out_of_credit
    stream.deliver(frames.credit_block(5000), b"")
    await writing
    assert sum(len(frame.payload) for frame in recorder.sent) == 1001
    deliver(stream, 1, frames.DATA)
    deliver(stream, 2, frames.DATA)
    deliver(stream, 3, frames.END)
    while await stream.read() is not None:
        pass
    assert all(frame.kind == frames.DATA for frame in recorder.sent)
